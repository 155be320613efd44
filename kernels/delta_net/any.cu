// The delta rule and the gated norm for heads of any size, as `step.cu` has them for 128 channels: a block takes a value
// head, a thread some of its columns, and the state stays in memory. Small models only: nothing here is fast.
#include "delta_net/conv.cuh"

// Sum over `len` values in shared memory, in every thread.
DEVICE float squares_of(const float* values, uint32_t len, float* scratch) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < len; i += blockDim.x) sum += values[i] * values[i];
    const float total = sum_block(sum, scratch);
    __syncthreads();
    return total;
}

template <bool STEP>
DEVICE void delta_any(const DeltaArgs& args) {
    DYNAMIC_SHARED(float, shared);
    __shared__ float scratch[32];
    const uint32_t key_dim = args.key_dim, value_dim = args.value_dim;
    float *q = shared, *k = q + key_dim, *v = k + key_dim, *out = v + value_dim;
    const uint32_t key_head = blockIdx.x / args.ratio, index = blockIdx.x % args.ratio;
    const uint32_t head = at(args.head, key_head, index), keys = args.key_heads * key_dim;
    after_previous_kernel();
    const Sequence sequence = args.sequences[blockIdx.y];
    const uint64_t heads = args.key_heads * args.ratio;
    float* state = args.states + (sequence.slot * heads + head) * key_dim * value_dim;
    for (uint32_t row = 0; row < sequence.rows; ++row) {
        const uint64_t r = sequence.first_row + row;
        const auto mixed = [&](uint32_t channel, uint32_t place, bool keep) {
            if (!STEP) return args.convolved[r * args.channels + channel];
            const float x = args.qkv[r * args.qkv_stride + place];
            const float y = convolve(args, sequence.slot, sequence.position, channel, x);
            if (keep) *history(args, sequence.slot, sequence.position, channel) = x;
            return y;
        };
        for (uint32_t i = threadIdx.x; i < key_dim; i += blockDim.x) {
            q[i] = mixed(key_head * key_dim + i, at(args.q, key_head, 0) + i, index == 0);
            k[i] = mixed(keys + key_head * key_dim + i, at(args.k, key_head, 0) + i, index == 0);
        }
        for (uint32_t i = threadIdx.x; i < value_dim; i += blockDim.x) {
            v[i] = mixed(2 * keys + head * value_dim + i, at(args.v, key_head, index) + i, true);
        }
        __syncthreads();
        const float q_factor = rsqrtf(static_cast<float>(key_dim)) / sqrtf(squares_of(q, key_dim, scratch) + L2_EPS);
        const float k_factor = 1.0f / sqrtf(squares_of(k, key_dim, scratch) + L2_EPS);
        for (uint32_t i = threadIdx.x; i < key_dim; i += blockDim.x) q[i] *= q_factor, k[i] *= k_factor;
        __syncthreads();
        const float a = args.a[r * args.a_stride + at(args.a_place, key_head, index)];
        const float decay = expf(args.decay[head] * softplus(a + args.dt_bias[head]));
        const float beta = sigmoid(args.b[r * args.b_stride + at(args.b_place, key_head, index)]);
        const bool empty = sequence.position + row == 0;
        for (uint32_t column = threadIdx.x; column < value_dim; column += blockDim.x) {
            float recalled = 0.0f, result = 0.0f;
            for (uint32_t i = 0; i < key_dim; ++i) {
                const float s = empty ? 0.0f : decay * state[i * value_dim + column];
                recalled = fmaf(s, k[i], recalled);
            }
            const float update = beta * (v[column] - recalled);
            for (uint32_t i = 0; i < key_dim; ++i) {
                const float old = empty ? 0.0f : decay * state[i * value_dim + column];
                const float s = fmaf(k[i], update, old);
                state[i * value_dim + column] = s;
                result = fmaf(s, q[i], result);
            }
            out[column] = result;
        }
        __syncthreads();
        const float mean = squares_of(out, value_dim, scratch) / static_cast<float>(value_dim);
        const float factor = 1.0f / sqrtf(mean + args.eps);
        for (uint32_t i = threadIdx.x; i < value_dim; i += blockDim.x) {
            const float z = args.z[r * args.z_stride + at(args.z_place, key_head, index) + i];
            args.out[(r * heads + head) * value_dim + i] = silu(z) * (out[i] * factor * args.norm[i]);
        }
        __syncthreads();
    }
    if constexpr (!STEP) {
        for (uint32_t i = threadIdx.x; i < key_dim && index == 0; i += blockDim.x) {
            remember(args, sequence, key_head * key_dim + i);
            remember(args, sequence, keys + key_head * key_dim + i);
        }
        for (uint32_t i = threadIdx.x; i < value_dim; i += blockDim.x) {
            remember(args, sequence, 2 * keys + head * value_dim + i);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) delta_any(const __grid_constant__ DeltaArgs args) {
    delta_any<true>(args);
}

extern "C" __global__ void __launch_bounds__(256) delta_any_rows(const __grid_constant__ DeltaArgs args) {
    delta_any<false>(args);
}
