// Memory of blocks: stacks, and dynamic shared memory, between pages that nobody may touch.
#include <errno.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"

namespace emulator {

// The stacks of a warp lie one below the other above one page that nobody may touch: a page for each stack would be two of the
// kernel's mappings for each thread, and a process may have 65,530. The lowest lane's stack ends there; others end with a mark.
const size_t PAGE = 4096, STRIDE = 132 * 1024, OF_WARP = PAGE + LANES * STRIDE, STACKS = MOST_THREADS / LANES * OF_WARP,
             SHARED = 256 * 1024;

[[noreturn]] static void give_up(const char* what) {
    fprintf(stderr, "emulated device: %s for the stacks of a block: %s\n", what, strerror(errno));
    abort();
}

static uint8_t* reserve(size_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* place = mmap(nullptr, bytes, PROT_NONE, flags, -1, 0);
    if (place == MAP_FAILED) give_up("no addresses");
    return static_cast<uint8_t*>(place);
}

static void allow(uint8_t* start, size_t bytes) {
    if (mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0) give_up("no memory");
}

Area::Area() : stacks_(reserve(STACKS)), shared_(reserve(SHARED + PAGE)) {
    for (uint32_t warp = 0; warp < MOST_THREADS / LANES; ++warp) allow(stacks_ + warp * OF_WARP + PAGE, LANES * STRIDE);
    allow(shared_, SHARED);
    for (uint32_t thread = 0; thread < MOST_THREADS; ++thread) mark(thread) = MARK;
}

Area::~Area() {
    munmap(stacks_, STACKS);
    munmap(shared_, SHARED + PAGE);
}

// Not all at the same place of a page, so that they do not meet in one set of the caches.
uint8_t* Area::stack_top(uint32_t thread) const {
    return stacks_ + thread / LANES * OF_WARP + PAGE + (thread % LANES + 1) * STRIDE - thread * 11 % 61 * 64;
}

bool Area::is_below_stacks(uintptr_t address) const {
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(stacks_);
    return offset < STACKS && offset % OF_WARP < PAGE;
}

uint64_t& Area::mark(uint32_t thread) const {
    return *reinterpret_cast<uint64_t*>(stacks_ + thread / LANES * OF_WARP + PAGE + thread % LANES * STRIDE);
}

uint8_t* Area::dynamic_shared(uint32_t bytes) {
    uint8_t* start = shared_ + SHARED - (bytes + 15) / 16 * 16;
    memset(start, 0xff, shared_ + SHARED - start);
    return start;
}

}  // namespace emulator
