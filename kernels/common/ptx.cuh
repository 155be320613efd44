// What CUDA C++ has no words for: single instructions, and what differs between generations of devices. Nothing else in this
// folder has inline assembly or asks for `__CUDA_ARCH__`, so that kernels can be compiled for processors as well: there
// `tests/emulator/include/common/ptx.cuh` stands in for this file, and has a function for each one here.
#pragma once
#include <cstdint>

#define DEVICE static __device__ __forceinline__

// The shared memory that a launch asks for, as an array: `DYNAMIC_SHARED(__align__(16) uint8_t, shared);`.
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]

// Whether kernels may begin before the one in front has ended, and blocks form clusters.
#if __CUDA_ARCH__ >= 900
#define HAS_CLUSTERS 1
#else
#define HAS_CLUSTERS 0
#endif

// Waits until the kernels in front have ended and what they wrote is there.
DEVICE void wait_for_previous_kernel() {
#if HAS_CLUSTERS
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the kernel behind begin.
DEVICE void start_next_kernel() {
#if HAS_CLUSTERS
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The same before the own wait, see `after_previous_kernel` in common/device.cuh.
DEVICE void start_next_kernel_early() { start_next_kernel(); }

// Weights are read once a step: they pass the first-level cache. Volatile, so that they stay where they are written: ahead
// of the work that hides them.
DEVICE uint4 load_16(const uint8_t* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

DEVICE uint2 load_8(const uint8_t* p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

DEVICE uint32_t load_4(const uint8_t* p) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

// Makes the compiler forget what `v` is, and so what it has loaded from places that depend on it: registers that would keep that
// until it is used again.
DEVICE void forget(int& v) { asm volatile("" : "+r"(v)); }

// Asks for the line of 128 bytes at `p`, which another block is going to read, to be in the second-level cache.
DEVICE void prefetch_line(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// `sum` and the dot product of four unsigned bytes with four signed ones.
DEVICE int dot_unsigned(uint32_t codes, uint32_t x, int sum) {
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(codes), "r"(x));
    return sum;
}

// Four bytes of `low` and `high`, chosen by the last four fours of bits of `selector`, none of which is above 7.
DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

// The same, but where one of the fours has its highest bit set, all bits of the byte that the others choose become its sign.
DEVICE uint32_t permute_bytes_or_signs(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

// Starts a copy of 16 or 4 bytes to shared memory; of zeros where `there` is false.
DEVICE void copy_16(void* to, const void* from, bool there) {
    const uint32_t target = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(there ? 16 : 0));
}

DEVICE void copy_4(void* to, const void* from, bool there) {
    const uint32_t target = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target), "l"(from), "r"(there ? 4 : 0));
}

// The copies that this thread has started since the last call are a group.
DEVICE void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups of copies but the last `GROUPS`.
template <int GROUPS>
DEVICE void wait_for_copies_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// `d = first + a · b` by a warp: 16 rows of `a` by 8 columns of `b`, 32 bytes long each, those of `a` signed or not.
template <bool SIGNED>
DEVICE void multiply_tile(int (&d)[4], const uint32_t (&a)[4], uint2 b, int first = 0) {
    if constexpr (SIGNED) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%10, %10, %10, %10};"
                     : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(first));
    } else {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%10, %10, %10, %10};"
                     : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(first));
    }
}

// `d += a · b` of the same.
template <bool SIGNED>
DEVICE void add_tile(int (&d)[4], const uint32_t (&a)[4], uint2 b) {
    if constexpr (SIGNED) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
    } else {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
    }
}

// Four matrices of 8 rows of 16 bytes in shared memory: lane `8 m + r` tells where row r of matrix m is, and lane l gets the
// four bytes `l % 4` of row `l / 4` of each.
DEVICE void load_matrices(uint32_t (&out)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// The same of matrices of 16-bit values, transposed: lane l gets values `2 (l % 4)` and the next of column `l / 4`.
DEVICE void load_transposed(uint32_t (&out)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// A matrix of 8 by 8 values of 16 bits, transposed: lane `4 g + t` has values 2 t and 2 t + 1 of row g.
DEVICE uint32_t turn_matrix(uint32_t pair) {
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pair));
    return pair;
}

// Halves and bfloat16 as their bits: CUDA's headers of them would be a third of what many kernels take to compile.
DEVICE float half_bits(uint32_t bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(static_cast<uint16_t>(bits)));
    return v;
}

// Of both halves of a word.
DEVICE float2 unpack_halves(uint32_t both) {
    float2 v;
    asm("{ .reg .b16 first, second;\n"
        "mov.b32 {first, second}, %2;\n"
        "cvt.f32.f16 %0, first;\n"
        "cvt.f32.f16 %1, second; }"
        : "=f"(v.x), "=f"(v.y)
        : "r"(both));
    return v;
}

// Rounded to the nearest half.
DEVICE uint16_t half_of_float(float v) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}

// Two halves, the first in the lower part of the word.
DEVICE uint32_t pack_halves(float first, float second) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

// The same of bfloat16.
DEVICE uint32_t pack_bf16(float first, float second) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

// `d += a b` of bfloat16 matrices [16, 16] and [16, 8] by a warp, whose lane `4 g + t` has of `d` the columns 2 t and the next
// of rows g and g + 8, of `a` those columns of rows g and g + 8 and then the columns 8 further on, of `b` rows 2 t and the next
// of column g and then the rows 8 further on.
DEVICE void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of halves.
DEVICE void multiply_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if HAS_CLUSTERS
// The barrier of a cluster, in two halves; what was written before the first one is seen after the second one, unless it is
// relaxed. Every thread of a warp comes here.
DEVICE void arrive_at_cluster_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;"); }
DEVICE void arrive_at_cluster() { asm volatile("barrier.cluster.arrive.aligned;" ::: "memory"); }
DEVICE void wait_for_cluster() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

// `*place = value` in the shared memory of block `rank` of the cluster.
DEVICE void put_in_cluster(float4* place, uint32_t rank, float4 value) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(place));
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x), "f"(value.y), "f"(value.z),
                 "f"(value.w)
                 : "memory");
}
#endif
