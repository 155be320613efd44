/* cancel MODEL: ends from other threads, in prefill and in decode, and frees in every order. */
#include "check.h"

/* Cancels once a stream has read and generated some tokens, whatever the thread that owns it does. */
typedef struct {
    const qm_stream *stream;
    uint64_t prefilled, generated;
} canceller;

static void *cancel_later(void *argument) {
    canceller *c = argument;
    qm_stream_stats_t stats;
    do {
        CHECK_STATUS(qm_stream_stats(c->stream, &stats, sizeof stats), QM_OK);
    } while (stats.prefilled_tokens < c->prefilled || stats.generated_tokens < c->generated);
    CHECK_STATUS(qm_stream_cancel(c->stream), QM_OK);
    return NULL;
}

/* Another thread cancels the stream while this one waits for its text. Returns 0 if the stream ended before that. */
static int cancel_while_waiting(qm_stream *stream, uint64_t prefilled, uint64_t generated) {
    canceller c = {stream, prefilled, generated};
    pthread_t thread;
    size_t length;
    qm_status last;
    NEED(pthread_create(&thread, NULL, cancel_later, &c) == 0);
    free(drain(stream, 64, &length, &last));
    pthread_join(thread, NULL);
    if (last == QM_DONE) return 0;
    CHECK_STATUS(last, QM_ERR_CANCELLED);
    char text[64], byte;
    size_t len;
    CHECK_STATUS(qm_stream_next(stream, &byte, 1, &len, -1), QM_ERR_CANCELLED);
    CHECK(qm_stream_error(stream, text, sizeof text) > 1 && strstr(text, "cancel"));
    CHECK_STATUS(qm_stream_cancel(stream), QM_OK);
    return 1;
}

static qm_stream *open_stream(qm_model *model, const char *prompt, uint32_t tokens) {
    qm_generate_options_t o = tokens_options(tokens);
    qm_stream *stream = NULL;
    CHECK_STATUS(qm_stream_open(model, prompt, &o, &stream), QM_OK);
    NEED(stream);
    return stream;
}

static void check_works(qm_model *model) {
    qm_generate_options_t o = tokens_options(4);
    char buf[256];
    size_t len;
    CHECK_STATUS(qm_generate(model, "Hello", &o, buf, sizeof buf, &len), QM_OK);
}

int main(int argc, char **argv) {
    NEED(argc == 2);
    qm_load_options_t o;
    qm_model *model = NULL;
    qm_stream_stats_t stats;
    CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
    o.prefill_chunk = 1; /* so that a prompt takes many steps */
    CHECK_STATUS(qm_load(argv[1], &o, &model), QM_OK);
    NEED(model);
    char prompt[401];
    for (size_t i = 0; i < 400; i++) prompt[i] = "abcdefghij"[i * i % 7 % 10];
    prompt[400] = '\0';

    /* In prefill, after its first step and long before its last; a busy machine may let the cancel come too late. */
    int in_prefill = 0;
    for (int attempt = 0; attempt < 50 && !in_prefill; attempt++) {
        qm_stream *stream = open_stream(model, prompt, 1);
        if (cancel_while_waiting(stream, 1, 0)) {
            CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
            CHECK(stats.finish == QM_FINISH_NONE);
            in_prefill = stats.prefilled_tokens > 0 && stats.prefilled_tokens < stats.prompt_tokens;
        }
        qm_stream_free(stream);
    }
    CHECK(in_prefill);
    check_works(model);

    /* In decode, while this thread waits for text. */
    int in_decode = 0;
    for (int attempt = 0; attempt < 50 && !in_decode; attempt++) {
        qm_stream *stream = open_stream(model, "Hello", 400);
        if (cancel_while_waiting(stream, 1, 3)) {
            CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
            in_decode = stats.generated_tokens >= 3 && stats.generated_tokens < 400;
        }
        qm_stream_free(stream);
    }
    CHECK(in_decode);
    check_works(model);

    /* While it waits in line behind others. */
    qm_stream *streams[12];
    for (size_t i = 0; i < 12; i++) streams[i] = open_stream(model, "Hello", 200);
    CHECK(cancel_while_waiting(streams[11], 0, 0));
    for (size_t i = 0; i < 12; i++) qm_stream_free(streams[i]);
    check_works(model);

    /* Freed in every order: stream first, model first, in prefill, in decode, before anything. */
    qm_stream_free(open_stream(model, prompt, 100));
    qm_stream *first = open_stream(model, prompt, 4), *second = open_stream(model, "Hello", 4);
    qm_model_free(model);
    size_t length;
    qm_status status;
    free(drain(second, 64, &length, &status));
    CHECK_STATUS(status, QM_DONE);
    qm_stream_free(second);
    CHECK_STATUS(qm_stream_cancel(first), QM_OK);
    qm_stream_free(first);

    qm_load_op *op = NULL;
    CHECK_STATUS(qm_load_start(argv[1], NULL, &op), QM_OK);
    while ((status = qm_load_poll(op, NULL, 0, &model)) == QM_PENDING) sleep_us(500);
    CHECK_STATUS(status, QM_OK);
    qm_stream *stream = open_stream(model, "Hello", 6);
    qm_model_free(model);
    qm_load_free(op);
    free(drain(stream, 64, &length, &status));
    CHECK_STATUS(status, QM_DONE);
    qm_stream_free(stream);
    return check_result();
}
