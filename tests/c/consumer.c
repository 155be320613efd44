/* consumer MODEL: the smallest program that uses the library. */
#include <qwen3moe.h>

#include <stdio.h>

int main(int argc, char **argv) {
    qm_model *model;
    if (argc != 2 || qm_load(argv[1], NULL, &model) != QM_OK) return 1;
    char text[4096];
    size_t length;
    qm_status status = qm_generate(model, "Hello", NULL, text, sizeof text, &length);
    printf("%s, version %s, %zu bytes\n", qm_status_str(status), qm_version(), length);
    qm_model_free(model);
    return status == QM_OK ? 0 : 1;
}
