#include <cstdio>
#include <cstring>

#include "driver.h"

namespace emulator {

uint64_t Stream::random() {
    random_state_ = random_state_ * 6364136223846793005 + 1442695040888963407 + Settings::get().seed;
    return random_state_ >> 33;
}

int Stream::add(Work work) {
    const std::lock_guard<std::recursive_mutex> guard(lock_);
    queue_.push_back(std::move(work));
    ++queued_;
    // What fails is told by a later call, as on a device.
    if (random() % 8 == 0) drain();
    return SUCCESS;
}

int Stream::add(const Graph& graph) {
    const std::lock_guard<std::recursive_mutex> guard(lock_);
    bool first = true;
    for (const Work& work : graph.work) {
        queue_.push_back(work);
        ++queued_;
        // Graphs follow each other whole.
        if (first) queue_.back().early = false;
        first = false;
    }
    if (random() % 4 == 0) drain();
    return SUCCESS;
}

int Stream::wait() {
    const std::lock_guard<std::recursive_mutex> guard(lock_);
    return drain();
}

uint64_t Stream::queued() {
    const std::lock_guard<std::recursive_mutex> guard(lock_);
    return queued_;
}

int Stream::wait_for(uint64_t queued) {
    const std::lock_guard<std::recursive_mutex> guard(lock_);
    return drain(queued);
}

int Event::wait() const {
    const auto of = stream.lock();
    return of == nullptr ? SUCCESS : of->wait_for(queued);
}

// Kernels that were seen to ask for the next one.
static bool asks_for_next(const KernelInfo* kernel, bool seen) {
    static std::mutex lock;
    static std::set<const KernelInfo*> known;
    const std::lock_guard<std::mutex> guard(lock);
    if (seen) known.insert(kernel);
    return known.count(kernel) != 0;
}

int Stream::drain(uint64_t queued) {
    State& state = State::get();
    while (!queue_.empty() && done_ < queued) {
        if (state.error != 0) {
            done_ = queued_;
            queue_.clear();
            begun_.reset();
            break;
        }
        const Work work = std::move(queue_.front());
        queue_.pop_front();
        ++done_;
        if (work.kind == Work::COPY) {
            memcpy(work.to, work.staged != nullptr ? work.staged->data() : work.from, work.bytes);
            continue;
        }
        if (work.kind == Work::WAIT) {
            work.place.wait();
            continue;
        }
        if (work.kind == Work::FILL) {
            memset(work.to, work.value, work.bytes);
            continue;
        }
        // The next kernel's beginning, which does not wait for this one, comes before it.
        BegunPtr next;
        const bool overlaps = !queue_.empty() && queue_.front().kind == Work::LAUNCH && queue_.front().early;
        if (overlaps && asks_for_next(work.launch->kernel, false)) next = begin(*queue_.front().launch, random());
        const std::string rule = std::string("launch:") + work.launch->kernel->name;
        const int every = injected_failure("launch"), own = injected_failure(rule.c_str());
        Outcome outcome = {every != 0 ? every : own, rule + ": as QM_EMULATOR_FAIL asks"};
        bool asks = false;
        if (outcome.code == 0) outcome = run(*work.launch, random(), std::move(begun_), asks);
        if (asks) asks_for_next(work.launch->kernel, true);
        begun_ = std::move(next);
        if (outcome.code != 0) state.fail(outcome);
    }
    return state.error;
}

int State::fail(const Outcome& outcome) {
    fprintf(stderr, "emulated device: %s (seed %llu)\n", outcome.what.c_str(),
            static_cast<unsigned long long>(Settings::get().seed));
    int none = 0;
    error.compare_exchange_strong(none, outcome.code);
    return error;
}

State& State::of(int device) {
    static State* states = [] {
        State* all = new State[DEVICES];
        for (int number = 0; number < DEVICES; ++number) all[number].number = number;
        return all;
    }();
    return states[device];
}

int State::wait_for_all() {
    std::vector<std::shared_ptr<Stream>> all;
    {
        const std::lock_guard<std::mutex> guard(lock);
        for (const auto& [handle, stream] : streams) all.push_back(stream);
        if (default_stream != nullptr) all.push_back(default_stream);
    }
    for (const auto& stream : all) {
        stream->wait();
    }
    return error;
}

// With `lock` held.
void State::destroy_context() {
    streams.clear();
    events.clear();
    default_stream.reset();
    modules.clear();
    graphs.clear();
    executables.clear();
    memory.give_all_back();
    pinned.give_all_back();
    used = 0;
    error = 0;
}

}  // namespace emulator
