#include <sys/mman.h>

#include <cstring>

#include "driver.h"

namespace emulator {

const uint64_t PAGE = 4096, ALIGNMENT = 256;

// Of larger parts only the first so many bytes are made other than zero, so that the host need not have all of them.
const uint64_t MOST_FILLED = 64 << 20;

uint8_t* Memory::take(uint64_t bytes) {
    const uint64_t used = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, pages = (used + PAGE - 1) / PAGE * PAGE;
    const size_t mapped = pages + 2 * PAGE;
    void* mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return nullptr;
    uint8_t* first = static_cast<uint8_t*>(mapping) + PAGE;
    if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping, mapped);
        return nullptr;
    }
    uint8_t* start = first + pages - used;
    memset(start, 0xff, std::min(used, MOST_FILLED));
    parts_[reinterpret_cast<uintptr_t>(start)] = {bytes, mapping, mapped};
    return start;
}

bool Memory::give_back(void* start, uint64_t& bytes) {
    const auto part = parts_.find(reinterpret_cast<uintptr_t>(start));
    if (part == parts_.end()) return false;
    bytes = part->second.bytes;
    munmap(part->second.mapping, part->second.mapped);
    parts_.erase(part);
    return true;
}

bool Memory::holds(const void* start, uint64_t bytes) const {
    const uintptr_t address = reinterpret_cast<uintptr_t>(start);
    auto part = parts_.upper_bound(address);
    if (part == parts_.begin()) return false;
    --part;
    const uint64_t offset = address - part->first;
    return offset <= part->second.bytes && bytes <= part->second.bytes - offset;
}

void Memory::give_all_back() {
    for (const auto& [start, part] : parts_) munmap(part.mapping, part.mapped);
    parts_.clear();
}

}  // namespace emulator
