"""bitsandbytes 4-bit checkpoints: quantising with bitsandbytes' own CPU code, and decoding to float32.

The reference value of a weight is codebook[code] * absmax in float32. (bitsandbytes at run time rounds that product to
the dtype in the quantisation state, bfloat16; the exact product is what a decoder is held to.)
"""
import json

import bitsandbytes.functional as bnb
import torch

BLOCK = 64


def quantization_config(quant_type, nested, skipped):
    return {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }


def is_quantised(name, tensor, skipped):
    """Linear layers only, less the modules whose name ends with a skipped one."""
    module = name.removesuffix(".weight")
    linear = tensor.dim() == 2 and module.endswith("proj") or "in_proj" in module or module.endswith("gate")
    return linear and not any(module == s or module.endswith("." + s) for s in skipped)


def quantise(tensors, quant_type, nested, skipped):
    """BF16 tensors -> (tensors of the checkpoint, float32 weights by bitsandbytes' own dequantisation)."""
    stored, decoded = {}, {}
    for name, tensor in tensors.items():
        if not is_quantised(name, tensor, skipped):
            stored[name] = decoded[name] = tensor
            continue
        codes, state = bnb.quantize_4bit(tensor, blocksize=BLOCK, compress_statistics=nested, quant_type=quant_type)
        stored[name] = codes
        stored |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
        state.dtype = torch.float32
        decoded[name] = bnb.dequantize_4bit(codes, state)
    return stored, decoded


def decode(stored):
    """The float32 weights of a checkpoint read from disk, by the definition of the format."""
    tensors = {}
    states = {}
    for name in stored:
        head, found, quant_type = name.partition(".quant_state.bitsandbytes__")
        if found:
            states[head] = json.loads(bytes(stored[name].numpy()))
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state")
    for name, tensor in stored.items():
        if name in states:
            tensors[name] = decode_one(stored, name, states[name])
        elif not any(f".weight.{part}" in name for part in parts):
            tensors[name] = tensor
    return tensors


def decode_one(stored, name, state):
    packed = stored[name].flatten()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()  # the high nibble comes first
    absmax = stored[name + ".absmax"]
    if "nested_offset" in state:
        outer = stored[name + ".nested_absmax"].repeat_interleave(state["nested_blocksize"])[: absmax.numel()]
        absmax = stored[name + ".nested_quant_map"][absmax.long()] * outer + state["nested_offset"]
    scale = absmax.repeat_interleave(state["blocksize"])[: codes.numel()]
    return (stored[name + ".quant_map"][codes] * scale).reshape(state["shape"])
