/* stream MODEL: text piece by piece into buffers of every size, never blocking where that is asked for. */
#include "check.h"

static qm_stream *open_stream(qm_model *model, uint32_t tokens) {
    qm_generate_options_t o = tokens_options(tokens);
    qm_stream *stream = NULL;
    CHECK_STATUS(qm_stream_open(model, "Hello", &o, &stream), QM_OK);
    NEED(stream);
    return stream;
}

static int is_utf8_start(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

/* A game's loop: one call a frame, none may block. */
static void poll_without_blocking(qm_model *model) {
    qm_stream *stream = open_stream(model, 64);
    char piece[64];
    size_t len;
    CHECK_STATUS(qm_stream_next(stream, piece, sizeof piece, &len, INT64_MAX), QM_OK);
    size_t frames = 0, pieces = 0;
    int64_t longest = 0;
    qm_status status;
    do {
        int64_t before = now_us();
        status = qm_stream_next(stream, piece, sizeof piece, &len, 0);
        int64_t took = now_us() - before;
        if (took > longest) longest = took;
        CHECK((status == QM_OK) == (len > 0));
        pieces += status == QM_OK;
        frames++;
        if (status == QM_PENDING) sleep_us(1000);
    } while (status == QM_OK || status == QM_PENDING);
    CHECK_STATUS(status, QM_DONE);
    CHECK(pieces > 0);
    dprintf(3, "%zu frames, %zu with text; the longest stall was %lld us\n", frames, pieces, (long long)longest);
    qm_stream_free(stream);
}

/* Every capacity gives the same text, and cuts it only between code points. */
static void small_buffers(qm_model *model) {
    char whole[4096];
    size_t whole_length, length, len;
    qm_status last;
    qm_generate_options_t o = tokens_options(40);
    CHECK_STATUS(qm_generate(model, "Hello", &o, whole, sizeof whole, &whole_length), QM_OK);
    CHECK(whole_length > 0 && whole[whole_length] == '\0');
    for (size_t cap = 5; cap < 40; cap += 7) {
        qm_stream *stream = open_stream(model, 40);
        char *text = drain(stream, cap, &length, &last);
        CHECK(last == QM_DONE && length == whole_length && memcmp(text, whole, length) == 0);
        free(text);
        qm_stream_free(stream);
    }

    /* No room at all: the size is reported, and nothing is lost however often that happens. */
    qm_stream *stream = open_stream(model, 40);
    char piece[5];
    size_t at = 0;
    for (int turn = 0;; turn++) {
        size_t cap = (size_t)turn % 6; /* 0 to 5; 0 and 1 never fit */
        memset(piece, 'x', sizeof piece);
        last = qm_stream_next(stream, piece, cap, &len, -1);
        for (size_t i = cap; i < sizeof piece; i++) CHECK(piece[i] == 'x');
        if (last == QM_ERR_BUFFER_TOO_SMALL) {
            CHECK(cap < 5 && len > cap && (cap == 0 || piece[0] == '\0'));
            continue;
        }
        if (last != QM_OK) break;
        CHECK(cap > 1 && len < cap && piece[len] == '\0' && is_utf8_start(piece[0]));
        NEED(at + len <= whole_length);
        CHECK(memcmp(piece, whole + at, len) == 0);
        at += len;
    }
    CHECK(last == QM_DONE && at == whole_length);
    int64_t timeouts[] = {0, -1, INT64_MIN, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(qm_stream_next(stream, piece, sizeof piece, &len, timeouts[i]), QM_DONE);
    }
    CHECK(qm_stream_error(stream, NULL, 0) == 1);
    qm_stream_free(stream);

    /* qm_generate: the size that it asks for is the size that it needs. */
    char *exact = malloc(whole_length + 1);
    NEED(exact);
    CHECK_STATUS(qm_generate(model, "Hello", &o, exact, whole_length, &len), QM_ERR_BUFFER_TOO_SMALL);
    CHECK(len == whole_length + 1);
    CHECK_STATUS(qm_generate(model, "Hello", &o, exact, 1, &len), QM_ERR_BUFFER_TOO_SMALL);
    CHECK(len == whole_length + 1 && exact[0] == '\0');
    CHECK_STATUS(qm_generate(model, "Hello", &o, NULL, 0, &len), QM_ERR_BUFFER_TOO_SMALL);
    CHECK(len == whole_length + 1);
    CHECK_STATUS(qm_generate(model, "Hello", &o, exact, len, &len), QM_OK);
    CHECK(len == whole_length && memcmp(exact, whole, len + 1) == 0);
    free(exact);
}

/* How a generation ends, and what the statistics say of it. */
static void endings(qm_model *model) {
    char whole[4096], text[4096];
    size_t whole_length, length, len;
    qm_status last;
    qm_stream_stats_t stats;
    qm_generate_options_t o = tokens_options(30);
    CHECK_STATUS(qm_generate(model, "Hello", &o, whole, sizeof whole, &whole_length), QM_OK);

    qm_stream *stream = open_stream(model, 30);
    free(drain(stream, 64, &length, &last));
    CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
    CHECK(stats.finish == QM_FINISH_LENGTH && stats.generated_tokens == 30);
    CHECK(stats.prompt_tokens > 0 && stats.prefilled_tokens == stats.prompt_tokens);
    CHECK(stats.decode_us > 0 && stats.prefill_us > 0);
    qm_stream_free(stream);

    /* A stop text from the middle of what would come ends it there. */
    size_t from = whole_length / 2;
    while (!is_utf8_start(whole[from])) from++;
    size_t to = from + 1;
    while (!is_utf8_start(whole[to])) to++;
    char stop[8] = {0};
    memcpy(stop, whole + from, to - from);
    const char *stops[] = {"this never comes", stop};
    o.stop = stops;
    o.stop_count = 2;
    CHECK_STATUS(qm_stream_open(model, "Hello", &o, &stream), QM_OK);
    char *stopped = drain(stream, 64, &length, &last);
    CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
    CHECK(last == QM_DONE && stats.finish == QM_FINISH_STOP);
    CHECK(length <= from && memcmp(stopped, whole, length) == 0 && strstr(stopped, stop) == NULL);
    free(stopped);
    qm_stream_free(stream);

    /* A deadline that has passed when the first step is done. */
    o = tokens_options(400);
    o.deadline_us = 1;
    CHECK_STATUS(qm_stream_open(model, "Hello", &o, &stream), QM_OK);
    free(drain(stream, 64, &length, &last));
    CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
    CHECK(last == QM_DONE && stats.finish == QM_FINISH_DEADLINE && stats.generated_tokens < 400);
    qm_stream_free(stream);

    /* The same seed gives the same text, another one another. */
    o = tokens_options(30);
    CHECK_STATUS(qm_generate(model, "Hello", &o, text, sizeof text, &len), QM_OK);
    CHECK(len == whole_length && memcmp(text, whole, len) == 0);
    o.seed++;
    CHECK_STATUS(qm_generate(model, "Hello", &o, text, sizeof text, &len), QM_OK);
    CHECK(len != whole_length || memcmp(text, whole, len) != 0);

    /* A chat, with everything that JSON can escape. */
    o = tokens_options(8);
    const char *chat = "[{\"role\": \"system\", \"content\": \"Be brief.\"},"
                       " {\"role\": \"user\", \"content\": \"\\\"quotes\\\"\\n\\u00e9 \xe2\x82\xac \\ud83d\\ude00\"}]";
    CHECK_STATUS(qm_chat_open(model, chat, &o, &stream), QM_OK);
    free(drain(stream, 64, &length, &last));
    CHECK(last == QM_DONE && length > 0);
    qm_stream_free(stream);
}

/* A context that is full is an error of the stream alone, with its text so far. */
static void full_context(qm_model *model) {
    qm_model_info_t info;
    CHECK_STATUS(qm_model_info(model, &info, sizeof info), QM_OK);
    qm_stream *stream = open_stream(model, info.context_length + 10), *other = open_stream(model, 8);
    size_t length;
    qm_status last;
    free(drain(stream, 256, &length, &last));
    CHECK_STATUS(last, QM_ERR_CONTEXT_FULL);
    CHECK(length > 0);
    char text[256], again[256], byte;
    size_t len;
    CHECK_STATUS(qm_stream_next(stream, &byte, 1, &len, 0), QM_ERR_CONTEXT_FULL);
    CHECK(qm_stream_error(stream, text, sizeof text) == strlen(text) + 1 && strlen(text) > 5);
    qm_last_error(again, sizeof again);
    CHECK(strcmp(text, again) == 0);
    CHECK(qm_stream_error(stream, again, 6) == strlen(text) + 1 && strlen(again) == 5 && memcmp(text, again, 5) == 0);
    qm_stream_free(stream);
    free(drain(other, 256, &length, &last));
    CHECK_STATUS(last, QM_DONE);
    qm_stream_free(other);

    /* A prompt that is longer than the context is an error of its stream, */
    char *prompt = malloc(20 * (size_t)info.context_length + 1);
    NEED(prompt);
    prompt[0] = '\0';
    for (uint32_t i = 0; i < info.context_length; i++) memcpy(prompt + 20 * i, "The quick brown fox\n", 21);
    CHECK_STATUS(qm_stream_open(model, prompt, NULL, &stream), QM_OK);
    NEED(stream);
    free(prompt);
    CHECK_STATUS(qm_stream_next(stream, text, sizeof text, &len, -1), QM_ERR_CONTEXT_FULL);
    CHECK_STATUS(qm_stream_next(stream, text, sizeof text, &len, 0), QM_ERR_CONTEXT_FULL);
    CHECK(len == 0 && qm_stream_error(stream, text, sizeof text) > 1 && strstr(text, "tokens"));
    qm_stream_free(stream);

    /* ... and one that is longer than any tokens could be is refused at once. */
    size_t length_beyond = (size_t)4 << 20;
    prompt = malloc(length_beyond + 1);
    NEED(prompt);
    memset(prompt, 'a', length_beyond);
    prompt[length_beyond] = '\0';
    stream = (qm_stream *)&info;
    int64_t before = now_us();
    CHECK_STATUS(qm_stream_open(model, prompt, NULL, &stream), QM_ERR_CONTEXT_FULL);
    CHECK(now_us() - before < 1000000 && stream == NULL);
    free(prompt);
}

int main(int argc, char **argv) {
    NEED(argc == 2);
    qm_load_options_t o;
    qm_model *model = NULL;
    CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
    o.context_length = 128;
    CHECK_STATUS(qm_load(argv[1], &o, &model), QM_OK);
    NEED(model);
    poll_without_blocking(model);
    small_buffers(model);
    endings(model);
    full_context(model);
    qm_model_free(model);
    return check_result();
}
