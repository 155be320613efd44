/* What the C tests share. Nothing is printed while all is well: the runner takes any output for a failure of the library.
 * A measurement goes to descriptor 3, which the runner shows. */

#ifndef CHECK_H
#define CHECK_H

#include "qwen3moe.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int check_failures;

static inline void check_failed(const char *file, int line, const char *what, const char *found) {
    char error[512];
    qm_last_error(error, sizeof error);
    fprintf(stderr, "%s:%d: %s: %s (last error: %s)\n", file, line, what, found, error);
    __atomic_add_fetch(&check_failures, 1, __ATOMIC_RELAXED);
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) check_failed(__FILE__, __LINE__, #condition, "does not hold");                               \
    } while (0)

#define CHECK_STATUS(call, expected)                                                                                   \
    do {                                                                                                               \
        qm_status check_status = (call);                                                                               \
        if (check_status != (expected)) check_failed(__FILE__, __LINE__, #call, qm_status_str(check_status));          \
    } while (0)

/* The last error names what was wrong. */
#define CHECK_ERROR_SAYS(word)                                                                                         \
    do {                                                                                                               \
        char check_text[2048];                                                                                         \
        qm_last_error(check_text, sizeof check_text);                                                                  \
        if (!strstr(check_text, word)) check_failed(__FILE__, __LINE__, "the error should say", word);                 \
    } while (0)

/* Ends the test where going on makes no sense. */
#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_failed(__FILE__, __LINE__, #condition, "does not hold");                                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static inline int check_result(void) { return check_failures ? 1 : 0; }

static inline int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline void sleep_us(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static inline qm_model *load_model(const char *path) {
    qm_model *model = NULL;
    CHECK_STATUS(qm_load(path, NULL, &model), QM_OK);
    NEED(model);
    return model;
}

/* Options for a generation of exactly `tokens` tokens. */
static inline qm_generate_options_t tokens_options(uint32_t tokens) {
    qm_generate_options_t o;
    CHECK_STATUS(qm_generate_options_init(&o, sizeof o), QM_OK);
    o.max_tokens = tokens;
    o.ignore_eos = 1;
    o.temperature = 1.0f;
    o.seed = 7;
    return o;
}

/* All of a stream's text in pieces of at most `cap` bytes, with a NUL behind it; the caller frees it. `*last` is the status
 * that ended it. */
static inline char *drain(qm_stream *stream, size_t cap, size_t *length, qm_status *last) {
    char *all = malloc(1), *piece = malloc(cap);
    NEED(all && piece);
    *length = 0;
    size_t len;
    while ((*last = qm_stream_next(stream, piece, cap, &len, -1)) == QM_OK) {
        CHECK(len > 0 && len < cap && piece[len] == '\0');
        all = realloc(all, *length + len + 1);
        NEED(all);
        memcpy(all + *length, piece, len);
        *length += len;
    }
    CHECK(len == 0 || *last == QM_ERR_BUFFER_TOO_SMALL);
    all[*length] = '\0';
    free(piece);
    return all;
}

#endif
