// The driver's functions that this project calls. Types are those of cuda.h, in its binary form.
#include <cstdio>
#include <cstring>

#include "driver.h"

#define API extern "C" __attribute__((visibility("default"))) int

using namespace emulator;

// Contexts that are current on this thread, the last one on top. There is one, or none.
static thread_local std::vector<void*> current;

// The device whose context `handle` is, or null.
static State* device_of(void* handle) {
    for (int device = 0; device < DEVICES; ++device) {
        if (handle == &State::of(device)) return &State::of(device);
    }
    return nullptr;
}

State& emulator::State::get() {
    State* state = current.empty() ? nullptr : device_of(current.back());
    return state != nullptr ? *state : of(0);
}

// What a function finds wrong before its own work.
static int before(const char* function, bool in_context) {
    if (const int code = injected_failure(function)) return code;
    State& state = State::get();
    if (!State::of(0).initialized) return NOT_INITIALIZED;
    if (!in_context) return SUCCESS;
    if (current.empty() || current.back() == nullptr) return INVALID_CONTEXT;
    if (state.held == 0) return CONTEXT_IS_DESTROYED;
    return state.error;
}

#define BEFORE(in_context)                                                        \
    if (const int code_before = before(__func__, in_context)) return code_before; \
    State& state = State::get();                                             \
    (void)state
#define LOCK const std::lock_guard<std::mutex> guard(state.lock)

static std::shared_ptr<Stream> stream_of(void* handle) {
    State& state = State::get();
    LOCK;
    if (handle == nullptr) {
        if (state.default_stream == nullptr) state.default_stream = std::make_shared<Stream>(0);
        return state.default_stream;
    }
    const auto found = state.streams.find(handle);
    return found == state.streams.end() ? nullptr : found->second;
}

API cuInit(unsigned flags) {
    if (const int code = injected_failure(__func__)) return code;
    if (flags != 0) return INVALID_VALUE;
    State& state = State::of(0);
    LOCK;
    take_faults();
    state.initialized = true;
    return SUCCESS;
}

API cuDriverGetVersion(int* version) {
    if (const int code = injected_failure(__func__)) return code;
    *version = 13000;
    return SUCCESS;
}

API cuDeviceGetCount(int* count) {
    BEFORE(false);
    *count = DEVICES;
    return SUCCESS;
}

