// RMS norms, a block for each row. Bound by latency.
#include "norm/normed_row.cuh"

extern "C" __global__ void __launch_bounds__(1024) rms_norm(const __grid_constant__ NormArgs args) {
    __shared__ float scratch[WARP];
    const RowNorm<2> norm(args);
    after_previous_kernel(args.early);
    norm.run(blockIdx.x, scratch);
}
