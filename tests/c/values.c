/* values MODEL LOGITS.npy ID...: what comes out of the interface is right, against logits of the reference. */
#include "check.h"

#include <math.h>

/* The numbers of a NumPy file of format 1.0 with little-endian float32 in row order. */
static float *read_npy(const char *path, size_t count) {
    FILE *file = fopen(path, "rb");
    NEED(file);
    unsigned char head[10];
    NEED(fread(head, 1, 10, file) == 10 && memcmp(head, "\x93NUMPY\x01", 7) == 0);
    NEED(fseek(file, 10 + head[8] + 256 * head[9], SEEK_SET) == 0);
    float *values = malloc(count * sizeof *values);
    NEED(values && fread(values, sizeof *values, count, file) == count && fgetc(file) == EOF);
    fclose(file);
    return values;
}

static void check_logits(qm_model *model, const char *npy, const int32_t *ids, size_t n, size_t vocab) {
    float *expected = read_npy(npy, n * vocab), *logits = malloc(n * vocab * sizeof *logits);
    NEED(logits);
    size_t len = 0;
    CHECK_STATUS(qm_eval(model, ids, n, NULL, 0, &len), QM_OK);
    CHECK(len == n * vocab);
    CHECK_STATUS(qm_eval(model, ids, n, logits, n * vocab - 1, &len), QM_ERR_BUFFER_TOO_SMALL);
    CHECK(len == n * vocab);
    CHECK_STATUS(qm_eval(model, ids, n, logits, n * vocab, &len), QM_OK);
    CHECK(len == n * vocab);
    float difference = 0, largest = 0;
    for (size_t i = 0; i < n * vocab; i++) {
        difference = fmaxf(difference, fabsf(logits[i] - expected[i]));
        largest = fmaxf(largest, fabsf(expected[i]));
    }
    dprintf(3, "largest difference %g of %g\n", (double)difference, (double)largest);
    CHECK(difference / largest < 1e-3f);
    int32_t outside = (int32_t)vocab;
    CHECK_STATUS(qm_eval(model, &outside, 1, logits, vocab, &len), QM_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(qm_eval(model, ids, 0, logits, vocab, &len), QM_ERR_INVALID_ARGUMENT);
    free(logits);
    free(expected);
}

static void check_experts(qm_model *model, const qm_model_info_t *info, size_t n) {
    qm_expert_stats_t stats;
    CHECK_STATUS(qm_expert_stats(model, &stats, sizeof stats), QM_OK);
    CHECK(stats.has_experts == 1 && stats.experts == (uint64_t)info->experts * info->moe_layers);
    CHECK(stats.activations == (uint64_t)n * info->experts_per_token * info->moe_layers);
    CHECK(stats.hits == stats.activations && stats.misses == 0 && stats.admissions == 0 && stats.bytes_moved == 0);
    CHECK(stats.resident_experts == stats.experts && stats.hit_rate == 1.0);

    uint64_t *counts = malloc(info->experts * sizeof *counts), total = 0;
    NEED(counts);
    size_t len;
    for (uint32_t layer = 0; layer < info->layers; layer++) {
        CHECK_STATUS(qm_expert_counts(model, layer, NULL, 0, &len), QM_OK);
        CHECK(len == info->experts);
        CHECK_STATUS(qm_expert_counts(model, layer, counts, len - 1, &len), QM_ERR_BUFFER_TOO_SMALL);
        CHECK(len == info->experts);
        CHECK_STATUS(qm_expert_counts(model, layer, counts, len, &len), QM_OK);
        for (size_t i = 0; i < len; i++) total += counts[i];
    }
    CHECK(total == stats.activations);
    free(counts);
}

static void check_memory(qm_model *model, const char *path, const qm_load_options_t *o) {
    qm_memory_stats_t m;
    qm_fit_t fit;
    CHECK_STATUS(qm_memory_stats(model, &m, sizeof m), QM_OK);
    CHECK(m.ram_total == m.ram_embeddings + m.ram_attention + m.ram_delta_net + m.ram_experts + m.ram_other + m.ram_kv +
                             m.ram_states + m.ram_workspace);
    CHECK(m.ram_embeddings > 0 && m.ram_experts > 0 && m.ram_kv > 0 && m.vram_total == 0);
    CHECK_STATUS(qm_fit(path, o, &fit, sizeof fit), QM_OK);
    CHECK(fit.ram_experts == m.ram_experts && fit.ram_kv == m.ram_kv && fit.ram_required >= m.ram_total);
}

static void check_text(qm_model *model) {
    const char *text = "Hello, w\xc3\xb6rld <|im_end|>";
    size_t n, ordinary, len;
    int32_t ids[64];
    char back[64];
    CHECK_STATUS(qm_tokenize(model, text, strlen(text), 0, NULL, 0, &ordinary), QM_OK);
    CHECK_STATUS(qm_tokenize(model, text, strlen(text), QM_TEXT_SPECIAL, NULL, 0, &n), QM_OK);
    CHECK(n > 0 && n < ordinary); /* a special token is one id, its text is several */
    CHECK_STATUS(qm_tokenize(model, text, strlen(text), QM_TEXT_SPECIAL, ids, n - 1, &n), QM_ERR_BUFFER_TOO_SMALL);
    CHECK_STATUS(qm_tokenize(model, text, strlen(text), QM_TEXT_SPECIAL, ids, 64, &n), QM_OK);
    CHECK_STATUS(qm_detokenize(model, ids, n, QM_TEXT_SPECIAL, back, sizeof back, &len), QM_OK);
    CHECK(len == strlen(text) && strcmp(back, text) == 0);
    CHECK_STATUS(qm_detokenize(model, ids, n, 0, back, sizeof back, &len), QM_OK);
    CHECK(strcmp(back, "Hello, w\xc3\xb6rld ") == 0);
    CHECK_STATUS(qm_detokenize(model, ids, n, 0, NULL, 0, &len), QM_OK);
    CHECK(len == strlen(back) + 1);
    CHECK_STATUS(qm_detokenize(model, ids, n, 0, back, 10, &len), QM_ERR_BUFFER_TOO_SMALL);
    CHECK(len == 15 && strcmp(back, "Hello, w") == 0); /* the two bytes of o-umlaut do not fit beside the NUL */
    CHECK_STATUS(qm_tokenize(model, NULL, 0, 0, ids, 64, &n), QM_OK);
    CHECK(n == 0);
    CHECK_STATUS(qm_detokenize(model, NULL, 0, 0, back, sizeof back, &len), QM_OK);
    CHECK(len == 0 && back[0] == '\0');
    ids[0] = INT32_MAX;
    CHECK_STATUS(qm_detokenize(model, ids, 1, 0, back, sizeof back, &len), QM_ERR_INVALID_ARGUMENT);
}

int main(int argc, char **argv) {
    NEED(argc > 3);
    size_t n = (size_t)argc - 3;
    int32_t ids[1024];
    NEED(n <= 1024);
    for (size_t i = 0; i < n; i++) ids[i] = atoi(argv[3 + i]);

    qm_load_options_t o;
    CHECK_STATUS(qm_load_options_init(&o, sizeof o), QM_OK);
    o.exact = 1;
    qm_model *model = NULL;
    CHECK_STATUS(qm_load(argv[1], &o, &model), QM_OK);
    NEED(model);
    qm_model_info_t info;
    CHECK_STATUS(qm_model_info(model, &info, sizeof info), QM_OK);
    CHECK(info.family >= QM_FAMILY_QWEN3_MOE && info.family <= QM_FAMILY_QWEN3_5_MOE);
    CHECK(info.layers == info.attention_layers + info.delta_layers && info.has_tokenizer == 1);
    check_logits(model, argv[2], ids, n, info.vocab);
    check_experts(model, &info, n);
    check_memory(model, argv[1], &o);
    check_text(model);
    qm_model_free(model);
    return check_result();
}