API cuDeviceGet(int* device, int ordinal) {
    BEFORE(false);
    if (ordinal < 0 || ordinal >= DEVICES) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

static bool is_device(int device) { return device >= 0 && device < DEVICES; }

API cuDeviceGetName(char* name, int len, int device) {
    BEFORE(false);
    if (!is_device(device)) return INVALID_DEVICE;
    snprintf(name, static_cast<size_t>(len), "emulated");
    return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t* bytes, int device) {
    BEFORE(false);
    if (!is_device(device)) return INVALID_DEVICE;
    *bytes = Settings::get().memory;
    return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int attribute, int device) {
    BEFORE(false);
    if (!is_device(device)) return INVALID_DEVICE;
    const Settings& settings = Settings::get();
    switch (attribute) {
        case 1: *value = 1024; break;          // threads of a block
        case 2: case 3: *value = 1024; break;  // in x and y
        case 4: *value = 64; break;            // in z
        case 5: *value = 0x7fffffff; break;    // blocks of a grid in x
        case 6: case 7: *value = 65535; break; // in y and z
        case 8: *value = 48 * 1024; break;     // shared memory of a block, unless asked for
        case 10: *value = 32; break;           // lanes of a warp
        case 12: *value = 65536; break;        // registers of a block
        case 16: *value = static_cast<int>(settings.multiprocessors); break;
        case 18: *value = 0; break;            // integrated
        case 38: *value = 50 << 20; break;     // second-level cache
        case 39: *value = 2048; break;         // threads of a multiprocessor
        case 75: *value = static_cast<int>(settings.major); break;
        case 76: *value = static_cast<int>(settings.minor); break;
        case 81: *value = static_cast<int>(settings.shared_memory + 1024); break;  // of a multiprocessor
        case 97: *value = static_cast<int>(settings.shared_memory); break;         // of a block, if asked for
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** handle, int device) {
    BEFORE(false);
    if (!is_device(device)) return INVALID_DEVICE;
    State& own = State::of(device);
    const std::lock_guard<std::mutex> guard(own.lock);
    ++own.held;
    *handle = &own;
    return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
    BEFORE(false);
    if (!is_device(device)) return INVALID_DEVICE;
    State& own = State::of(device);
    const std::lock_guard<std::mutex> guard(own.lock);
    if (own.held == 0) return INVALID_CONTEXT;
    if (--own.held == 0) own.destroy_context();
    return SUCCESS;
}

API cuCtxGetCurrent(void** handle) {
    BEFORE(false);
    *handle = current.empty() ? nullptr : current.back();
    return SUCCESS;
}

API cuCtxGetDevice(int* device) {
    BEFORE(true);
    *device = device_of(current.back())->number;
    return SUCCESS;
}

// A device has one context: a second one is another name for it.
API cuCtxCreate_v4(void** handle, void*, unsigned, int device) {
    if (const int code = cuDevicePrimaryCtxRetain(handle, device)) return code;
    current.push_back(*handle);
    return SUCCESS;
}

API cuCtxDestroy_v2(void* handle) {
    BEFORE(false);
    return device_of(handle) != nullptr ? cuDevicePrimaryCtxRelease_v2(device_of(handle)->number) : INVALID_CONTEXT;
}

API cuCtxSetCurrent(void* handle) {
    BEFORE(false);
    if (handle != nullptr && device_of(handle) == nullptr) return INVALID_CONTEXT;
    if (!current.empty()) current.pop_back();
    if (handle != nullptr) current.push_back(handle);
    return SUCCESS;
}

API cuCtxPushCurrent_v2(void* handle) {
    BEFORE(false);
    if (device_of(handle) == nullptr) return INVALID_CONTEXT;
    if (device_of(handle)->held == 0) return CONTEXT_IS_DESTROYED;
    current.push_back(handle);
    return SUCCESS;
}

API cuCtxPopCurrent_v2(void** handle) {
    BEFORE(false);
    if (current.empty()) return INVALID_CONTEXT;
    *handle = current.back();
    current.pop_back();
    return SUCCESS;
}

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    BEFORE(true);
    LOCK;
    *total = Settings::get().memory;
    *free = *total - state.used;
    return SUCCESS;
}

static uint64_t accounted(uint64_t bytes) { return (bytes + 511) / 512 * 512; }

API cuMemAlloc_v2(uint64_t* start, size_t bytes) {
    BEFORE(true);
    if (bytes == 0) return INVALID_VALUE;
    LOCK;
    if (bytes > Settings::get().memory || accounted(bytes) > Settings::get().memory - state.used) return OUT_OF_MEMORY;
    uint8_t* memory = state.memory.take(bytes);
    if (memory == nullptr) return OUT_OF_MEMORY;
    state.used += accounted(bytes);
    *start = reinterpret_cast<uint64_t>(memory);
    return SUCCESS;
}

API cuMemFree_v2(uint64_t start) {
    BEFORE(true);
    // As on a device, what is queued ends first.
    state.wait_for_all();
    LOCK;
    uint64_t bytes = 0;
    if (!state.memory.give_back(reinterpret_cast<void*>(start), bytes)) return INVALID_VALUE;
    state.used -= accounted(bytes);
    return state.error;
}

API cuMemHostAlloc(void** start, size_t bytes, unsigned) {
    BEFORE(true);
    if (bytes == 0) return INVALID_VALUE;
    LOCK;
    *start = state.pinned.take(bytes);
    return *start == nullptr ? OUT_OF_MEMORY : SUCCESS;
}

API cuMemFreeHost(void* start) {
    BEFORE(true);
    state.wait_for_all();
    LOCK;
    uint64_t bytes = 0;
    return state.pinned.give_back(start, bytes) ? static_cast<int>(state.error) : INVALID_VALUE;
}

static bool on_device(uint64_t start, size_t bytes) {
    State& state = State::get();
    LOCK;
    return state.memory.holds(reinterpret_cast<void*>(start), bytes);
}

static bool pinned(const void* start, size_t bytes) {
    State& state = State::get();
    LOCK;
    return state.pinned.holds(start, bytes);
}

static Work copy_of(void* to, const void* from, size_t bytes) {
    Work work;
    work.kind = Work::COPY;
    work.to = static_cast<uint8_t*>(to), work.bytes = bytes;
    work.from = static_cast<const uint8_t*>(from);
    return work;
}

API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* handle) {
    BEFORE(true);
    const auto stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    if (bytes == 0) return SUCCESS;
    if (!on_device(to, bytes)) return INVALID_VALUE;
    Work work = copy_of(reinterpret_cast<void*>(to), from, bytes);
    // The device reads pinned memory by itself and later, and other memory before the call returns.
    if (!pinned(from, bytes)) {
        work.staged = std::make_shared<const std::vector<uint8_t>>(work.from, work.from + bytes);
    }
    return stream->add(std::move(work));
}

