// Starts a step: the embedding of each row's token, and the rotary angles of each row's position for all attention layers.
// A block takes a row, a thread as few columns as it can. Bound by latency: a row of the embedding is a few kilobytes.
#include "common/element.cuh"

extern "C" __global__ void __launch_bounds__(1024) embed(const __grid_constant__ EmbedArgs args) {
    after_previous_kernel();
    const uint32_t i = blockIdx.x;
    const Row row = args.rows[i];
    const uint32_t token = row.token == TOKEN_CHOSEN ? args.chosen[row.slot] : row.token;
    const Matrix& m = args.embedding;
    float* x = args.x + static_cast<uint64_t>(i) * m.cols;
    for (uint32_t col = threadIdx.x; col < m.cols; col += blockDim.x) {
        const float value = m.packed ? packed_element(m, token, col) : stored_element(m, token, col);
        x[m.order == nullptr ? col : m.order[col]] = value;
    }
    for (uint32_t pair = threadIdx.x; pair < args.pairs; pair += blockDim.x) {
        const float angle = static_cast<float>(row.position) * args.frequencies[pair];
        float* angles = args.angles + static_cast<uint64_t>(i) * 2 * args.pairs + pair;
        angles[0] = cosf(angle) * args.angle_scale;
        angles[args.pairs] = sinf(angle) * args.angle_scale;
    }
}
