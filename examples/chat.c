/* A chat on the terminal with libqwen3moe: chat [MODEL]. Ctrl-C ends an answer, Ctrl-D the chat.
 *
 * The library is in open_model and answer; the rest keeps the conversation as the JSON array that qm_chat_open takes. */

#define _POSIX_C_SOURCE 200809L

#include "qwen3moe.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef MODEL
#define MODEL "examples/tavern/model"
#endif

/* ---- A text that grows ---- */

typedef struct {
    char *text;
    size_t length, capacity;
} text_t;

static void append(text_t *t, const char *text, size_t length) {
    if (t->length + length + 1 > t->capacity) {
        t->capacity = 2 * (t->length + length + 1);
        t->text = realloc(t->text, t->capacity);
        if (!t->text) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
    }
    if (length) memcpy(t->text + t->length, text, length);
    t->length += length;
    t->text[t->length] = '\0';
}

static void append_str(text_t *t, const char *text) { append(t, text, strlen(text)); }

/* As the inside of a JSON string: quotes, backslashes and control characters are escaped, UTF-8 stays as it is. */
static void append_json(text_t *t, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        char escaped[8] = {(char)c, '\0'};
        if (c == '"' || c == '\\') snprintf(escaped, sizeof escaped, "\\%c", c);
        else if (c < 0x20) snprintf(escaped, sizeof escaped, "\\u%04x", c);
        append(t, escaped, strlen(escaped));
    }
}

/* ---- The conversation: a JSON array without its closing bracket ---- */

static void add_message(text_t *chat, const char *role, const char *content, size_t length) {
    append_str(chat, chat->length ? ",\n" : "[");
    append_str(chat, "{\"role\": \"");
    append_str(chat, role);
    append_str(chat, "\", \"content\": \"");
    append_json(chat, content, length);
    append_str(chat, "\"}");
}

/* ---- The library ---- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static void report(const char *what) {
    char text[1024];
    qm_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
}

/* Loads on another thread, and shows how far it is. NULL on failure. */
static qm_model *open_model(const char *path) {
    qm_load_op *op;
    qm_model *model = NULL;
    qm_load_progress_t progress = {0};
    if (qm_load_start(path, NULL, &op) == QM_OK) {
        while (qm_load_poll(op, &progress, sizeof progress, &model) == QM_PENDING) {
            if (interrupted) qm_load_cancel(op);
            if (progress.elapsed_us > 500000) fprintf(stderr, "\rloading: %3.0f %%", 100.0 * progress.fraction);
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
        if (progress.elapsed_us > 500000) fputc('\n', stderr);
    }
    if (!model) report(path);
    qm_load_free(op);
    return model;
}

/* Streams an answer to the terminal and to `said`. Returns 0 if there was none. */
static int answer(qm_model *model, text_t *chat, text_t *said) {
    size_t open_length = chat->length;
    qm_stream *stream;
    append_str(chat, "]");
    qm_status status = qm_chat_open(model, chat->text, NULL, &stream);
    chat->text[chat->length = open_length] = '\0';
    said->length = 0;
    interrupted = 0;
    while (status >= 0 && status != QM_DONE) {
        char piece[256];
        size_t length;
        status = qm_stream_next(stream, piece, sizeof piece, &length, 50000);
        if (status == QM_OK) {
            fwrite(piece, 1, length, stdout);
            fflush(stdout);
            append(said, piece, length);
        }
        if (interrupted) qm_stream_cancel(stream);
    }
    putchar('\n');
    if (status < 0 && status != QM_ERR_CANCELLED) report("no more");

    qm_stream_stats_t stats;
    if (stream && qm_stream_stats(stream, &stats, sizeof stats) == QM_OK && stats.generated_tokens > 1 && stats.decode_us)
        fprintf(stderr, "[%llu tokens, %.1f tokens/s]\n", (unsigned long long)stats.generated_tokens,
                1e6 * (double)(stats.generated_tokens - 1) / (double)stats.decode_us);
    qm_stream_free(stream);
    return said->length > 0;
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);

    qm_model *model = open_model(argc > 1 ? argv[1] : MODEL);
    if (!model) return 1;

    text_t chat = {0}, said = {0};
    char *line = NULL;
    size_t capacity = 0;
    for (;;) {
        fputs("> ", stdout);
        fflush(stdout);
        interrupted = 0;
        ssize_t length = getline(&line, &capacity, stdin);
        if (length < 0) {
            clearerr(stdin);
            if (!interrupted) break;
            putchar('\n');
            continue;
        }
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) length--;
        if (length == 0) continue;

        size_t before = chat.length;
        add_message(&chat, "user", line, (size_t)length);
        if (answer(model, &chat, &said)) add_message(&chat, "assistant", said.text, said.length);
        else chat.text[chat.length = before] = '\0';
    }
    putchar('\n');
    free(line);
    free(said.text);
    free(chat.text);
    qm_model_free(model);
    return 0;
}
