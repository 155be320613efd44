// objects MODEL: the C++ header does what the C functions do, and owns what it should.
#include "qwen3moe.hpp"
#include "qwen3moe.hpp"

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <utility>

static int failures;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                         \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

template <typename Function> static qm_status status_of(Function function) {
    try {
        function();
        return QM_OK;
    } catch (const qwen3moe::Error &error) {
        CHECK(std::string(error.what()).size() > 5);
        return error.status();
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    using namespace std::chrono_literals;
    using qwen3moe::Stream;

    CHECK(status_of([] { qwen3moe::Model("/does/not/exist"); }) == QM_ERR_IO);
    CHECK(status_of([] { qwen3moe::Model(""); }) == QM_ERR_INVALID_ARGUMENT);

    qwen3moe::Load load(argv[1]);
    std::optional<qwen3moe::Model> loaded;
    qm_load_progress_t progress{};
    while (!(loaded = load.poll(&progress))) std::this_thread::sleep_for(1ms);
    CHECK(progress.done_bytes == progress.total_bytes);
    qwen3moe::Model model = std::move(*loaded);
    CHECK(model.info().vocab > 0);
    CHECK(qwen3moe::fit(argv[1]).fits == 1);

    qwen3moe::GenerateOptions options;
    options.max_tokens = 20;
    options.ignore_eos = 1;
    std::string text = model.generate("Hello", options), pieces, piece;
    CHECK(!text.empty());
    Stream stream = model.stream("Hello", options);
    for (;;) {
        Stream::Event event = stream.next(piece, 0us);
        pieces += piece;
        if (event == Stream::Event::done) break;
        CHECK(event == (piece.empty() ? Stream::Event::pending : Stream::Event::text));
    }
    CHECK(pieces == text);
    CHECK(stream.stats().generated_tokens == 20);

    options.stop_texts = {text.substr(0, 1) == "\xef" ? text.substr(0, 3) : text.substr(0, 1)};
    CHECK(model.generate("Hello", options).empty());
    options.stop_texts.clear();

    options.max_tokens = 300;
    Stream cancelled = model.chat(R"([{"role": "user", "content": "Hello"}])", options);
    std::thread([&cancelled] { cancelled.cancel(); }).join();
    CHECK(status_of([&] { cancelled.rest(); }) == QM_ERR_CANCELLED);

    auto ids = model.tokenize("Hello world");
    CHECK(model.detokenize(ids) == "Hello world");
    CHECK(model.tokenize("").empty() && model.detokenize({}).empty());
    CHECK(model.eval(ids).size() == ids.size() * model.info().vocab);
    CHECK(model.expert_counts(0).size() == model.info().experts);
    CHECK(model.expert_stats().activations > 0 && model.memory_stats().ram_total > 0);

    // A stream outlives its model.
    options.max_tokens = 5;
    auto outlives = [&] { return qwen3moe::Model(argv[1]).stream("Hello", options); }();
    Stream moved = std::move(outlives);
    CHECK(!moved.rest().empty());
    return failures ? 1 : 0;
}
