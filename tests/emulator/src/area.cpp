// Memory of blocks: stacks, and dynamic shared memory, between pages that nobody may touch.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "block.h"

namespace emulator {

const size_t PAGE = 4096, STACK = 128 * 1024, STRIDE = STACK + PAGE, SHARED = 256 * 1024;

static uint8_t* reserve(size_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* place = mmap(nullptr, bytes, PROT_NONE, flags, -1, 0);
    if (place == MAP_FAILED) abort();
    return static_cast<uint8_t*>(place);
}

Area::Area() : stacks_(reserve(STRIDE * MOST_THREADS)), shared_(reserve(SHARED + PAGE)) {
    for (uint32_t i = 0; i < MOST_THREADS; ++i) {
        if (mprotect(stacks_ + i * STRIDE + PAGE, STACK, PROT_READ | PROT_WRITE) != 0) abort();
    }
    if (mprotect(shared_, SHARED, PROT_READ | PROT_WRITE) != 0) abort();
}

Area::~Area() {
    munmap(stacks_, STRIDE * MOST_THREADS);
    munmap(shared_, SHARED + PAGE);
}

// Not all at the same place of a page, so that they do not meet in one set of the caches.
uint8_t* Area::stack_top(uint32_t thread) const { return stacks_ + (thread + 1) * STRIDE - thread * 11 % 61 * 64; }

bool Area::is_between_stacks(uintptr_t address) const {
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(stacks_);
    return offset < STRIDE * MOST_THREADS && offset % STRIDE < PAGE;
}

uint8_t* Area::dynamic_shared(uint32_t bytes) {
    uint8_t* start = shared_ + SHARED - (bytes + 15) / 16 * 16;
    memset(start, 0xff, shared_ + SHARED - start);
    return start;
}

}  // namespace emulator
