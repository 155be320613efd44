/* load MODEL: a load that is watched, cancelled, forgotten or given too little memory. */
#include "check.h"

#include <dirent.h>
#include <unistd.h>

typedef struct {
    int calls, cancel_at, lines;
    pthread_t thread;
    float last;
} watcher;

static int32_t on_progress(const qm_load_progress_t *progress, void *user_data) {
    watcher *w = user_data;
    CHECK(progress->struct_size == sizeof *progress);
    CHECK(progress->fraction >= w->last && progress->fraction <= 1.0f);
    CHECK(pthread_equal(w->thread, pthread_self()));
    w->last = progress->fraction;
    return ++w->calls == w->cancel_at;
}

static void on_log(int32_t level, const char *text, void *user_data) {
    watcher *w = user_data;
    CHECK(level >= QM_LOG_ERROR && level <= QM_LOG_DEBUG && text && *text);
    __atomic_add_fetch(&w->lines, 1, __ATOMIC_RELAXED);
}

static void *cancel_load(void *op) {
    CHECK_STATUS(qm_load_cancel(op), QM_OK);
    return NULL;
}

static void check_works(qm_model *model) {
    qm_generate_options_t o = tokens_options(2);
    char buf[256];
    size_t len;
    CHECK_STATUS(qm_generate(model, "Hello", &o, buf, sizeof buf, &len), QM_OK);
    CHECK(len == strlen(buf));
}

/* Counts the load that a pack cache was written in, and the one that was mapped from it. */
static void on_cache_log(int32_t level, const char *text, void *user_data) {
    int *seen = user_data;
    CHECK(level != QM_LOG_ERROR);
    if (strstr(text, "wrote this pack cache")) seen[0]++;
    if (strstr(text, "mapped from this pack cache")) seen[1]++;
}

static void check_cache_dir(const char *path) {
    char folder[] = "/tmp/qm_load_test_XXXXXX", file[512];
    NEED(mkdtemp(folder));
    for (int load = 0; load < 2; load++) {
        qm_load_options_t o;
        qm_model *model = NULL;
        int seen[2] = {0, 0};
        CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
        o.cache_dir = folder;
        o.log = on_cache_log;
        o.log_user_data = seen;
        CHECK_STATUS(qm_load(path, &o, &model), QM_OK);
        CHECK(seen[0] == (load == 0) && seen[1] == (load == 1));
        check_works(model);
        qm_model_free(model);
    }
    DIR *dir = opendir(folder);
    NEED(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(file, sizeof file, "%s/%s", folder, entry->d_name);
        CHECK(strstr(entry->d_name, ".qmpack") && unlink(file) == 0);
    }
    closedir(dir);
    CHECK(rmdir(folder) == 0);
}

int main(int argc, char **argv) {
    NEED(argc == 2);
    const char *path = argv[1];
    qm_load_op *op = NULL;
    qm_model *model = NULL;
    qm_load_progress_t progress;
    qm_status status;

    /* Watched to its end: the bytes grow to the total, the model comes once. */
    uint64_t done = 0;
    int64_t started = now_us();
    CHECK_STATUS(qm_load_start(path, NULL, &op), QM_OK);
    int64_t start_took = now_us() - started, longest = 0;
    for (;;) {
        int64_t before = now_us();
        status = qm_load_poll(op, &progress, sizeof progress, &model);
        if (now_us() - before > longest) longest = now_us() - before;
        CHECK(progress.done_bytes >= done);
        done = progress.done_bytes;
        if (status != QM_PENDING) break;
        CHECK(model == NULL);
        sleep_us(200);
    }
    dprintf(3, "qm_load_start took %lld us, the longest qm_load_poll %lld us\n", (long long)start_took, (long long)longest);
    CHECK_STATUS(status, QM_OK);
    CHECK(progress.total_bytes > 0 && progress.done_bytes == progress.total_bytes && progress.fraction == 1.0f);
    NEED(model);
    qm_model *again = model;
    CHECK_STATUS(qm_load_poll(op, NULL, 0, &again), QM_ERR_INVALID_ARGUMENT);
    CHECK(again == NULL);
    CHECK_STATUS(qm_load_cancel(op), QM_OK);
    qm_load_free(op);
    check_works(model);
    qm_model_free(model);

    /* Cancelled at once, and from another thread: it ends as cancelled, or was quicker. */
    for (int other_thread = 0; other_thread < 2; other_thread++) {
        pthread_t thread;
        CHECK_STATUS(qm_load_start(path, NULL, &op), QM_OK);
        if (other_thread) pthread_create(&thread, NULL, cancel_load, op);
        else cancel_load(op);
        while ((status = qm_load_poll(op, NULL, 0, &model)) == QM_PENDING) sleep_us(200);
        CHECK(status == QM_ERR_CANCELLED || status == QM_OK);
        CHECK((status == QM_OK) == (model != NULL));
        if (other_thread) pthread_join(thread, NULL);
        qm_load_free(op);
        qm_model_free(model);
    }

    /* Freed while it runs, at several moments, and after its end without taking the model. */
    for (int delay = 0; delay < 5; delay++) {
        CHECK_STATUS(qm_load_start(path, NULL, &op), QM_OK);
        sleep_us(delay * 3000);
        started = now_us();
        qm_load_free(op);
        if (now_us() - started > longest) longest = now_us() - started;
    }
    dprintf(3, "the longest qm_load_free of a running load took %lld us\n", (long long)longest);

    /* The callbacks: progress on this thread; not 0 cancels. */
    qm_load_options_t o;
    watcher w = {0};
    w.thread = pthread_self();
    CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
    o.progress = on_progress;
    o.log = on_log;
    o.log_level = QM_LOG_DEBUG;
    o.progress_user_data = o.log_user_data = &w;
    CHECK_STATUS(qm_load(path, &o, &model), QM_OK);
    CHECK(w.calls > 1 && w.last == 1.0f);
    qm_model_free(model);
    w.calls = 0;
    w.last = 0;
    w.cancel_at = 1;
    status = qm_load(path, &o, &model);
    CHECK(status == QM_ERR_CANCELLED || status == QM_OK);
    qm_model_free(model);

    /* Budgets: refused before anything is loaded, with numbers. qm_fit says so beforehand. */
    qm_fit_t fit;
    CHECK_STATUS(qm_fit(path, NULL, &fit, sizeof fit), QM_OK);
    CHECK(fit.fits == 1 && fit.ram_required > 0 && fit.ram_required <= fit.ram_limit);
    CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
    o.ram_budget = fit.ram_required / 2;
    CHECK_STATUS(qm_fit(path, &o, &fit, sizeof fit), QM_OK);
    CHECK(fit.fits == 0 && strlen(fit.advice) > 0);
    CHECK_STATUS(qm_load(path, &o, &model), QM_ERR_OVER_BUDGET);
    CHECK(model == NULL);
    o.ram_budget = fit.ram_required;
    CHECK_STATUS(qm_load(path, &o, &model), QM_OK);
    qm_model_free(model);
    CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
    o.device = 63;
    CHECK_STATUS(qm_load(path, &o, &model), QM_ERR_NO_DEVICE);

    check_cache_dir(path);
    return check_result();
}
