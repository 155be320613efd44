"""GPTQ's files, as GPTQModel and AutoRound write them: rounding to the nearest code, packing, and decoding to float32.

The reference value of a weight is scale * (code - zero) in float32. (The tools' own layers round that product to the dtype
they compute in; the exact product is what a decoder is held to.)
"""
import re

import numpy as np
import torch

ONES = np.int32(0x11111111)
LINEAR = re.compile(r"proj$|in_proj_\w+$")


def settings_of(layer, config):
    """(bits, group size) of a layer: the config's, unless one of AutoRound's or GPTQModel's overrides matches its name."""
    for pattern, own in config.get("extra_config", {}).items():
        if re.search(pattern, layer):
            return own.get("bits", config["bits"]), own.get("group_size", config["group_size"])
    for pattern in config.get("dynamic", {}):
        if pattern.startswith("-:") and re.match(pattern[2:], layer):
            return 16, 0
    return config["bits"], config["group_size"]


def quantise(tensors, config, seed):
    """Tensors -> (tensors of the checkpoint, float32 weights by the definition of the format)."""
    rng = np.random.default_rng(seed)
    stored = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        bits, group = settings_of(layer, config)
        if layer == name or not LINEAR.search(layer) or bits >= 16:
            stored[name] = tensor
            continue
        packed = pack(tensor.float().numpy(), group, config["sym"], config.get("desc_act", False), rng)
        if config["quant_method"] == "auto-round":
            del packed["g_idx"]
        stored |= {f"{layer}.{part}": torch.from_numpy(array) for part, array in packed.items()}
    return stored, decode(stored)


def pack(weight, group, sym, ordered, rng):
    """The tensors of one layer in the first version of the format, which stores words of zeros less ONES."""
    rows, cols = weight.shape
    order = rng.permutation(cols) if ordered else np.arange(cols)
    groups = np.empty(cols, np.int32)
    groups[order] = np.arange(cols) // group
    scales = np.empty((cols // group, rows), np.float16)
    zeros = np.empty((cols // group, rows), np.int64)
    codes = np.empty((cols, rows), np.int64)
    for g in range(cols // group):
        part = weight[:, groups == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scale = (2 * np.maximum(high, -low) if sym else high - low) / 15
        scales[g] = scale.astype(np.float16)
        zeros[g] = 8 if sym else np.clip(np.round(-low / scale), 1, 15)
        exact = part.T / scales[g].astype(np.float32) + zeros[g]
        codes[groups == g] = np.clip(np.round(exact), 0, 15)
    tensors = {"qweight": words(codes, 0), "qzeros": words(zeros, 1) - ONES, "scales": scales, "g_idx": groups}
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def words(nibbles, axis):
    """Eight nibbles along `axis` to a word, the first in the lowest bits."""
    nibbles = np.moveaxis(nibbles, axis, -1)
    eights = nibbles.reshape(*nibbles.shape[:-1], -1, 8).astype(np.uint32)
    packed = (eights << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)
    return np.moveaxis(packed, -1, axis)


def nibbles(packed, axis):
    packed = np.moveaxis(packed, axis, -1).copy().view(np.uint32)
    eights = packed[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    return np.moveaxis(eights.reshape(*packed.shape[:-1], -1), -1, axis).astype(np.int64)


def decode(stored):
    """The float32 weights of a checkpoint, by the definition of the format."""
    tensors = {}
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if part not in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[name] = tensor
        elif part == "qweight":
            codes = nibbles(tensor.numpy(), 0)
            zeros = nibbles(stored[f"{layer}.qzeros"].numpy() + ONES, 1)
            scales = stored[f"{layer}.scales"].numpy().astype(np.float32)
            in_order = np.repeat(np.arange(len(scales)), len(codes) // len(scales))
            groups = stored[f"{layer}.g_idx"].numpy() if f"{layer}.g_idx" in stored else in_order
            weight = scales[groups] * (codes - zeros[groups]).astype(np.float32)
            tensors[f"{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(weight.T))
    return tensors
