/* structs MODEL: options and results by size, as a program that is older or newer than the library would use them. */
#include "check.h"

typedef struct {
    qm_load_options_t known;
    uint8_t unknown[64];
} newer_load;

typedef struct {
    qm_generate_options_t known;
    uint8_t unknown[64];
} newer_generate;

typedef struct {
    qm_model_info_t known;
    uint8_t unknown[64];
} newer_info;

int main(int argc, char **argv) {
    NEED(argc == 2);
    qm_model *m = load_model(argv[1]), *model = m;
    qm_stream *stream = NULL;
    char buf[256];
    size_t len;

    /* A newer program, which does not use what is new to this library. */
    newer_load load;
    newer_generate generate;
    memset(&load, 0xff, sizeof load);
    memset(&generate, 0xff, sizeof generate);
    CHECK_STATUS(qm_load_options_init(&load.known, sizeof load), QM_OK);
    CHECK_STATUS(qm_generate_options_init(&generate.known, sizeof generate), QM_OK);
    CHECK(load.known.struct_size == sizeof load && generate.known.struct_size == sizeof generate);
    CHECK(load.known.device == QM_DEVICE_AUTOMATIC && load.known.streams > 0 && load.known.log == NULL);
    CHECK(generate.known.max_tokens > 0 && generate.known.temperature < 0 && generate.known.stop == NULL);
    generate.known.max_tokens = 3;
    CHECK_STATUS(qm_generate(m, "Hello", &generate.known, buf, sizeof buf, &len), QM_OK);
    CHECK_STATUS(qm_load(argv[1], &load.known, &model), QM_OK);
    qm_model_free(model);

    /* ... and one that does. */
    generate.unknown[63] = load.unknown[0] = 1;
    CHECK_STATUS(qm_generate(m, "Hello", &generate.known, buf, sizeof buf, &len), QM_ERR_ABI_MISMATCH);
    CHECK_ERROR_SAYS("qm_generate_options_t");
    CHECK_STATUS(qm_load(argv[1], &load.known, &model), QM_ERR_ABI_MISMATCH);
    CHECK_ERROR_SAYS("qm_load_options_t");
    CHECK(model == NULL);

    /* Sizes that no version ever had: forgotten init, too short, not initialised. */
    uint32_t sizes[] = {0, 1, 3, 4, 8, sizeof generate.known - 8, sizeof generate.known - 1, 1u << 20, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        qm_generate_options_t o = tokens_options(3);
        o.struct_size = sizes[i];
        stream = (qm_stream *)&o;
        CHECK_STATUS(qm_stream_open(m, "Hello", &o, &stream), QM_ERR_ABI_MISMATCH);
        CHECK(stream == NULL);
        if (i < 7) CHECK_STATUS(qm_generate_options_init(&o, sizes[i]), QM_ERR_ABI_MISMATCH);
    }
    CHECK_ERROR_SAYS("sizeof");

    /* Results: too short is refused and not written to, longer gets zeros behind what the library knows. */
    newer_info info;
    memset(&info, 0xff, sizeof info);
    CHECK_STATUS(qm_model_info(m, &info.known, 8), QM_ERR_ABI_MISMATCH);
    CHECK(info.known.struct_size == UINT32_MAX);
    CHECK_STATUS(qm_model_info(m, &info.known, sizeof info), QM_OK);
    CHECK(info.known.struct_size == sizeof info.known && info.known.vocab > 0);
    for (size_t i = 0; i < sizeof info.unknown; i++) CHECK(info.unknown[i] == 0);
    qm_memory_stats_t memory;
    qm_expert_stats_t experts;
    qm_fit_t fit;
    CHECK_STATUS(qm_memory_stats(m, &memory, 4), QM_ERR_ABI_MISMATCH);
    CHECK_STATUS(qm_expert_stats(m, &experts, 0), QM_ERR_ABI_MISMATCH);
    CHECK_STATUS(qm_fit(argv[1], NULL, &fit, 1), QM_ERR_ABI_MISMATCH);

    qm_model_free(m);
    return check_result();
}
