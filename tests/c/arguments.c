/* arguments MODEL: every pointer NULL in turn, texts that are not UTF-8, numbers out of range. */
#include "check.h"

#include <math.h>

#define POISON ((void *)(uintptr_t)0x5a5a5a5a)
#define BAD_UTF8 "caf\xe9"

typedef struct {
    const char *call;
    qm_status status;
} row;

#define ROW(call) {#call, (call)}

static void check_rows(const row *rows, size_t count, qm_status expected) {
    for (size_t i = 0; i < count; i++) {
        if (rows[i].status != expected) check_failed(__FILE__, __LINE__, rows[i].call, qm_status_str(rows[i].status));
    }
}

#define CHECK_ROWS(rows, expected) check_rows(rows, sizeof rows / sizeof *rows, expected)

int main(int argc, char **argv) {
    NEED(argc == 2);
    const char *path = argv[1];
    qm_model *m = load_model(path), *model = POISON;
    qm_generate_options_t o = tokens_options(4);
    qm_load_options_t lo;
    CHECK_STATUS(qm_load_options_init(&lo, sizeof lo), QM_OK);
    qm_load_op *op = NULL, *started = POISON;
    CHECK_STATUS(qm_load_start(path, NULL, &op), QM_OK);
    qm_stream *s = NULL, *stream = POISON;
    CHECK_STATUS(qm_stream_open(m, "Hello", &o, &s), QM_OK);
    NEED(op && s);

    char buf[64];
    size_t len = 99;
    int32_t ids[64] = {1, 2};
    float logits[4];
    uint64_t counts[4];
    qm_load_progress_t progress;
    qm_model_info_t info;
    qm_stream_stats_t stats;
    qm_expert_stats_t experts;
    qm_memory_stats_t memory;
    qm_fit_t fit;
    const char *hello = "[{\"role\": \"user\", \"content\": \"hi\"}]";

    row nulls[] = {
        ROW(qm_load_options_init(NULL, sizeof lo)),
        ROW(qm_load(NULL, NULL, &model)),
        ROW(qm_load(path, NULL, NULL)),
        ROW(qm_load_start(NULL, NULL, &started)),
        ROW(qm_load_start(path, NULL, NULL)),
        ROW(qm_load_poll(NULL, &progress, sizeof progress, &model)),
        ROW(qm_load_poll(op, &progress, sizeof progress, NULL)),
        ROW(qm_load_cancel(NULL)),
        ROW(qm_model_info(NULL, &info, sizeof info)),
        ROW(qm_model_info(m, NULL, sizeof info)),
        ROW(qm_generate_options_init(NULL, sizeof o)),
        ROW(qm_generate(NULL, "Hello", &o, buf, sizeof buf, &len)),
        ROW(qm_generate(m, NULL, &o, buf, sizeof buf, &len)),
        ROW(qm_generate(m, "Hello", &o, NULL, sizeof buf, &len)),
        ROW(qm_generate(m, "Hello", &o, buf, sizeof buf, NULL)),
        ROW(qm_stream_open(NULL, "Hello", &o, &stream)),
        ROW(qm_stream_open(m, NULL, &o, &stream)),
        ROW(qm_stream_open(m, "Hello", &o, NULL)),
        ROW(qm_chat_open(NULL, hello, &o, &stream)),
        ROW(qm_chat_open(m, NULL, &o, &stream)),
        ROW(qm_chat_open(m, hello, &o, NULL)),
        ROW(qm_stream_next(NULL, buf, sizeof buf, &len, 0)),
        ROW(qm_stream_next(s, NULL, sizeof buf, &len, 0)),
        ROW(qm_stream_next(s, NULL, 0, &len, 0)),
        ROW(qm_stream_next(s, buf, sizeof buf, NULL, 0)),
        ROW(qm_stream_cancel(NULL)),
        ROW(qm_stream_stats(NULL, &stats, sizeof stats)),
        ROW(qm_stream_stats(s, NULL, sizeof stats)),
        ROW(qm_tokenize(NULL, "a", 1, 0, ids, 64, &len)),
        ROW(qm_tokenize(m, NULL, 1, 0, ids, 64, &len)),
        ROW(qm_tokenize(m, "a", 1, 0, NULL, 64, &len)),
        ROW(qm_tokenize(m, "a", 1, 0, ids, 64, NULL)),
        ROW(qm_detokenize(NULL, ids, 2, 0, buf, sizeof buf, &len)),
        ROW(qm_detokenize(m, NULL, 2, 0, buf, sizeof buf, &len)),
        ROW(qm_detokenize(m, ids, 2, 0, NULL, sizeof buf, &len)),
        ROW(qm_detokenize(m, ids, 2, 0, buf, sizeof buf, NULL)),
        ROW(qm_eval(NULL, ids, 2, logits, 4, &len)),
        ROW(qm_eval(m, NULL, 2, logits, 4, &len)),
        ROW(qm_eval(m, ids, 2, NULL, 4, &len)),
        ROW(qm_eval(m, ids, 2, logits, 4, NULL)),
        ROW(qm_expert_stats(NULL, &experts, sizeof experts)),
        ROW(qm_expert_stats(m, NULL, sizeof experts)),
        ROW(qm_expert_counts(NULL, 0, counts, 4, &len)),
        ROW(qm_expert_counts(m, 0, NULL, 4, &len)),
        ROW(qm_expert_counts(m, 0, counts, 4, NULL)),
        ROW(qm_memory_stats(NULL, &memory, sizeof memory)),
        ROW(qm_memory_stats(m, NULL, sizeof memory)),
        ROW(qm_fit(NULL, NULL, &fit, sizeof fit)),
        ROW(qm_fit(path, NULL, NULL, sizeof fit)),
    };
    CHECK_ROWS(nulls, QM_ERR_INVALID_ARGUMENT);
    CHECK_ERROR_SAYS("NULL");
    CHECK(model == NULL && started == NULL && stream == NULL && len == 0);

    qm_load_free(NULL);
    qm_model_free(NULL);
    qm_stream_free(NULL);
    CHECK(qm_stream_error(NULL, buf, sizeof buf) == 1 && buf[0] == '\0');
    CHECK(qm_stream_error(s, NULL, 0) == 1);
    CHECK(qm_last_error(NULL, 0) > 1);

    const char *bad_stops[] = {"fine", BAD_UTF8}, *null_stops[] = {"fine", NULL};
    qm_generate_options_t bad_stop = o, null_stop = o, no_stops = o, nan = o, late = o;
    bad_stop.stop = bad_stops;
    null_stop.stop = null_stops;
    bad_stop.stop_count = null_stop.stop_count = no_stops.stop_count = 2;
    nan.temperature = NAN;
    late.deadline_us = -1;
    qm_load_options_t bad_cache = lo, bad_device = lo, bad_level = lo, bad_kv = lo, bad_step = lo;
    qm_load_options_t bad_priority = lo, bad_context = lo;
    bad_cache.cache_dir = BAD_UTF8;
    bad_device.device = -3;
    bad_level.log_level = 5;
    bad_kv.kv = 3;
    bad_step.max_step_us = -1;
    bad_priority.device_priority = 3;
    bad_context.cuda_context = &lo; /* without the number of its device */
    int32_t negative[] = {1, -1};
    model = POISON;
    started = POISON;
    stream = POISON;
    row wrong[] = {
        ROW(qm_load("", NULL, &model)),
        ROW(qm_load(BAD_UTF8, NULL, &model)),
        ROW(qm_load(path, &bad_cache, &model)),
        ROW(qm_load(path, &bad_device, &model)),
        ROW(qm_load(path, &bad_level, &model)),
        ROW(qm_load(path, &bad_kv, &model)),
        ROW(qm_load(path, &bad_step, &model)),
        ROW(qm_load(path, &bad_priority, &model)),
        ROW(qm_load(path, &bad_context, &model)),
        ROW(qm_load_start(BAD_UTF8, NULL, &started)),
        ROW(qm_fit(BAD_UTF8, NULL, &fit, sizeof fit)),
        ROW(qm_generate(m, BAD_UTF8, &o, buf, sizeof buf, &len)),
        ROW(qm_stream_open(m, BAD_UTF8, &o, &stream)),
        ROW(qm_stream_open(m, "Hello", &bad_stop, &stream)),
        ROW(qm_stream_open(m, "Hello", &null_stop, &stream)),
        ROW(qm_stream_open(m, "Hello", &no_stops, &stream)),
        ROW(qm_stream_open(m, "Hello", &nan, &stream)),
        ROW(qm_stream_open(m, "Hello", &late, &stream)),
        ROW(qm_chat_open(m, BAD_UTF8, &o, &stream)),
        ROW(qm_tokenize(m, BAD_UTF8, 4, 0, ids, 64, &len)),
        ROW(qm_tokenize(m, "a", 1, 2, ids, 64, &len)),
        ROW(qm_detokenize(m, ids, 2, 2, buf, sizeof buf, &len)),
        ROW(qm_detokenize(m, negative, 2, 0, buf, sizeof buf, &len)),
        ROW(qm_eval(m, negative, 2, logits, 4, &len)),
        ROW(qm_expert_counts(m, UINT32_MAX, counts, 4, &len)),
    };
    CHECK_ROWS(wrong, QM_ERR_INVALID_ARGUMENT);
    CHECK(model == NULL && started == NULL && stream == NULL);
    CHECK_STATUS(qm_load(BAD_UTF8, NULL, &model), QM_ERR_INVALID_ARGUMENT);
    CHECK_ERROR_SAYS("path");
    CHECK_ERROR_SAYS("byte 3");

    /* What is wrong with a prompt is found behind the call that opens the stream, and stays. */
    const char *chats[] = {"", "{}", "[{\"role\": \"user\""};
    for (size_t i = 0; i < 4; i++) {
        stream = NULL;
        CHECK_STATUS(i < 3 ? qm_chat_open(m, chats[i], &o, &stream) : qm_stream_open(m, "", &o, &stream), QM_OK);
        NEED(stream);
        CHECK_STATUS(qm_stream_next(stream, buf, sizeof buf, &len, -1), QM_ERR_INVALID_ARGUMENT);
        CHECK_STATUS(qm_stream_next(stream, buf, sizeof buf, &len, 0), QM_ERR_INVALID_ARGUMENT);
        CHECK(len == 0 && qm_stream_error(stream, buf, sizeof buf) > 1);
        qm_stream_free(stream);
    }
    CHECK_STATUS(qm_generate(m, "", &o, buf, sizeof buf, &len), QM_ERR_INVALID_ARGUMENT);

    CHECK(strcmp(qm_status_str(QM_OK), "ok") == 0 && strcmp(qm_status_str(12345), "unknown status") == 0);
    CHECK(qm_version_number() == QM_VERSION_NUMBER && qm_abi_version() == QM_ABI_VERSION);
    snprintf(buf, sizeof buf, "%d.%d.%d", QM_VERSION_MAJOR, QM_VERSION_MINOR, QM_VERSION_PATCH);
    CHECK(strcmp(qm_version(), buf) == 0);
    CHECK(qm_build_info()[0] == '{' && strstr(qm_build_info(), buf));

    /* The calls above left the handles as they were. */
    size_t length;
    qm_status last;
    free(drain(s, 64, &length, &last));
    CHECK(last == QM_DONE);
    qm_stream_free(s);
    qm_load_free(op);
    qm_model_free(m);
    return check_result();
}
