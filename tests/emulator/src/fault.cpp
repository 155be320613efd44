// Faults in kernels become errors of the launch.
#include <signal.h>
#include <sys/ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "block.h"
#include "fiber.h"

namespace emulator {

const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
static struct sigaction before[65];

static void on_fault(int signal, siginfo_t* info, void* context) {
    Execution* own = execution;
    if (own != nullptr && own->current != nullptr) {
        own->signal = signal;
        own->address = reinterpret_cast<uintptr_t>(info->si_addr);
        auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
        registers[REG_RDI] = reinterpret_cast<greg_t>(own->scheduler);
        registers[REG_RSP] = reinterpret_cast<greg_t>(own->scheduler);
        registers[REG_RIP] = reinterpret_cast<greg_t>(emulator_leave);
        return;
    }
    const struct sigaction& other = before[signal];
    if (other.sa_flags & SA_SIGINFO) return other.sa_sigaction(signal, info, context);
    if (other.sa_handler != SIG_DFL && other.sa_handler != SIG_IGN) return other.sa_handler(signal);
    // The instruction is run again, and ends the process.
    sigaction(signal, &other, nullptr);
}

void take_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        for (int signal : SIGNALS) sigaction(signal, &action, &before[signal]);
    });
}

}  // namespace emulator
