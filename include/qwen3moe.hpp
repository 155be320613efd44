// qwen3moe.hpp: the C interface of libqwen3moe as C++17 objects. Header-only; qwen3moe.h is the manual.
//
//     qwen3moe::Model model("model.gguf");
//     qwen3moe::Stream stream = model.stream("Once upon a time");
//     for (std::string text; stream.read(text);) std::cout << text << std::flush;
//
// Objects own their handles: they can be moved, not copied, and free what they own in any order. Errors are thrown as
// qwen3moe::Error, never out of the library itself. Threads are as in qwen3moe.h.

#ifndef QWEN3MOE_HPP
#define QWEN3MOE_HPP

#include "qwen3moe.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qwen3moe {

// What a function of the library returned, with the text of the calling thread's last error.
class Error : public std::runtime_error {
public:
    Error(qm_status status, const std::string &text) : std::runtime_error(text), status_(status) {}

    qm_status status() const noexcept { return status_; }

private:
    qm_status status_;
};

namespace detail {

inline std::string last_error() {
    std::string text(qm_last_error(nullptr, 0), '\0');
    text.resize(qm_last_error(text.data(), text.size()) - 1);
    return text;
}

// Throws what is an error, returns what is not.
inline qm_status check(qm_status status) {
    if (status < 0) throw Error(status, last_error());
    return status;
}

template <typename T, void (*function)(T *)> struct Free {
    void operator()(T *handle) const noexcept { function(handle); }
};

template <typename T, void (*function)(T *)> using Handle = std::unique_ptr<T, Free<T, function>>;

template <typename Info, typename Object>
Info info(qm_status (*function)(const Object *, Info *, size_t), const Object *object) {
    Info result{};
    check(function(object, &result, sizeof result));
    return result;
}

} // namespace detail

// Load options with their defaults; change the fields that you like.
struct LoadOptions : qm_load_options_t {
    LoadOptions() { detail::check(qm_load_options_init(this, sizeof(qm_load_options_t))); }
};

// Generate options with their defaults; change the fields that you like. Fill `stop_texts` instead of `stop`.
struct GenerateOptions : qm_generate_options_t {
    GenerateOptions() { detail::check(qm_generate_options_init(this, sizeof(qm_generate_options_t))); }

    std::vector<std::string> stop_texts;

    // Calls `function` with options for C, which point into this object.
    template <typename Function> qm_status apply(Function function) const {
        std::vector<const char *> texts;
        for (const std::string &text : stop_texts) texts.push_back(text.c_str());
        qm_generate_options_t options = *this;
        if (!texts.empty()) {
            options.stop = texts.data();
            options.stop_count = static_cast<uint32_t>(texts.size());
        }
        return detail::check(function(&options));
    }
};

// A running generation. Its destructor cancels it.
class Stream {
public:
    enum class Event { text, pending, done };

    static constexpr std::chrono::microseconds forever{-1};

    explicit Stream(qm_stream *owned) : handle_(owned) {}

    // The text since the last call into `text`. A timeout of 0 never blocks, a negative one waits as long as it takes.
    Event next(std::string &text, std::chrono::microseconds timeout = forever) {
        char piece[1024];
        size_t length = 0;
        qm_status status = detail::check(qm_stream_next(get(), piece, sizeof piece, &length, timeout.count()));
        text.assign(piece, length);
        return status == QM_OK ? Event::text : status == QM_PENDING ? Event::pending : Event::done;
    }

    // Waits for more text; false at the end.
    bool read(std::string &text) { return next(text) == Event::text; }

    // Waits for the end and returns all text until then.
    std::string rest() {
        std::string all;
        for (std::string text; read(text);) all += text;
        return all;
    }

    // Ends the generation. Callable from any thread.
    void cancel() const { detail::check(qm_stream_cancel(get())); }

    qm_stream_stats_t stats() const { return detail::info<qm_stream_stats_t, qm_stream>(qm_stream_stats, get()); }

    qm_stream *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<qm_stream, qm_stream_free> handle_;
};

// A loaded model. Its methods may be called from many threads at the same time.
class Model {
public:
    // Loads and waits.
    explicit Model(const std::string &path, const LoadOptions &options = LoadOptions()) {
        qm_model *model = nullptr;
        detail::check(qm_load(path.c_str(), &options, &model));
        handle_.reset(model);
    }

    explicit Model(qm_model *owned) : handle_(owned) {}