API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* handle) {
    BEFORE(true);
    const auto stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    if (bytes == 0) return SUCCESS;
    if (!on_device(from, bytes)) return INVALID_VALUE;
    const int code = stream->add(copy_of(to, reinterpret_cast<const void*>(from), bytes));
    return code != SUCCESS || pinned(to, bytes) ? code : stream->wait();
}

API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* handle) {
    BEFORE(true);
    const auto stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    if (bytes == 0) return SUCCESS;
    if (!on_device(to, bytes)) return INVALID_VALUE;
    Work work;
    work.kind = Work::FILL;
    work.to = reinterpret_cast<uint8_t*>(to), work.bytes = bytes, work.value = value;
    return stream->add(std::move(work));
}

API cuModuleLoadData(void** handle, const void* image) {
    BEFORE(true);
    const Library* library = nullptr;
    if (const int code = load_library(image, library)) return code;
    auto module = std::make_unique<Module>();
    module->library = library;
    LOCK;
    *handle = module.get();
    state.modules[*handle] = std::move(module);
    return SUCCESS;
}

API cuModuleUnload(void* handle) {
    BEFORE(true);
    state.wait_for_all();
    LOCK;
    return state.modules.erase(handle) == 1 ? static_cast<int>(state.error) : INVALID_HANDLE;
}

API cuModuleGetFunction(void** function, void* handle, const char* name) {
    BEFORE(true);
    LOCK;
    const auto found = state.modules.find(handle);
    if (found == state.modules.end()) return INVALID_HANDLE;
    Module& module = *found->second;
    for (const auto& known : module.functions) {
        if (strcmp(known->kernel->name, name) == 0) return *function = known.get(), SUCCESS;
    }
    const ModuleInfo& info = *module.library->info;
    for (uint32_t i = 0; i < info.kernel_count; ++i) {
        if (strcmp(info.kernels[i].name, name) != 0) continue;
        const uint32_t fixed = module.library->static_shared, usual = 48 * 1024;
        module.functions.push_back(std::make_unique<Function>(
            Function{module.library, &info.kernels[i], usual - std::min(usual, fixed)}));
        *function = module.functions.back().get();
        return SUCCESS;
    }
    return NOT_FOUND;
}

API cuFuncLoad(void*) {
    BEFORE(true);
    return SUCCESS;
}

