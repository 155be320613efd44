// Activations as int8 with a scale for every 32 of them: see common/input.cuh. Rows are whole tiles, so that it does not matter
// where one ends. Bound by bytes.
#include "common/input.cuh"
#include "tiles/args.cuh"

extern "C" __global__ void __launch_bounds__(256) quantise(const __grid_constant__ QuantiseArgs args) {
    after_previous_kernel(args.early);
    Input out(nullptr, 1, TILE, 0);
    const uint32_t tile = blockIdx.x * (4 * blockDim.x / TILE);
    out.codes = args.codes + 8 * static_cast<uint64_t>(tile);
    out.factors = args.factors + tile;
    const int at = 4 * threadIdx.x;
    const bool inside = tile + at / TILE < args.tiles;
    const float* x = args.input + TILE * static_cast<uint64_t>(tile) + at;
    out.put(0, at, inside, inside ? *reinterpret_cast<const float4*>(x) : make_float4(0.0f, 0.0f, 0.0f, 0.0f), INPUT_INT8);
}
