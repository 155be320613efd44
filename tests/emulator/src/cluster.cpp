// Blocks of a cluster, or a block alone: their threads take turns.
#include <signal.h>

#include <cstdio>
#include <cstring>

#include "block.h"
#include "fiber.h"

namespace emulator {

thread_local Execution* execution __attribute__((tls_model("initial-exec"))) = nullptr;

// Areas that this thread of the processor has used before.
static thread_local std::vector<std::unique_ptr<Area>> areas;

static const char TOO_DEEP[] = "more local memory than a thread's stack has here";

static void run_thread(void* thread, void* arguments) {
    const Fiber& fiber = *static_cast<Fiber*>(thread);
    fiber.home->cluster->launch->kernel->run(static_cast<Thread*>(static_cast<Fiber*>(thread)),
                                             static_cast<void* const*>(arguments));
}

static void end_thread(void* thread) {
    Fiber& fiber = *static_cast<Fiber*>(thread);
    Block& block = *fiber.home;
    Cluster& cluster = *block.cluster;
    Warp& warp = *fiber.warp;
    const uint32_t bit = 1u << fiber.lane;
    uint64_t& mark = block.area->mark(static_cast<uint32_t>(&fiber - block.area->fibers));
    if (mark != MARK) {
        mark = MARK;
        execution->failure = {LAUNCH_FAILED, describe(fiber, TOO_DEEP)};
        emulator_leave(execution->scheduler);
    }
    fiber.state = State::ENDED;
    warp.lanes &= ~bit, warp.runnable &= ~bit;
    if (warp.runnable == 0) block.runnable_warps &= ~(1u << (&warp - block.area->warps));
    --block.left;
    if (fiber.arrived && fiber.phase == cluster.phase) {
        ++cluster.left_after_arrival;
    } else {
        --cluster.expected;
        cluster.open_barrier_if_complete();
    }
    Fiber* next = pick(block);
    execution->current = next;
    emulator_leave(next != nullptr ? next->stack : execution->scheduler);
}

Cluster::Cluster(const Launch& l, uint64_t which, uint64_t seed, bool before) :
    launch(&l), number(which), random{seed * 0x2545f4914f6cdd1d + which}, before_wait(before) {
    const Dim3 size = l.cluster, grid = l.grid;
    const uint64_t across = grid.x / size.x, down = grid.y / size.y;
    const Dim3 first = {static_cast<uint32_t>(which % across) * size.x,
                        static_cast<uint32_t>(which / across % down) * size.y,
                        static_cast<uint32_t>(which / across / down) * size.z};
    blocks.resize(size.x * size.y * size.z);
    static thread_local std::vector<void*> arguments;
    arguments.clear();
    for (const auto& argument : l.arguments) arguments.push_back(const_cast<uint64_t*>(argument.data()));
    for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
        Block& block = blocks[rank];
        block.cluster = this;
        block.rank = rank;
        if (areas.empty()) areas.push_back(std::make_unique<Area>());
        block.area = std::move(areas.back());
        areas.pop_back();
        block.threads = block.left = l.block.x * l.block.y * l.block.z;
        block.warps = (block.threads + LANES - 1) / LANES;
        block.dynamic_shared = block.area->dynamic_shared(l.dynamic_shared);
        block.saved.assign(l.shared.bytes, 0xff);
        block.runnable_warps = block.warps == 32 ? 0xffffffff : (1u << block.warps) - 1;
        const Dim3 index = {first.x + rank % size.x, first.y + rank / size.x % size.y, first.z + rank / size.x / size.y};
        for (uint32_t w = 0; w < block.warps; ++w) {
            Warp& warp = block.area->warps[w];
            const uint32_t lanes = block.threads - w * LANES;
            warp.fibers = block.area->fibers + w * LANES;
            warp.lanes = warp.runnable = lanes >= LANES ? 0xffffffff : (1u << lanes) - 1;
            warp.meeting = warp.turn = 0;
        }
        for (uint32_t t = 0; t < block.threads; ++t) {
            Fiber& fiber = block.area->fibers[t];
            fiber.thread = {t % l.block.x, t / l.block.x % l.block.y, t / l.block.x / l.block.y};
            fiber.block = index, fiber.block_dim = l.block, fiber.grid_dim = grid;
            fiber.dynamic_shared = block.dynamic_shared;
            fiber.device = &DEVICE_FUNCTIONS;
            fiber.lane = t % LANES;
            fiber.home = &block;
            fiber.warp = block.area->warps + t / LANES;
            fiber.state = State::RUNS;
            fiber.waited = fiber.arrived = false;
            fiber.phase = fiber.group = 0;
            fiber.copies.clear();
            fiber.stack = new_fiber(block.area->stack_top(t), run_thread, &fiber,
                                    const_cast<void**>(arguments.data()), end_thread);
        }
        expected += block.threads;
    }
}

Cluster::~Cluster() {
    for (Block& block : blocks) areas.push_back(std::move(block.area));
}

bool Cluster::ended() const {
    for (const Block& block : blocks) {
        if (block.left > 0) return false;
    }
    return true;
}

void Cluster::wake(Fiber& fiber) {
    fiber.state = State::RUNS;
    fiber.warp->runnable |= 1u << fiber.lane;
    fiber.home->runnable_warps |= 1u << (fiber.warp - fiber.home->area->warps);
}

Fiber* pick_warp(Block& block) {
    const uint64_t random = block.cluster->random.next();
    block.warp = choose(block.runnable_warps, static_cast<uint32_t>(random));
    Warp& warp = block.area->warps[block.warp];
    warp.turn = static_cast<uint32_t>(random >> 8);
    return warp.fibers + choose(warp.runnable, warp.turn);
}