    qm_model_info_t info() const { return detail::info<qm_model_info_t, qm_model>(qm_model_info, get()); }
    qm_expert_stats_t expert_stats() const { return detail::info<qm_expert_stats_t, qm_model>(qm_expert_stats, get()); }
    qm_memory_stats_t memory_stats() const { return detail::info<qm_memory_stats_t, qm_model>(qm_memory_stats, get()); }

    // Starts to continue a text, and returns at once: what is wrong with the prompt is thrown by the stream.
    Stream stream(const std::string &prompt, const GenerateOptions &options = GenerateOptions()) const {
        return open(qm_stream_open, prompt, options);
    }

    // Starts an answer in a chat: a JSON array of {"role", "content"}.
    Stream chat(const std::string &messages_json, const GenerateOptions &options = GenerateOptions()) const {
        return open(qm_chat_open, messages_json, options);
    }

    // Continues a text and waits for all of it.
    std::string generate(const std::string &prompt, const GenerateOptions &options = GenerateOptions()) const {
        return stream(prompt, options).rest();
    }

    std::vector<int32_t> tokenize(std::string_view text, uint32_t flags = QM_TEXT_SPECIAL) const {
        size_t count = 0;
        detail::check(qm_tokenize(get(), text.data(), text.size(), flags, nullptr, 0, &count));
        std::vector<int32_t> ids(count);
        detail::check(qm_tokenize(get(), text.data(), text.size(), flags, ids.data(), ids.size(), &count));
        return ids;
    }

    std::string detokenize(const std::vector<int32_t> &ids, uint32_t flags = QM_TEXT_SPECIAL) const {
        size_t length = 0;
        detail::check(qm_detokenize(get(), ids.data(), ids.size(), flags, nullptr, 0, &length));
        std::string text(length, '\0');
        detail::check(qm_detokenize(get(), ids.data(), ids.size(), flags, text.data(), text.size(), &length));
        text.resize(length);
        return text;
    }

    // Logits behind each id, ids.size() rows of info().vocab numbers.
    std::vector<float> eval(const std::vector<int32_t> &ids) const {
        size_t count = 0;
        detail::check(qm_eval(get(), ids.data(), ids.size(), nullptr, 0, &count));
        std::vector<float> logits(count);
        detail::check(qm_eval(get(), ids.data(), ids.size(), logits.data(), logits.size(), &count));
        return logits;
    }

    // Visits of each routed expert of a layer.
    std::vector<uint64_t> expert_counts(uint32_t layer) const {
        size_t count = 0;
        detail::check(qm_expert_counts(get(), layer, nullptr, 0, &count));
        std::vector<uint64_t> counts(count);
        detail::check(qm_expert_counts(get(), layer, counts.data(), counts.size(), &count));
        return counts;
    }

    qm_model *get() const noexcept { return handle_.get(); }

private:
    using Open = qm_status (*)(qm_model *, const char *, const qm_generate_options_t *, qm_stream **);

    Stream open(Open function, const std::string &input, const GenerateOptions &options) const {
        qm_stream *stream = nullptr;
        options.apply([&](const qm_generate_options_t *o) { return function(get(), input.c_str(), o, &stream); });
        return Stream(stream);
    }

    detail::Handle<qm_model, qm_model_free> handle_;
};

// A load on another thread. Its destructor cancels it and waits for that thread.
class Load {
public:
    explicit Load(const std::string &path, const LoadOptions &options = LoadOptions()) {
        qm_load_op *op = nullptr;
        detail::check(qm_load_start(path.c_str(), &options, &op));
        handle_.reset(op);
    }

    // The model once it is there; never blocks.
    std::optional<Model> poll(qm_load_progress_t *progress = nullptr) {
        qm_model *model = nullptr;
        detail::check(qm_load_poll(handle_.get(), progress, progress ? sizeof *progress : 0, &model));
        return model ? std::optional<Model>(Model(model)) : std::nullopt;
    }

    // Ends the load. Callable from any thread.
    void cancel() const { detail::check(qm_load_cancel(handle_.get())); }

private:
    detail::Handle<qm_load_op, qm_load_free> handle_;
};

// What a load would take.
inline qm_fit_t fit(const std::string &path, const LoadOptions &options = LoadOptions()) {
    qm_fit_t result{};
    detail::check(qm_fit(path.c_str(), &options, &result, sizeof result));
    return result;
}

} // namespace qwen3moe

#endif
