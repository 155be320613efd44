// Runs a kernel: each thread is a fiber, the blocks of a cluster take turns on the processor's thread that runs the launch.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "emulator.h"

namespace emulator {

// A module's shared memory is the thread-local data of its shared object: `bytes` from `before` below the anchor.
struct SharedMemory {
    void* (*anchor)() = nullptr;
    size_t before = 0, bytes = 0;
    uint8_t* here() const { return static_cast<uint8_t*>(anchor()) - before; }
};

// A launch, with a copy of its arguments.
struct Launch {
    const KernelInfo* kernel;
    SharedMemory shared;
    Dim3 grid, block, cluster;
    uint32_t dynamic_shared;
    bool early;  // may begin before the kernel in front has ended
    std::vector<std::vector<uint64_t>> arguments;
};

// How it ended: a code of CUresult, 0 for success.
struct Outcome {
    int code = 0;
    std::string what;
};

// The part of one cluster of `launch` before its wait for the kernel in front, to be gone on with by `run`. Null where the
// launch does not wait.
class Begun;
struct EndBegun {
    void operator()(Begun*) const;
};
using BegunPtr = std::unique_ptr<Begun, EndBegun>;

// Runs the beginning of one cluster of an early launch, up to its wait for the kernel in front.
BegunPtr begin(const Launch& launch, uint64_t seed);

// Runs `launch`, whose beginning `begun` may be, in an order of blocks, warps and lanes that `seed` decides.
// `asks_for_next` is set where some thread asked for the next kernel to begin.
Outcome run(const Launch& launch, uint64_t seed, BegunPtr begun, bool& asks_for_next);

// Takes the signals of faults in kernels; others go to who had them before.
void take_faults();

}  // namespace emulator
