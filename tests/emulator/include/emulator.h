// What a compiled kernel and the emulated device know of each other. A kernel's module exports `emulated_module`; its threads
// find everything else through the register that holds their `Thread`.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

struct Dim3 {
    uint32_t x, y, z;
};

struct Thread;

// What a collective of a warp does once all its lanes are there: `data[lane]` is what a lane of `mask` brought.
using Collective = void (*)(Thread& thread, uint32_t mask, void* const* data);

// What a thread asks of the device.
struct Device {
    // __syncthreads.
    void (*block_barrier)(Thread&);
    // Returns when every lane of `mask` has come with the same `collective`, and it was done.
    void (*meet)(Thread&, uint32_t mask, Collective collective, void* data);
    void (*arrive_at_cluster)(Thread&);
    void (*wait_for_cluster)(Thread&);
    // Where the shared memory at `place` of this block is in block `rank` of the cluster.
    void* (*in_cluster)(Thread&, void* place, uint32_t rank);
    void (*wait_for_previous_kernel)(Thread&);
    void (*start_next_kernel)(Thread&);
    void (*start_next_kernel_early)(Thread&);
    void (*start_copy)(Thread&, void* to, const void* from, uint32_t bytes, bool there);
    void (*end_copy_group)(Thread&);
    void (*wait_for_copies_but)(Thread&, uint32_t groups);
    // Ends the kernel with an error.
    [[noreturn]] void (*fail)(Thread&, int code, const char* what);
};

// Errors that a kernel can end with: codes of CUresult.
const int ILLEGAL_ADDRESS = 700, ILLEGAL_INSTRUCTION = 715, MISALIGNED_ADDRESS = 716, ASSERT = 710, LAUNCH_FAILED = 719;

struct Thread {
    Dim3 thread, block, block_dim, grid_dim;
    uint8_t* dynamic_shared;
    const Device* device;
    uint32_t lane;  // in its warp
};

struct KernelInfo {
    const char* name;
    // Runs one thread with the arguments.
    void (*run)(Thread* thread, void* const* arguments);
    // Bytes of each argument.
    const uint32_t* arguments;
    uint32_t argument_count;
    uint32_t max_threads;  // of a block; 0: any
    Dim3 cluster;          // blocks; x = 0: no clusters
};

// `VERSION` changes with everything above.
const uint32_t VERSION = 1;

struct ModuleInfo {
    uint32_t version;
    uint32_t architecture;  // such as 90
    const KernelInfo* kernels;
    uint32_t kernel_count;
    // An address in this thread's copy of the module's shared memory, all of its thread-local data.
    void* (*shared_anchor)();
};

}  // namespace emulator
