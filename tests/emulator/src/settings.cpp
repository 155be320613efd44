#include <cstdlib>
#include <cstring>

#include "driver.h"

namespace emulator {

static uint64_t number(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text != nullptr && *text != 0 ? strtoull(text, nullptr, 0) : otherwise;
}

const Settings& Settings::get() {
    static const Settings settings = [] {
        const uint64_t capability = number("QM_EMULATOR_CAPABILITY", 90);
        return Settings{number("QM_EMULATOR_MEMORY", 2ull << 30),
                        number("QM_EMULATOR_SEED", 1),
                        static_cast<uint32_t>(number("QM_EMULATOR_MULTIPROCESSORS", 4)),
                        static_cast<uint32_t>(number("QM_EMULATOR_SHARED", 227 * 1024)),
                        static_cast<uint32_t>(capability / 10),
                        static_cast<uint32_t>(capability % 10)};
    }();
    return settings;
}

namespace {
// `name:after:code`: the call of `name` that follows `after` others fails.
struct Rule {
    std::string name;
    long left;
    int code;
};
}  // namespace

static struct {
    std::mutex lock;
    std::deque<Rule> all;
    long fired = 0;
} rules;

// With the lock held.
static void set_rules(const std::string& text) {
    rules.all.clear();
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find(',', begin), text.size());
        const std::string rule = text.substr(begin, end - begin);
        const size_t second = rule.rfind(':'), first = second == std::string::npos ? second : rule.rfind(':', second - 1);
        if (first != std::string::npos) {
            rules.all.push_back({rule.substr(0, first), atol(rule.c_str() + first + 1), atoi(rule.c_str() + second + 1)});
        }
        begin = end + 1;
    }
}

int injected_failure(const char* function) {
    static std::once_flag once;
    const std::lock_guard<std::mutex> guard(rules.lock);
    std::call_once(once, [] {
        const char* value = getenv("QM_EMULATOR_FAIL");
        if (value != nullptr && rules.all.empty()) set_rules(value);
    });
    for (Rule& rule : rules.all) {
        if (rule.name == function && rule.left-- == 0) return ++rules.fired, rule.code;
    }
    return 0;
}

// What tests call beside the driver's own functions: sets the rules that QM_EMULATOR_FAIL sets at the start, and returns how
// many of those before have made a call fail.
extern "C" __attribute__((visibility("default"))) long emulator_fail(const char* text) {
    const std::lock_guard<std::mutex> guard(rules.lock);
    set_rules(text);
    const long fired = rules.fired;
    rules.fired = 0;
    return fired;
}

}  // namespace emulator
