// Blocks of threads while they run.
#pragma once
#include <memory>
#include <vector>

#include "execute.h"

namespace emulator {

const uint32_t MOST_THREADS = 1024, LANES = 32;
const uint64_t MARK = 0x5374616b456e6421;

// A small generator (splitmix64).
struct Random {
    uint64_t state;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
};

enum class State : uint8_t { RUNS, AT_BARRIER, MEETS, IN_CLUSTER, BEFORE_WAIT, ENDED };

struct Block;
struct Warp;

// An asynchronous copy to shared memory: done when it is waited for.
struct Copy {
    void* to;
    const void* from;
    uint32_t bytes, group;
    bool there;
};

// A thread and its stack.
struct Fiber : Thread {
    void* stack = nullptr;  // where it goes on
    Block* home = nullptr;
    Warp* warp = nullptr;
    State state = State::RUNS;
    bool waited = false;          // for the kernel in front
    bool arrived = false;         // at the cluster's barrier, and has not waited since
    uint32_t phase = 0;           // of the cluster's barrier that it arrived in
    uint32_t group = 0;           // of copies that is open
    std::vector<Copy> copies;
};

struct Warp {
    Fiber* fibers = nullptr;
    uint32_t lanes = 0, runnable = 0, meeting = 0;
    uint32_t turn = 0;  // the lane that is asked first
    uint32_t masks[LANES];
    Collective collectives[LANES];
    void* data[LANES];
};

// Stacks and dynamic shared memory of a block, kept for the next one.
class Area {
  public:
    Area();
    ~Area();
    Area(const Area&) = delete;

    uint8_t* stack_top(uint32_t thread) const;
    // Whether `address` is in a page below the stacks of a warp.
    bool is_below_stacks(uintptr_t address) const;
    // What stands at the end of a thread's stack, `MARK` while nothing was written beyond.
    uint64_t& mark(uint32_t thread) const;
    // `bytes` that end where no memory is, full of 0xff.
    uint8_t* dynamic_shared(uint32_t bytes);

    Fiber fibers[MOST_THREADS];
    Warp warps[MOST_THREADS / LANES];

  private:
    uint8_t *stacks_, *shared_;
};

struct Cluster;

struct Block {
    Cluster* cluster = nullptr;
    std::unique_ptr<Area> area;
    uint32_t rank = 0, threads = 0, left = 0, at_barrier = 0, warps = 0, warp = 0;
    uint32_t runnable_warps = 0;
    bool begun = false;
    uint8_t* dynamic_shared = nullptr;
    std::vector<uint8_t> saved;  // its static shared memory while another block has the place
};

struct Cluster {
    const Launch* launch;
    uint64_t number;  // among the launch's clusters
    Random random;
    bool before_wait = false;  // the kernel in front has not run yet
    bool asks_for_next = false;
    std::vector<Block> blocks;
    uint32_t phase = 0, arrived = 0, expected = 0, left_after_arrival = 0;

    Cluster(const Launch& launch, uint64_t number, uint64_t seed, bool before_wait);
    ~Cluster();

    // Runs until everything has ended or, before the wait, nothing else is left to do.
    Outcome run();
    bool ended() const;
    void wake(Fiber& fiber);
    void open_barrier_if_complete();
    void* in_other_block(Fiber& fiber, void* place, uint32_t rank);

  private:
    void enter(Block& block);
    Outcome stuck() const;
};

extern const Device DEVICE_FUNCTIONS;

// What this thread of the processor runs.
struct Execution {
    Cluster* cluster = nullptr;
    Block* resident = nullptr;  // whose static shared memory is in place
    Fiber* current = nullptr;
    void* scheduler = nullptr;  // the stack of `Cluster::run`
    Outcome failure;
    int signal = 0;
    uintptr_t address = 0;
};
extern thread_local Execution* execution __attribute__((tls_model("initial-exec")));

// A bit of `set`, which is not empty: the first from `by` on.
inline uint32_t choose(uint32_t set, uint32_t by) {
    by &= 31;
    const uint32_t turned = set >> by | set << (-by & 31);
    return (static_cast<uint32_t>(__builtin_ctz(turned)) + by) & 31;
}

// A warp of `block` whose turn it is, and in another order than before. `block` has one that can run.
Fiber* pick_warp(Block& block);

// The next thread of `block` to run, or null: one of the same warp while there is one.
inline Fiber* pick(Block& block) {
    Warp& warp = block.area->warps[block.warp];
    if (warp.runnable != 0) return warp.fibers + choose(warp.runnable, warp.turn);
    return block.runnable_warps != 0 ? pick_warp(block) : nullptr;
}

// `what`, with the kernel, the block and the thread.
std::string describe(const Fiber& fiber, const std::string& what);

}  // namespace emulator
