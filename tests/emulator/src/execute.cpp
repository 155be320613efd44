#include "execute.h"

#include <set>
#include <mutex>

#include "block.h"

namespace emulator {

class Begun {
  public:
    Begun(const Launch& launch, uint64_t number, uint64_t seed) : cluster(launch, number, seed, true) {}
    Cluster cluster;
    Outcome outcome;
};

void EndBegun::operator()(Begun* begun) const { delete begun; }

static uint64_t clusters(const Launch& launch) {
    const Dim3 grid = launch.grid, size = launch.cluster;
    return static_cast<uint64_t>(grid.x / size.x) * (grid.y / size.y) * (grid.z / size.z);
}

BegunPtr begin(const Launch& launch, uint64_t seed) {
    Random random{seed};
    BegunPtr begun(new Begun(launch, random.next() % clusters(launch), seed));
    begun->outcome = begun->cluster.run();
    return begun;
}

Outcome run(const Launch& launch, uint64_t seed, BegunPtr begun, bool& asks_for_next) {
    const uint64_t count = clusters(launch);
    uint64_t done = count;
    if (begun != nullptr) {
        if (begun->outcome.code != 0) return begun->outcome;
        Cluster& cluster = begun->cluster;
        done = cluster.number;
        cluster.before_wait = false;
        for (Block& block : cluster.blocks) {
            for (uint32_t t = 0; t < block.threads; ++t) {
                if (block.area->fibers[t].state == State::BEFORE_WAIT) cluster.wake(block.area->fibers[t]);
            }
        }
        const Outcome outcome = cluster.run();
        if (outcome.code != 0) return outcome;
        asks_for_next |= cluster.asks_for_next;
        begun.reset();
    }
    // A step that shares no factor with the count comes to each one once.
    Random random{seed};
    const auto divisor = [](uint64_t a, uint64_t b) {
        while (b != 0) a %= b, std::swap(a, b);
        return a;
    };
    uint64_t step = random.next() % count + 1, at = random.next() % count;
    while (divisor(step, count) != 1) ++step;
    for (uint64_t i = 0; i < count; ++i, at = (at + step) % count) {
        if (at == done) continue;
        Cluster cluster(launch, at, seed, false);
        const Outcome outcome = cluster.run();
        if (outcome.code != 0) return outcome;
        asks_for_next |= cluster.asks_for_next;
    }
    return {};
}

}  // namespace emulator
