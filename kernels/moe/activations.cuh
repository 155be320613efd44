// Where the activations of an entry are, and what its output is multiplied with.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

DEVICE uint64_t activation_of(const MoeArgs& args, uint32_t entry) {
    const uint32_t routed = args.count * args.top_k;
    if (entry < routed) return static_cast<uint64_t>(entry) * args.width;
    return static_cast<uint64_t>(routed) * args.width + static_cast<uint64_t>(entry - routed) * args.shared_width;
}

DEVICE float* activations_of(const MoeArgs& args, uint32_t entry) { return args.activations + activation_of(args, entry); }

// What an entry's output is multiplied with.
DEVICE float share_of_shared_expert(const MoeArgs& args, uint32_t row) {
    return args.shared_gate == nullptr ? 1.0f : sigmoid(__ldcg(args.shared_gate + row));
}
