// The emulated devices and the primary context on each: what the driver's functions work on.
#pragma once
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "execute.h"

namespace emulator {

// Codes of CUresult that do not come from kernels.
enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    CONTEXT_IS_DESTROYED = 709,
    NOT_SUPPORTED = 801,
    LAUNCH_OUT_OF_RESOURCES = 701,
};

// What the environment says of the device.
struct Settings {
    uint64_t memory, seed;
    uint32_t multiprocessors, shared_memory, major, minor;
    static const Settings& get();
};

// The code that QM_EMULATOR_FAIL asks this call of `function` to fail with, or 0.
int injected_failure(const char* function);

// Memory of the device, or of the host and known to the device: mapped pages between pages that nobody may touch.
class Memory {
  public:
    // `bytes` that end where the pages end, but for an alignment of 256. Null where the host has no more.
    uint8_t* take(uint64_t bytes);
    // Whether `start` was taken; what it had is returned in `bytes`.
    bool give_back(void* start, uint64_t& bytes);
    bool holds(const void* start, uint64_t bytes) const;
    void give_all_back();
    size_t count() const { return parts_.size(); }

  private:
    struct Part {
        uint64_t bytes;
        void* mapping;
        size_t mapped;
    };
    std::map<uintptr_t, Part> parts_;
};

// A loaded shared object of kernels.
struct Library {
    const ModuleInfo* info;
    SharedMemory shared;
    uint32_t static_shared;  // of each kernel
};
// The library whose bytes are at `image`: loaded once in a process. Returns a code.
int load_library(const void* image, const Library*& library);

struct Function {
    const Library* library;
    const KernelInfo* kernel;
    uint32_t dynamic_limit;
};

struct Module {
    const Library* library;
    std::vector<std::unique_ptr<Function>> functions;
};

class Stream;

// A place in a queue.
struct Event {
    std::weak_ptr<Stream> stream;
    uint64_t queued = 0;

    // Does what is in front of it.
    int wait() const;
};

// Something queued.
struct Work {
    enum Kind { LAUNCH, COPY, FILL, WAIT } kind = COPY;
    std::shared_ptr<const Launch> launch;
    bool early = false;
    uint8_t* to = nullptr;
    const uint8_t* from = nullptr;
    uint64_t bytes = 0;
    uint8_t value = 0;
    Event place;  // of WAIT: what is in front of it, in another queue, is done first
    std::shared_ptr<const std::vector<uint8_t>> staged;  // what `from` was, where the caller may change it
};

struct Graph {
    std::vector<Work> work;
    size_t chained = 0;  // works that are put behind the one before
};

// A queue of work, which is done as late as it may be, or now and then at once.
class Stream {
  public:
    explicit Stream(uint64_t number) : random_state_(number) {}
    // Queues.
    int add(Work work);
    int add(const Graph& graph);
    // Does everything that is queued.
    int wait();
    // How much was queued so far; and does that much, and no more.
    uint64_t queued();
    int wait_for(uint64_t queued);

  private:
    int drain(uint64_t queued = UINT64_MAX);
    uint64_t random();

    std::recursive_mutex lock_;
    std::deque<Work> queue_;
    uint64_t queued_ = 0, done_ = 0;
    BegunPtr begun_;
    uint64_t random_state_;
};

// Devices of the machine.
const int DEVICES = 2;

// A device, with its one context.
struct State {
    int number = 0;
    std::mutex lock;
    bool initialized = false;
    uint64_t held = 0, used = 0, streams_made = 0;
    std::atomic<int> error = 0;  // stays until the context is destroyed
    Memory memory, pinned;
    std::map<void*, std::shared_ptr<Stream>> streams;
    std::map<void*, std::shared_ptr<Event>> events;
    std::map<void*, std::unique_ptr<Module>> modules;
    std::map<void*, std::shared_ptr<Graph>> graphs, executables;
    std::shared_ptr<Stream> default_stream;

    static State& of(int device);
    // Of the device whose context is current on this thread, else of the first one.
    static State& get();
    // Does all work of all streams.
    int wait_for_all();
    void destroy_context();
    // Notes an error that stays, and says so.
    int fail(const Outcome& outcome);
};

}  // namespace emulator
