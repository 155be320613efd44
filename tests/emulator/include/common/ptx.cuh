// `kernels/common/ptx.cuh` on the emulated device: the same functions, by its means.
#pragma once
#include "cuda_device.h"

#define DEVICE static __device__ __forceinline__

#define DYNAMIC_SHARED(type, name) EMULATED_DYNAMIC_SHARED(type, name)
#define EMULATED_DYNAMIC_SHARED(type, name) \
    type* const name = reinterpret_cast<std::remove_const_t<decltype(name)>>(emulated_thread->dynamic_shared)

#define HAS_CLUSTERS (EMULATED_ARCHITECTURE >= 90)

DEVICE void wait_for_previous_kernel() {
    if (HAS_CLUSTERS) emulated_thread->device->wait_for_previous_kernel(*emulated_thread);
}
DEVICE void start_next_kernel() {
    if (HAS_CLUSTERS) emulated_thread->device->start_next_kernel(*emulated_thread);
}

DEVICE uint4 load_16(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
DEVICE uint2 load_8(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }
DEVICE uint32_t load_4(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }

DEVICE int dot_unsigned(uint32_t codes, uint32_t x, int sum) { return emulated_dp4a<uint8_t, int8_t>(codes, x, sum); }

DEVICE void emulated_copy(void* to, const void* from, uint32_t bytes, bool there) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0) {
        emulated_fail(emulator::MISALIGNED_ADDRESS, "a copy to shared memory that is not aligned to its size");
    }
    emulated_thread->device->start_copy(*emulated_thread, to, from, bytes, there);
}
DEVICE void copy_16(void* to, const void* from, bool there) { emulated_copy(to, from, 16, there); }
DEVICE void copy_8(void* to, const void* from, bool there) { emulated_copy(to, from, 8, there); }
DEVICE void end_copy_group() { emulated_thread->device->end_copy_group(*emulated_thread); }
template <int GROUPS>
DEVICE void wait_for_copies_but() {
    emulated_thread->device->wait_for_copies_but(*emulated_thread, GROUPS);
}

// Lane `4 g + t` has rows g and g + 8 of `a`, bytes 4 t .. and 16 + 4 t ..; the same bytes of column g of `b`; and columns
// 2 t and 2 t + 1 of rows g and g + 8 of `d` (PTX ISA, matrix fragments for mma.m16n8k32).
struct EmulatedTile {
    int* d;
    const uint32_t* a;
    const uint32_t* b;
};
template <class A>
static void emulated_multiply_tile(emulator::Thread&, uint32_t, void* const* data) {
    const auto lane = [&](int number) -> const EmulatedTile& { return *static_cast<const EmulatedTile*>(data[number]); };
    for (int g = 0; g < 8; ++g) {
        for (int t = 0; t < 4; ++t) {
            for (int i = 0; i < 4; ++i) {
                const int column = 2 * t + i % 2;
                int sum = 0;
                for (int quad = 0; quad < 4; ++quad) {
                    const EmulatedTile &of_a = lane(4 * g + quad), &of_b = lane(4 * column + quad);
                    sum = emulated_dp4a<A, int8_t>(of_a.a[i / 2], of_b.b[0], sum);
                    sum = emulated_dp4a<A, int8_t>(of_a.a[2 + i / 2], of_b.b[1], sum);
                }
                lane(4 * g + t).d[i] = sum;
            }
        }
    }
}
template <bool SIGNED>
DEVICE void multiply_tile(int (&d)[4], const uint32_t (&a)[4], uint2 b) {
    const uint32_t words[2] = {b.x, b.y};
    EmulatedTile own = {d, a, words};
    emulated_meet(0xffffffff, emulated_multiply_tile<std::conditional_t<SIGNED, int8_t, uint8_t>>, &own);
}

#if HAS_CLUSTERS
DEVICE void arrive_at_cluster_relaxed() { emulated_thread->device->arrive_at_cluster(*emulated_thread); }
DEVICE void arrive_at_cluster() { emulated_thread->device->arrive_at_cluster(*emulated_thread); }
DEVICE void wait_for_cluster() { emulated_thread->device->wait_for_cluster(*emulated_thread); }
DEVICE void put_in_cluster(float* place, uint32_t rank, float value) {
    *static_cast<float*>(emulated_thread->device->in_cluster(*emulated_thread, place, rank)) = value;
}
#endif
