// Behind every kernel source: what the emulated device finds in the module, and what it hears of the compiler's checks.
#pragma once
#include <cstdio>

#include "cuda_device.h"

// The kernel `RUN`, called with pointers to its arguments.
template <auto RUN>
struct EmulatedKernel;
template <class... Arguments, void (*RUN)(Arguments...)>
struct EmulatedKernel<RUN> {
    static constexpr uint32_t SIZES[sizeof...(Arguments) + 1] = {sizeof(Arguments)...};

    template <size_t... I>
    static void call(void* const* arguments, std::index_sequence<I...>) {
        RUN(*static_cast<std::remove_reference_t<Arguments>*>(arguments[I])...);
    }
    static void run(emulator::Thread* thread, void* const* arguments) {
        emulated_thread = thread;
        call(arguments, std::index_sequence_for<Arguments...>());
    }
};

template <auto RUN>
static emulator::KernelInfo emulated_kernel(const char* name, uint32_t max_threads, emulator::Dim3 cluster) {
    using Kernel = EmulatedKernel<RUN>;
    const uint32_t count = sizeof Kernel::SIZES / sizeof(uint32_t) - 1;
    if (!HAS_CLUSTERS) cluster = {0, 0, 0};
    return {name, Kernel::run, Kernel::SIZES, count, max_threads, cluster};
}

__shared__ __attribute__((aligned(16))) uint8_t emulated_anchor[16];
static void* emulated_shared_anchor() { return emulated_anchor; }

#define EMULATED_MODULE(kernels)                                                                                      \
    extern "C" __attribute__((visibility("default"))) const emulator::ModuleInfo* emulated_module() {                 \
        static const emulator::ModuleInfo info = {emulator::VERSION, EMULATED_ARCHITECTURE, kernels,                  \
                                                  sizeof kernels / sizeof kernels[0], emulated_shared_anchor};        \
        return &info;                                                                                                 \
    }

// What the compiler's checks call (the interface of its runtime for undefined behaviour, of which nothing else is used).
struct EmulatedSource {
    const char* file;
    uint32_t line, column;
};
[[noreturn]] static inline void emulated_check_failed(int code, const char* what, const EmulatedSource* source) {
    char text[300];
    snprintf(text, sizeof text, "%s, %s:%u", what, source->file, source->line);
    emulated_fail(code, text);
}
extern "C" {
__attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1_abort(EmulatedSource* source, uintptr_t) {
    emulated_check_failed(emulator::MISALIGNED_ADDRESS, "an address that is not aligned to its type", source);
}
__attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds_abort(EmulatedSource* source, uintptr_t) {
    emulated_check_failed(emulator::ILLEGAL_ADDRESS, "an index outside its array", source);
}
}
