/* threads MODEL OTHER: eight threads on one model, two models at once, and each gets the text that it would get alone. */
#include "check.h"

enum { THREADS = 8, ROUNDS = 3, TOKENS = 24 };

typedef struct {
    qm_model *model;
    uint64_t seed;
    int streaming;
    char expected[2048];
    size_t expected_length;
} job;

static qm_generate_options_t options(const job *j) {
    qm_generate_options_t o = tokens_options(TOKENS);
    o.seed = j->seed;
    return o;
}

static void *work(void *argument) {
    job *j = argument;
    qm_generate_options_t o = options(j);
    for (int round = 0; round < ROUNDS; round++) {
        char text[2048];
        size_t length = 0;
        if (j->streaming) {
            qm_stream *stream = NULL;
            qm_status last;
            CHECK_STATUS(qm_stream_open(j->model, "Hello", &o, &stream), QM_OK);
            char *all = drain(stream, 16, &length, &last);
            CHECK(last == QM_DONE && length == j->expected_length && memcmp(all, j->expected, length) == 0);
            free(all);
            qm_stream_free(stream);
        } else {
            CHECK_STATUS(qm_generate(j->model, "Hello", &o, text, sizeof text, &length), QM_OK);
            CHECK(length == j->expected_length && memcmp(text, j->expected, length) == 0);
        }
        qm_expert_stats_t experts;
        qm_memory_stats_t memory;
        CHECK_STATUS(qm_expert_stats(j->model, &experts, sizeof experts), QM_OK);
        CHECK_STATUS(qm_memory_stats(j->model, &memory, sizeof memory), QM_OK);
    }
    /* An error of this thread is not another's. */
    char error[256];
    CHECK_STATUS(qm_generate(NULL, NULL, NULL, NULL, 0, &j->expected_length), QM_ERR_INVALID_ARGUMENT);
    qm_last_error(error, sizeof error);
    CHECK(strstr(error, "m: is NULL"));
    return NULL;
}

static void run(qm_model *first, qm_model *second) {
    static job jobs[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        job *j = &jobs[i];
        j->model = i % 2 ? second : first;
        j->seed = 100 + (uint64_t)i;
        j->streaming = i / 2 % 2;
        qm_generate_options_t o = options(j);
        CHECK_STATUS(qm_generate(j->model, "Hello", &o, j->expected, sizeof j->expected, &j->expected_length), QM_OK);
    }
    for (int i = 0; i < THREADS; i++) NEED(pthread_create(&threads[i], NULL, work, &jobs[i]) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void *load(void *path) { return load_model(path); }

int main(int argc, char **argv) {
    NEED(argc == 3);
    pthread_t thread;
    void *second;
    NEED(pthread_create(&thread, NULL, load, argv[2]) == 0);
    qm_model *first = load_model(argv[1]);
    pthread_join(thread, &second);
    run(first, first);
    run(first, second);
    qm_model_free(first);
    qm_model_free(second);
    return check_result();
}
