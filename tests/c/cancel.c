/* cancel MODEL: ends from other threads, in prefill and in decode, and frees in every order. */
#include "check.h"

typedef struct {
    const qm_stream *stream;
    int64_t after_us;
} canceller;

static void *cancel_later(void *argument) {
    canceller *c = argument;
    sleep_us(c->after_us);
    CHECK_STATUS(qm_stream_cancel(c->stream), QM_OK);
    return NULL;
}

/* The status that ends a stream which is cancelled from another thread while this one waits for text. */
static void cancel_while_waiting(qm_stream *stream, int64_t after_us) {
    canceller c = {stream, after_us};
    pthread_t thread;
    size_t length;
    qm_status last;
    pthread_create(&thread, NULL, cancel_later, &c);
    free(drain(stream, 64, &length, &last));
    pthread_join(thread, NULL);
    CHECK_STATUS(last, QM_ERR_CANCELLED);
    char text[64], byte;
    size_t len;
    CHECK_STATUS(qm_stream_next(stream, &byte, 1, &len, -1), QM_ERR_CANCELLED);
    CHECK(qm_stream_error(stream, text, sizeof text) > 1 && strstr(text, "cancel"));
    CHECK_STATUS(qm_stream_cancel(stream), QM_OK);
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

    /* In prefill: cancelled before the prompt can have been read. */
    qm_stream *stream = open_stream(model, prompt, 4);
    CHECK_STATUS(qm_stream_cancel(stream), QM_OK);
    cancel_while_waiting(stream, 0);
    CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
    CHECK(stats.prefilled_tokens < stats.prompt_tokens && stats.generated_tokens == 0 && stats.finish == QM_FINISH_NONE);
    qm_stream_free(stream);
    check_works(model);

    /* In decode: text has come. */
    char piece[64];
    size_t len;
    stream = open_stream(model, "Hello", 450);
    qm_status status;
    while ((status = qm_stream_next(stream, piece, sizeof piece, &len, -1)) == QM_OK) {
        CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
        if (stats.generated_tokens >= 3) break;
    }
    CHECK_STATUS(status, QM_OK);
    cancel_while_waiting(stream, 0);
    CHECK_STATUS(qm_stream_stats(stream, &stats, sizeof stats), QM_OK);
    CHECK(stats.generated_tokens >= 3 && stats.generated_tokens < 450);
    qm_stream_free(stream);
    check_works(model);

    /* While it waits in line behind others. */
    qm_stream *streams[12];
    for (size_t i = 0; i < 12; i++) streams[i] = open_stream(model, "Hello", 200);
    cancel_while_waiting(streams[11], 100);
    for (size_t i = 0; i < 12; i++) qm_stream_free(streams[i]);
    check_works(model);

    /* Freed in every order: stream first, model first, in prefill, in decode, before anything. */
    qm_stream_free(open_stream(model, prompt, 100));
    qm_stream *first = open_stream(model, prompt, 4), *second = open_stream(model, "Hello", 4);
    qm_model_free(model);
    size_t length;
    free(drain(second, 64, &length, &status));
    CHECK_STATUS(status, QM_DONE);
    qm_stream_free(second);
    CHECK_STATUS(qm_stream_cancel(first), QM_OK);
    qm_stream_free(first);

    qm_load_op *op = NULL;
    CHECK_STATUS(qm_load_start(argv[1], NULL, &op), QM_OK);
    while ((status = qm_load_poll(op, NULL, 0, &model)) == QM_PENDING) sleep_us(500);
    CHECK_STATUS(status, QM_OK);
    stream = open_stream(model, "Hello", 6);
    qm_model_free(model);
    qm_load_free(op);
    free(drain(stream, 64, &length, &status));
    CHECK_STATUS(status, QM_DONE);
    qm_stream_free(stream);
    return check_result();
}