API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    BEFORE(true);
    const Function& function = *static_cast<Function*>(handle);
    const int architecture = static_cast<int>(function.library->info->architecture);
    switch (attribute) {
        case 0: *value = function.kernel->max_threads == 0 ? 1024 : static_cast<int>(function.kernel->max_threads); break;
        case 1: *value = static_cast<int>(function.library->static_shared); break;
        case 2: case 3: *value = 0; break;                // constant and local memory
        case 4: *value = 32; break;                       // registers
        case 5: case 6: *value = architecture; break;     // what it was compiled for
        case 7: *value = 0; break;                        // how it is cached
        case 8: *value = static_cast<int>(function.dynamic_limit); break;
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

API cuFuncSetAttribute(void* handle, int attribute, int value) {
    BEFORE(true);
    LOCK;
    Function& function = *static_cast<Function*>(handle);
    // How much of a multiprocessor's memory is shared memory changes nothing here.
    if (attribute == 9) return value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE;
    if (attribute != 8 || value < 0) return INVALID_VALUE;
    if (static_cast<uint32_t>(value) + function.library->static_shared > Settings::get().shared_memory) {
        return INVALID_VALUE;
    }
    function.dynamic_limit = static_cast<uint32_t>(value);
    return SUCCESS;
}

namespace {
union LaunchAttributeValue {
    int programmatic;
    struct {
        uint32_t x, y, z;
    } cluster;
    char bytes[64];
};
struct LaunchAttribute {
    int id;
    char padding[4];
    LaunchAttributeValue value;
};
struct LaunchConfig {
    uint32_t grid[3], block[3], shared;
    void* stream;
    LaunchAttribute* attributes;
    uint32_t attribute_count;
};
}  // namespace

static int refuse(int code, const KernelInfo& kernel, const char* why) {
    fprintf(stderr, "emulated device: launch of %s: %s\n", kernel.name, why);
    return code;
}

// Has the blocks of `launch` form such clusters.
static int form_clusters(Launch& launch, const Dim3& cluster) {
    const Dim3& grid = launch.grid;
    const uint64_t blocks = static_cast<uint64_t>(cluster.x) * cluster.y * cluster.z;
    if (Settings::get().major < 9 && blocks > 1) {
        return refuse(NOT_SUPPORTED, *launch.kernel, "devices before 9.0 have no clusters");
    }
    if (blocks == 0 || blocks > 8 || grid.x % cluster.x != 0 || grid.y % cluster.y != 0 || grid.z % cluster.z != 0) {
        return refuse(INVALID_VALUE, *launch.kernel, "a grid that is no whole number of clusters");
    }
    launch.cluster = cluster;
    return SUCCESS;
}

// A launch of `function` with copies of its arguments, as `work`. `cluster.x` 0: what the kernel says.
static int make_launch(const Function& function, const uint32_t (&grid_size)[3], const uint32_t (&block_size)[3],
                       uint32_t dynamic_shared, Dim3 wished_cluster, bool early, void** arguments, Work& work) {
    const KernelInfo& kernel = *function.kernel;
    auto launch = std::make_shared<Launch>();
    launch->kernel = &kernel;
    launch->shared = function.library->shared;
    launch->grid = {grid_size[0], grid_size[1], grid_size[2]};
    launch->block = {block_size[0], block_size[1], block_size[2]};
    launch->dynamic_shared = dynamic_shared;
    if (Settings::get().major < 9 && early) {
        return refuse(NOT_SUPPORTED, kernel, "devices before 9.0 have no early launches");
    }
    const Dim3 &grid = launch->grid, &block = launch->block;
    const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
        return refuse(INVALID_VALUE, kernel, "a grid of no blocks or of too many");
    }
    if (threads == 0 || threads > 1024 || block.z > 64) return refuse(INVALID_VALUE, kernel, "no such block");
    const Dim3 one = {1, 1, 1}, wished = wished_cluster.x != 0 ? wished_cluster : one;
    if (const int code = form_clusters(*launch, kernel.cluster.x != 0 ? kernel.cluster : wished)) return code;
    if (kernel.max_threads != 0 && threads > kernel.max_threads) {
        return refuse(INVALID_VALUE, kernel, "more threads than its launch bounds");
    }
    if (dynamic_shared > function.dynamic_limit) return refuse(INVALID_VALUE, kernel, "more shared memory than its limit");
    for (uint32_t i = 0; i < kernel.argument_count; ++i) {
        if (arguments == nullptr || arguments[i] == nullptr) return INVALID_VALUE;
        launch->arguments.emplace_back((kernel.arguments[i] + 7) / 8);
        memcpy(launch->arguments.back().data(), arguments[i], kernel.arguments[i]);
    }
    work.kind = Work::LAUNCH;
    work.launch = std::move(launch);
    work.early = early;
    return SUCCESS;
}

API cuLaunchKernelEx(const LaunchConfig* config, void* handle, void** arguments, void** extra) {
    BEFORE(true);
    const auto stream = stream_of(config->stream);
    if (stream == nullptr || handle == nullptr) return INVALID_HANDLE;
    const Function& function = *static_cast<Function*>(handle);
    if (extra != nullptr) return NOT_SUPPORTED;
    bool early = false;
    Dim3 cluster = {0, 0, 0};
    for (uint32_t i = 0; i < config->attribute_count; ++i) {
        const LaunchAttribute& attribute = config->attributes[i];
        if (attribute.id == 6) {
            early = attribute.value.programmatic != 0;
        } else if (attribute.id == 4) {
            cluster = {attribute.value.cluster.x, attribute.value.cluster.y, attribute.value.cluster.z};
        } else if (attribute.id != 0) {
            return refuse(NOT_SUPPORTED, *function.kernel, "an attribute that is not emulated");
        }
    }
    Work work;
    const int code =
        make_launch(function, config->grid, config->block, config->shared, cluster, early, arguments, work);
    return code != SUCCESS ? code : stream->add(std::move(work));
}

