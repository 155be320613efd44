/* host MODEL: the process is as it was after the last free: threads, files, signals, locale, folder, environment. */
#include "check.h"

#include <dirent.h>
#include <locale.h>
#include <signal.h>

extern char **environ;

typedef struct {
    size_t files, variables;
    char folder[4096], locale[256];
    struct sigaction actions[32];
    sigset_t mask;
} state;

static size_t entries(const char *folder) {
    DIR *dir = opendir(folder);
    NEED(dir);
    size_t count = 0;
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static void look(state *s) {
    memset(s, 0, sizeof *s);
    s->files = entries("/proc/self/fd");
    while (environ[s->variables]) s->variables++;
    NEED(getcwd(s->folder, sizeof s->folder));
    snprintf(s->locale, sizeof s->locale, "%s", setlocale(LC_ALL, NULL));
    for (int signal_number = 1; signal_number < 32; signal_number++) {
        sigaction(signal_number, NULL, &s->actions[signal_number]);
    }
    pthread_sigmask(SIG_BLOCK, NULL, &s->mask);
}

int main(int argc, char **argv) {
    NEED(argc == 2);
    static state before, after;
    look(&before);
    size_t threads = entries("/proc/self/task");
    for (int round = 0; round < 3; round++) {
        qm_model *model = load_model(argv[1]);
        qm_generate_options_t o = tokens_options(8);
        char buf[256];
        size_t len;
        CHECK_STATUS(qm_generate(model, "Hello", &o, buf, sizeof buf, &len), QM_OK);
        qm_stream *stream = NULL;
        CHECK_STATUS(qm_stream_open(model, "Hello", &o, &stream), QM_OK);
        qm_model_free(model);
        qm_stream_free(stream);
    }
    /* The threads end by themselves, soon after the free. */
    int64_t until = now_us() + 5000000;
    while (entries("/proc/self/task") > threads && now_us() < until) sleep_us(1000);
    CHECK(entries("/proc/self/task") == threads);
    look(&after);
    CHECK(after.files == before.files && after.variables == before.variables);
    CHECK(strcmp(after.folder, before.folder) == 0 && strcmp(after.locale, before.locale) == 0);
    for (int i = 1; i < 32; i++) {
        CHECK(after.actions[i].sa_handler == before.actions[i].sa_handler);
    }
    CHECK(memcmp(&after.mask, &before.mask, sizeof after.mask) == 0);
    return check_result();
}
