/* paths FOLDER: what is not a model is an error with the path in it. FOLDER is empty and may be written to. */
#include "check.h"

#include <sys/stat.h>

static void write_file(const char *path, const char *text, size_t length) {
    FILE *file = fopen(path, "wb");
    NEED(file);
    NEED(fwrite(text, 1, length, file) == length);
    NEED(fclose(file) == 0);
}

/* Refused by all three functions that take a path, with an error of one of the kinds that a file can cause. */
static void check_refused(const char *path) {
    qm_model *model = (qm_model *)&model;
    qm_status status = qm_load(path, NULL, &model);
    CHECK(status == QM_ERR_IO || status == QM_ERR_BAD_FILE || status == QM_ERR_UNSUPPORTED);
    CHECK(model == NULL);
    CHECK_ERROR_SAYS(path);

    qm_load_op *op = NULL;
    CHECK_STATUS(qm_load_start(path, NULL, &op), QM_OK);
    qm_status polled;
    while ((polled = qm_load_poll(op, NULL, 0, &model)) == QM_PENDING) sleep_us(1000);
    CHECK(polled == status && model == NULL);
    CHECK_STATUS(qm_load_poll(op, NULL, 0, &model), status);
    CHECK_ERROR_SAYS(path);
    qm_load_free(op);

    qm_fit_t fit;
    CHECK_STATUS(qm_fit(path, NULL, &fit, sizeof fit), status);
    CHECK_ERROR_SAYS(path);
}

int main(int argc, char **argv) {
    NEED(argc == 2);
    NEED(chdir(argv[1]) == 0);
    mkdir("directory", 0777);
    write_file("empty.gguf", "", 0);
    write_file("text.txt", "just a text\n", 12);
    write_file("text.gguf", "just a text that is longer than a header of any kind\n", 53);
    write_file("magic.gguf", "GGUF", 4);
    mkdir("config_only", 0777);
    write_file("config_only/config.json", "{}", 2);

    check_refused("missing.gguf");
    check_refused("missing/model.gguf");
    check_refused("directory");
    check_refused("empty.gguf");
    check_refused("text.txt");
    check_refused("text.gguf");
    check_refused("magic.gguf");
    check_refused("config_only");
    check_refused("text.txt/model.gguf");
    check_refused("/dev/null");
    check_refused("/dev/zero");
    return check_result();
}