API cuStreamCreateWithPriority(void** handle, unsigned, int) {
    BEFORE(true);
    LOCK;
    auto stream = std::make_shared<Stream>(++state.streams_made);
    *handle = stream.get();
    state.streams[*handle] = std::move(stream);
    return SUCCESS;
}

API cuCtxGetStreamPriorityRange(int* lowest, int* highest) {
    BEFORE(true);
    *lowest = 0, *highest = -5;
    return SUCCESS;
}

API cuStreamDestroy_v2(void* handle) {
    BEFORE(true);
    const auto stream = handle == nullptr ? nullptr : stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    // As on a device, what is queued is still done.
    stream->wait();
    LOCK;
    state.streams.erase(handle);
    return SUCCESS;
}

API cuStreamSynchronize(void* handle) {
    BEFORE(true);
    const auto stream = stream_of(handle);
    return stream == nullptr ? INVALID_HANDLE : stream->wait();
}

static std::shared_ptr<Event> event_of(void* handle) {
    State& state = State::get();
    LOCK;
    const auto found = state.events.find(handle);
    return found == state.events.end() ? nullptr : found->second;
}

API cuEventCreate(void** handle, unsigned) {
    BEFORE(true);
    LOCK;
    auto event = std::make_shared<Event>();
    *handle = event.get();
    state.events[*handle] = std::move(event);
    return SUCCESS;
}

API cuEventRecord(void* handle, void* stream_handle) {
    BEFORE(true);
    const auto event = event_of(handle);
    const auto stream = stream_of(stream_handle);
    if (event == nullptr || stream == nullptr) return INVALID_HANDLE;
    event->stream = stream, event->queued = stream->queued();
    return SUCCESS;
}

API cuStreamWaitEvent(void* stream_handle, void* handle, unsigned flags) {
    BEFORE(true);
    const auto event = event_of(handle);
    const auto stream = stream_of(stream_handle);
    if (event == nullptr || stream == nullptr) return INVALID_HANDLE;
    if (flags != 0) return NOT_SUPPORTED;
    Work work;
    work.kind = Work::WAIT, work.place = *event;
    return stream->add(std::move(work));
}

API cuEventSynchronize(void* handle) {
    BEFORE(true);
    const auto event = event_of(handle);
    return event == nullptr ? INVALID_HANDLE : event->wait();
}

API cuEventDestroy_v2(void* handle) {
    BEFORE(true);
    LOCK;
    return state.events.erase(handle) == 0 ? INVALID_HANDLE : SUCCESS;
}

// For tests: everything that was taken and not given back.
extern "C" __attribute__((visibility("default"))) long emulator_held() {
    size_t held = 0;
    for (int device = 0; device < DEVICES; ++device) {
        State& state = State::of(device);
        LOCK;
        held += state.held + state.streams.size() + state.modules.size() + state.graphs.size() + state.executables.size() +
                state.events.size() + state.memory.count() + state.pinned.count();
    }
    return static_cast<long>(held);
}

API cuGraphCreate(void** graph, unsigned flags) {
    BEFORE(true);
    if (flags != 0) return INVALID_VALUE;
    auto made = std::make_shared<Graph>();
    LOCK;
    *graph = made.get();
    state.graphs[*graph] = std::move(made);
    return SUCCESS;
}

namespace {
struct KernelNode {
    void* function;
    uint32_t grid[3], block[3], shared;
    void **arguments, **extra;
    void *kernel, *context;
};
struct Edge {
    uint8_t from_port, to_port, type, reserved[5];
};
}  // namespace

// The node of work `number` of a graph, counted from 1: its launch.
static void* node_of(const Graph& graph, size_t number) {
    return number == 0 ? nullptr : const_cast<Launch*>(graph.work[number - 1].launch.get());
}

