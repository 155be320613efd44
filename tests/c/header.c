/* The header compiles in every dialect, alone and included twice. */
#include "qwen3moe.h"
#include "qwen3moe.h"

int qm_header_test(void);

int qm_header_test(void) {
    qm_generate_options_t o;
    return qm_generate_options_init(&o, sizeof o) == QM_OK && QM_VERSION_NUMBER >= QM_VERSION_MINOR * 1000 ? 0 : 1;
}
