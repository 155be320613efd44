#include "fiber.h"

asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rdi
    jmp emulator_leave
    .size emulator_switch, . - emulator_switch

    .globl emulator_leave
    .hidden emulator_leave
    .type emulator_leave, @function
emulator_leave:
    movq %rdi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_leave, . - emulator_leave

    # A fiber begins here. A kernel changes r15 and keeps the others.
    .type emulator_begin, @function
emulator_begin:
    movq %r12, %rdi
    movq %r13, %rsi
    callq *%rbx
    movq %r12, %rdi
    callq *%r14
    ud2
    .size emulator_begin, . - emulator_begin
)");

extern "C" __attribute__((visibility("hidden"))) void emulator_begin();

namespace emulator {

void* new_fiber(uint8_t* top, void (*run)(void*, void*), void* thread, void* arguments, void (*end)(void*)) {
    // After the return to `emulator_begin` the stack is aligned as before a call.
    auto* stack = reinterpret_cast<void**>(top) - 9;
    stack[0] = thread;                           // r15
    stack[1] = reinterpret_cast<void*>(end);     // r14
    stack[2] = arguments;                        // r13
    stack[3] = thread;                           // r12
    stack[4] = reinterpret_cast<void*>(run);     // rbx
    stack[5] = nullptr;                          // rbp
    stack[6] = reinterpret_cast<void*>(emulator_begin);
    stack[7] = stack[8] = nullptr;
    return stack;
}

}  // namespace emulator
