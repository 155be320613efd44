// Switching between stacks, x86-64 System V.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

// Saves the registers that a call keeps on the current stack, `*from` to come back there, and goes on at `to`.
extern "C" void emulator_switch(void** from, void* to);

// Goes on at `to`, and forgets where it was.
extern "C" [[noreturn]] void emulator_leave(void* to);

// What to switch to so that, on the stack that ends at `top`, `run(thread, arguments)` is called and then `end(thread)`, which
// does not return.
void* new_fiber(uint8_t* top, void (*run)(void*, void*), void* thread, void* arguments, void (*end)(void*));

}  // namespace emulator
