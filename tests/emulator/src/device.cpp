// What a kernel's threads ask of the device: barriers, meetings of a warp, copies.
#include <cstring>

#include "block.h"
#include "fiber.h"

namespace emulator {

// Lets others run, until somebody wakes this thread.
static void go_on_elsewhere(Fiber& fiber) {
    Fiber* next = pick(*fiber.home);
    if (next == &fiber) return;
    execution->current = next;
    emulator_switch(&fiber.stack, next != nullptr ? next->stack : execution->scheduler);
}

static void sleep_as(Fiber& fiber, State state) {
    Block& block = *fiber.home;
    fiber.state = state;
    fiber.warp->runnable &= ~(1u << fiber.lane);
    if (fiber.warp->runnable == 0) block.runnable_warps &= ~(1u << (fiber.warp - block.area->warps));
    go_on_elsewhere(fiber);
}

[[noreturn]] static void fail(Thread& thread, int code, const char* what) {
    execution->failure = {code, describe(static_cast<Fiber&>(thread), what)};
    emulator_leave(execution->scheduler);
}

static void block_barrier(Thread& thread) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    Block& block = *fiber.home;
    if (++block.at_barrier < block.threads) return sleep_as(fiber, State::AT_BARRIER);
    block.at_barrier = 0;
    for (uint32_t w = 0; w < block.warps; ++w) {
        Warp& warp = block.area->warps[w];
        for (uint32_t lanes = warp.lanes; lanes != 0; lanes &= lanes - 1) {
            warp.fibers[__builtin_ctz(lanes)].state = State::RUNS;
        }
        warp.runnable = warp.lanes;
        block.runnable_warps |= 1u << w;
    }
    block.warp = choose(block.runnable_warps, static_cast<uint32_t>(block.cluster->random.next()));
    go_on_elsewhere(fiber);
}

static void meet(Thread& thread, uint32_t mask, Collective collective, void* data) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    Block& block = *fiber.home;
    Warp& warp = *fiber.warp;
    const uint32_t lane = fiber.lane, bit = 1u << lane;
    if (!(mask & bit)) fail(thread, LAUNCH_FAILED, "a collective of lanes without its own");
    if (mask & ~warp.lanes) fail(thread, LAUNCH_FAILED, "a collective of lanes that have ended or never were");
    warp.masks[lane] = mask;
    warp.collectives[lane] = collective;
    warp.data[lane] = data;
    warp.meeting |= bit;
    if ((warp.meeting & mask) != mask) return sleep_as(fiber, State::MEETS);
    for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) {
        const int other = __builtin_ctz(lanes);
        if (warp.masks[other] != mask || warp.collectives[other] != collective) {
            fail(thread, LAUNCH_FAILED, "lanes of a warp are in different collectives");
        }
    }
    if (collective != nullptr) collective(thread, mask, warp.data);
    warp.meeting &= ~mask;
    for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) warp.fibers[__builtin_ctz(lanes)].state = State::RUNS;
    warp.runnable |= mask;
    // Others go first now, and sometimes another warp.
    const uint64_t random = block.cluster->random.next();
    warp.turn = static_cast<uint32_t>(random);
    if (random >> 60 == 0) {
        block.warp = choose(block.runnable_warps, static_cast<uint32_t>(random >> 8));
        go_on_elsewhere(fiber);
    }
}

static void arrive_at_cluster(Thread& thread) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    Cluster& cluster = *fiber.home->cluster;
    if (fiber.arrived) fail(thread, LAUNCH_FAILED, "a thread arrives at the cluster's barrier again without a wait");
    fiber.arrived = true;
    fiber.phase = cluster.phase;
    ++cluster.arrived;
    cluster.open_barrier_if_complete();
}

static void wait_for_cluster(Thread& thread) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    if (!fiber.arrived) fail(thread, LAUNCH_FAILED, "a thread waits at the cluster's barrier and has not arrived");
    if (fiber.phase == fiber.home->cluster->phase) sleep_as(fiber, State::IN_CLUSTER);
    fiber.arrived = false;
}

static void* in_cluster(Thread& thread, void* place, uint32_t rank) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    return fiber.home->cluster->in_other_block(fiber, place, rank);
}

static void wait_for_previous_kernel(Thread& thread) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    fiber.waited = true;
    if (fiber.home->cluster->before_wait) sleep_as(fiber, State::BEFORE_WAIT);
}

static void start_next_kernel(Thread& thread) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    // The next one then counts on the kernel before the last one to have ended.
    if (!fiber.waited) fail(thread, LAUNCH_FAILED, "a thread asks for the next kernel before its own wait");
    fiber.home->cluster->asks_for_next = true;
}

static void start_next_kernel_early(Thread& thread) {
    static_cast<Fiber&>(thread).home->cluster->asks_for_next = true;
}

static void start_copy(Thread& thread, void* to, const void* from, uint32_t bytes, bool there) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    // Who reads too early, or is still reading, sees it.
    memset(to, 0xff, bytes);
    fiber.copies.push_back({to, from, bytes, fiber.group, there});
}

static void end_copy_group(Thread& thread) { ++static_cast<Fiber&>(thread).group; }

static void wait_for_copies_but(Thread& thread, uint32_t groups) {
    Fiber& fiber = static_cast<Fiber&>(thread);
    size_t done = 0;
    for (; done < fiber.copies.size() && fiber.copies[done].group + groups < fiber.group; ++done) {
        const Copy& copy = fiber.copies[done];
        if (copy.there) {
            memcpy(copy.to, copy.from, copy.bytes);
        } else {
            memset(copy.to, 0, copy.bytes);
        }
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

const Device DEVICE_FUNCTIONS = {block_barrier,     meet,       arrive_at_cluster, wait_for_cluster,
                                 in_cluster,        wait_for_previous_kernel,      start_next_kernel,
                                 start_next_kernel_early,
                                 start_copy,        end_copy_group, wait_for_copies_but, fail};

}  // namespace emulator
