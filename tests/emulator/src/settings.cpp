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
    std::atomic<long> left;
    int code;
};
}  // namespace

static std::deque<Rule>& rules() {
    static std::deque<Rule> all;
    static std::once_flag once;
    std::call_once(once, [] {
        const char* value = getenv("QM_EMULATOR_FAIL");
        std::string text = value != nullptr ? value : "";
        for (size_t begin = 0; begin < text.size();) {
            const size_t end = std::min(text.find(',', begin), text.size());
            const std::string rule = text.substr(begin, end - begin);
            const size_t second = rule.rfind(':'), first = second == std::string::npos ? second : rule.rfind(':', second - 1);
            if (first != std::string::npos) {
                all.emplace_back();
                all.back().name = rule.substr(0, first);
                all.back().left = atol(rule.c_str() + first + 1);
                all.back().code = atoi(rule.c_str() + second + 1);
            }
            begin = end + 1;
        }
    });
    return all;
}

int injected_failure(const char* function) {
    for (Rule& rule : rules()) {
        if (rule.name == function && rule.left-- == 0) return rule.code;
    }
    return 0;
}

}  // namespace emulator