// Graphs that are chains, each node of which is put behind the last one as soon as it is there, are emulated.
API cuGraphAddKernelNode_v2(void** node, void* handle, void* const* behind, size_t count, const KernelNode* added) {
    BEFORE(true);
    if (added->function == nullptr || added->extra != nullptr) return NOT_SUPPORTED;
    Work work;
    const Function& function = *static_cast<Function*>(added->function);
    const int code =
        make_launch(function, added->grid, added->block, added->shared, {0, 0, 0}, false, added->arguments, work);
    if (code != SUCCESS) return code;
    LOCK;
    const auto found = state.graphs.find(handle);
    if (found == state.graphs.end()) return INVALID_VALUE;
    Graph& graph = *found->second;
    if (count > 1 || (count == 1 && behind[0] != node_of(graph, graph.work.size()))) return NOT_SUPPORTED;
    graph.work.push_back(std::move(work));
    graph.chained += count;
    *node = node_of(graph, graph.work.size());
    return SUCCESS;
}

// The work that is a node of one of the graphs.
static Work* work_of(State& state, void* node) {
    for (auto& graph : state.graphs) {
        for (Work& work : graph.second->work) {
            if (work.launch.get() == node) return &work;
        }
    }
    return nullptr;
}

API cuGraphKernelNodeSetAttribute(void* node, int attribute, const LaunchAttributeValue* value) {
    BEFORE(true);
    LOCK;
    const Work* work = node == nullptr ? nullptr : work_of(state, node);
    if (work == nullptr) return INVALID_VALUE;
    Launch& launch = *static_cast<Launch*>(node);
    if (attribute != 4) return refuse(NOT_SUPPORTED, *launch.kernel, "an attribute that is not emulated");
    // What was made of the graph has the launch as it was.
    if (work->launch.use_count() > 1) return NOT_SUPPORTED;
    if (launch.kernel->cluster.x != 0) return refuse(INVALID_VALUE, *launch.kernel, "it says itself what its clusters are");
    return form_clusters(launch, {value->cluster.x, value->cluster.y, value->cluster.z});
}

API cuGraphAddDependencies_v2(void* handle, void* const* from, void* const* to, const Edge* edge, size_t count) {
    BEFORE(true);
    LOCK;
    const auto found = state.graphs.find(handle);
    if (found == state.graphs.end()) return INVALID_VALUE;
    Graph& graph = *found->second;
    const size_t last = graph.work.size();
    if (count != 1 || last < 2 || graph.chained + 2 != last || to[0] != node_of(graph, last) ||
        from[0] != node_of(graph, last - 1)) {
        return NOT_SUPPORTED;
    }
    const bool early = edge != nullptr && edge->type == 1;
    if (edge != nullptr && (edge->from_port != edge->type || edge->type > 1 || edge->to_port != 0)) return INVALID_VALUE;
    if (early && Settings::get().major < 9) return NOT_SUPPORTED;
    graph.work.back().early = early;
    ++graph.chained;
    return SUCCESS;
}

API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    BEFORE(true);
    LOCK;
    const auto found = state.graphs.find(graph);
    if (found == state.graphs.end()) return INVALID_VALUE;
    if (found->second->chained + 1 < found->second->work.size()) return NOT_SUPPORTED;
    auto made = std::make_shared<Graph>(*found->second);
    *executable = made.get();
    state.executables[*executable] = std::move(made);
    return SUCCESS;
}

API cuGraphDestroy(void* graph) {
    BEFORE(true);
    LOCK;
    return state.graphs.erase(graph) == 1 ? SUCCESS : INVALID_VALUE;
}

API cuGraphExecDestroy(void* executable) {
    BEFORE(true);
    LOCK;
    return state.executables.erase(executable) == 1 ? SUCCESS : INVALID_VALUE;
}

API cuGraphUpload(void*, void*) {
    BEFORE(true);
    return SUCCESS;
}

API cuGraphLaunch(void* executable, void* handle) {
    BEFORE(true);
    const auto stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    std::shared_ptr<const Graph> graph;
    {
        LOCK;
        const auto found = state.executables.find(executable);
        if (found == state.executables.end()) return INVALID_VALUE;
        graph = found->second;
    }
    return stream->add(*graph);
}

static const struct {
    int code;
    const char *name, *words;
} ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {ASSERT, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {ILLEGAL_INSTRUCTION, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

static int text_of(int code, const char** text, bool name) {
    for (const auto& error : ERRORS) {
        if (error.code == code) return *text = name ? error.name : error.words, SUCCESS;
    }
    *text = nullptr;
    return INVALID_VALUE;
}

API cuGetErrorName(int code, const char** text) { return text_of(code, text, true); }

API cuGetErrorString(int code, const char** text) { return text_of(code, text, false); }