// Puts the static shared memory of `block` where its code looks for it.
void Cluster::enter(Block& block) {
    Block*& resident = execution->resident;
    const SharedMemory& shared = launch->shared;
    if (resident != &block) {
        uint8_t* here = shared.here();
        if (resident != nullptr) memcpy(resident->saved.data(), here, shared.bytes);
        memcpy(here, block.saved.data(), shared.bytes);
        resident = &block;
    }
    block.begun = true;
}

// What the signal that ended a thread stands for.
static Outcome fault(const Execution& execution) {
    char text[100];
    int code = ILLEGAL_ADDRESS;
    if (execution.signal == SIGFPE) {
        code = LAUNCH_FAILED;
        snprintf(text, sizeof text, "an integer division by zero");
    } else if (execution.signal == SIGILL) {
        code = ILLEGAL_INSTRUCTION;
        snprintf(text, sizeof text, "an illegal instruction");
    } else if (execution.current->home->area->is_below_stacks(execution.address)) {
        code = LAUNCH_FAILED;
        snprintf(text, sizeof text, "%s", TOO_DEEP);
    } else {
        snprintf(text, sizeof text, "address %#zx, which is not its memory", static_cast<size_t>(execution.address));
    }
    return {code, describe(*execution.current, text)};
}

// A stack for the handler of faults: that of a thread may be what overflowed.
class SignalStack {
  public:
    SignalStack() {
        static thread_local std::vector<uint8_t> memory(64 * 1024);
        stack_t own = {};
        own.ss_sp = memory.data();
        own.ss_size = memory.size();
        sigaltstack(&own, &before_);
    }
    ~SignalStack() { sigaltstack(&before_, nullptr); }

  private:
    stack_t before_;
};

Outcome Cluster::run() {
    const SignalStack signal_stack;
    Execution own;
    own.cluster = this;
    execution = &own;
    while (true) {
        Block* chosen = nullptr;
        const size_t first = random.next() % blocks.size();
        for (size_t i = 0; i < blocks.size() && chosen == nullptr; ++i) {
            Block& block = blocks[(first + i) % blocks.size()];
            if (block.runnable_warps != 0) chosen = &block;
        }
        if (chosen == nullptr) break;
        enter(*chosen);
        own.current = pick(*chosen);
        emulator_switch(&own.scheduler, own.current->stack);
        if (own.signal != 0) own.failure = fault(own);
        own.current = nullptr;
        if (own.failure.code != 0) break;
    }
    if (own.failure.code == 0 && !ended() && !before_wait) own.failure = stuck();
    if (before_wait && own.resident != nullptr) {
        memcpy(own.resident->saved.data(), launch->shared.here(), launch->shared.bytes);
    }
    execution = nullptr;
    return own.failure;
}

Outcome Cluster::stuck() const {
    std::string text;
    const Fiber* example = nullptr;
    const std::pair<State, const char*> states[] = {{State::AT_BARRIER, "are at a barrier of the block"},
                                                    {State::MEETS, "wait for lanes of their warp"},
                                                    {State::IN_CLUSTER, "wait for the cluster"},
                                                    {State::ENDED, "have ended"}};
    for (const auto& [state, what] : states) {
        uint32_t count = 0;
        const Fiber* one = nullptr;
        for (const Block& block : blocks) {
            for (uint32_t t = 0; t < block.threads; ++t) {
                if (block.area->fibers[t].state != state) continue;
                if (count++ == 0) one = &block.area->fibers[t];
            }
        }
        if (count == 0) continue;
        if (example == nullptr) example = one;
        char line[100];
        snprintf(line, sizeof line, "%s%u threads such as %u,%u,%u %s", text.empty() ? "" : ", ", count, one->thread.x,
                 one->thread.y, one->thread.z, what);
        text += line;
    }
    return {LAUNCH_FAILED, describe(*example, "no thread can go on: " + text)};
}

std::string describe(const Fiber& fiber, const std::string& what) {
    char text[200];
    snprintf(text, sizeof text, "kernel %s, block %u,%u,%u, thread %u,%u,%u: ", fiber.home->cluster->launch->kernel->name,
             fiber.block.x, fiber.block.y, fiber.block.z, fiber.thread.x, fiber.thread.y, fiber.thread.z);
    return text + what;
}

void Cluster::open_barrier_if_complete() {
    if (arrived < expected || expected == 0) return;
    ++phase;
    expected -= left_after_arrival;
    arrived = left_after_arrival = 0;
    for (Block& block : blocks) {
        for (uint32_t t = 0; t < block.threads; ++t) {
            if (block.area->fibers[t].state == State::IN_CLUSTER) wake(block.area->fibers[t]);
        }
    }
}

void* Cluster::in_other_block(Fiber& fiber, void* place, uint32_t rank) {
    const auto fail = [&](const char* what) { DEVICE_FUNCTIONS.fail(fiber, ILLEGAL_ADDRESS, what); };
    if (rank >= blocks.size()) fail("a block that the cluster does not have");
    Block& other = blocks[rank];
    if (!other.begun) fail("shared memory of a block that may not have begun");
    if (other.left == 0) fail("shared memory of a block that may have ended");
    const auto offset_in = [&](const uint8_t* start) { return static_cast<size_t>(static_cast<uint8_t*>(place) - start); };
    uint8_t* here = launch->shared.here();
    if (offset_in(here) < launch->shared.bytes) {
        return (&other == execution->resident ? here : other.saved.data()) + offset_in(here);
    }
    const size_t offset = offset_in(fiber.home->dynamic_shared);
    if (offset >= launch->dynamic_shared) fail("no address of shared memory");
    return other.dynamic_shared + offset;
}

}  // namespace emulator
