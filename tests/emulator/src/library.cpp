// Modules: shared objects in memory.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "driver.h"

namespace emulator {

// Bytes of the shared object at `image`: its last part is the table of its sections. 0 where there is none.
static size_t size_of(const void* image) {
    Elf64_Ehdr header;
    memcpy(&header, image, SELFMAG);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
    memcpy(&header, image, sizeof header);
    return header.e_shoff + static_cast<size_t>(header.e_shnum) * header.e_shentsize;
}

static uint64_t sum_of(const void* image, size_t bytes) {
    uint64_t sum = 0xcbf29ce484222325;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, static_cast<const char*>(image) + i, 8);
        sum = (sum ^ word) * 0x100000001b3;
        sum ^= sum >> 29;
    }
    return sum;
}

static void* open_in_memory(const void* image, size_t bytes) {
    const int file = memfd_create("kernels", MFD_CLOEXEC);
    if (file < 0) return nullptr;
    void* handle = nullptr;
    if (write(file, image, bytes) == static_cast<ssize_t>(bytes)) {
        char path[40];
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) fprintf(stderr, "emulated device: %s\n", dlerror());
    }
    // The file stays open: the loader knows objects by their path, which no other one may have.
    return handle;
}

// The thread-local data of the object that has `anchor`, for whichever thread asks.
static SharedMemory shared_memory(void* handle, void* (*anchor)()) {
    struct Search {
        ElfW(Addr) base;
        const uint8_t* anchor;
        SharedMemory found;
    };
    const link_map* map = nullptr;
    dlinfo(handle, RTLD_DI_LINKMAP, &map);
    Search search = {map->l_addr, static_cast<uint8_t*>(anchor()), {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            Search& search = *static_cast<Search*>(data);
            if (info->dlpi_addr != search.base) return 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
                search.found.before = static_cast<size_t>(search.anchor - static_cast<uint8_t*>(info->dlpi_tls_data));
                search.found.bytes = info->dlpi_phdr[i].p_memsz;
            }
            return 1;
        },
        &search);
    search.found.anchor = anchor;
    return search.found;
}

int load_library(const void* image, const Library*& library) {
    static std::mutex lock;
    static std::map<std::pair<const void*, uint64_t>, Library> loaded;
    const size_t bytes = size_of(image);
    if (bytes == 0) return INVALID_IMAGE;
    const std::lock_guard<std::mutex> guard(lock);
    const std::pair<const void*, uint64_t> key = {image, sum_of(image, bytes)};
    auto found = loaded.find(key);
    if (found == loaded.end()) {
        void* handle = open_in_memory(image, bytes);
        if (handle == nullptr) return INVALID_IMAGE;
        const auto module = reinterpret_cast<const ModuleInfo* (*)()>(dlsym(handle, "emulated_module"));
        if (module == nullptr || module()->version != VERSION) return INVALID_IMAGE;
        Library made = {module(), shared_memory(handle, module()->shared_anchor), 0};
        // The anchor is no kernel's. Kernels of a module are one in several formats or sizes.
        const size_t own = made.shared.bytes - std::min<size_t>(made.shared.bytes, 16);
        made.static_shared = static_cast<uint32_t>(own / std::max<size_t>(made.info->kernel_count, 1) + 15) / 16 * 16;
        found = loaded.emplace(key, made).first;
    }
    library = &found->second;
    const Settings& device = Settings::get();
    return library->info->architecture > 10 * device.major + device.minor ? NO_BINARY_FOR_GPU : SUCCESS;
}

}  // namespace emulator
