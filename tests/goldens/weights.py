"""Random, well-conditioned weights under the names of the published checkpoints.

A weight set is a dict of float32 tensors, experts one by one. Each matrix has a standard deviation of about
1/sqrt(inputs); norms, biases, A_log and dt_bias are spread widely so that logits depend on all of them.
"""
import math

import torch

HYBRIDS = ("qwen3_next", "qwen3_5_moe_text")


class Draw:
    """Seeded source of random tensors."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=1.0):
        return torch.randn(*shape, generator=self.generator) * std

    def matrix(self, out, inputs, gain=1.0):
        return self.normal(out, inputs, std=gain / math.sqrt(inputs))

    def uniform(self, n, low, high):
        return torch.rand(n, generator=self.generator) * (high - low) + low


def norm(draw, n, shifted):
    """A norm weight near one; `shifted` is the Gemma form, which stores w - 1."""
    return draw.normal(n, std=0.3) + (0.0 if shifted else 1.0)


def attention(draw, c, p):
    hybrid = c.model_type in HYBRIDS
    q_rows = c.num_attention_heads * c.head_dim
    kv_rows = c.num_key_value_heads * c.head_dim
    rows = {"q_proj": q_rows * (2 if hybrid else 1), "k_proj": kv_rows, "v_proj": kv_rows}
    t = {f"{p}{name}.weight": draw.matrix(n, c.hidden_size) for name, n in rows.items()}
    t[f"{p}o_proj.weight"] = draw.matrix(c.hidden_size, q_rows)
    if c.attention_bias:
        t |= {f"{p}{name}.bias": draw.normal(n, std=0.3) for name, n in rows.items()}
        t[f"{p}o_proj.bias"] = draw.normal(c.hidden_size, std=0.3)
    for name in ("q_norm", "k_norm"):
        t[f"{p}{name}.weight"] = norm(draw, c.head_dim, hybrid)
    return t


def deltanet(draw, c, p):
    keys = c.linear_num_key_heads * c.linear_key_head_dim
    values = c.linear_num_value_heads * c.linear_value_head_dim
    heads = c.linear_num_value_heads
    if c.model_type == "qwen3_next":
        rows = {"in_proj_qkvz": 2 * keys + 2 * values, "in_proj_ba": 2 * heads}
    else:
        rows = {"in_proj_qkv": 2 * keys + values, "in_proj_z": values, "in_proj_b": heads, "in_proj_a": heads}
    t = {f"{p}{name}.weight": draw.matrix(n, c.hidden_size) for name, n in rows.items()}
    t[f"{p}conv1d.weight"] = draw.normal(2 * keys + values, 1, c.linear_conv_kernel_dim, std=0.5)
    t[f"{p}A_log"] = draw.uniform(heads, math.log(0.02), math.log(2.0))
    t[f"{p}dt_bias"] = draw.uniform(heads, -3.0, 1.5)
    t[f"{p}norm.weight"] = norm(draw, c.linear_value_head_dim, False)
    t[f"{p}out_proj.weight"] = draw.matrix(c.hidden_size, values)
    return t


def mlp(draw, c, p, width):
    return {
        f"{p}gate_proj.weight": draw.matrix(width, c.hidden_size, gain=1.5),
        f"{p}up_proj.weight": draw.matrix(width, c.hidden_size),
        f"{p}down_proj.weight": draw.matrix(c.hidden_size, width),
    }


def moe(draw, c, p):
    t = {f"{p}gate.weight": draw.matrix(c.num_experts, c.hidden_size, gain=1.5)}
    for e in range(c.num_experts):
        t |= mlp(draw, c, f"{p}experts.{e}.", c.moe_intermediate_size)
    if c.model_type in HYBRIDS:
        t |= mlp(draw, c, f"{p}shared_expert.", c.shared_expert_intermediate_size)
        t[f"{p}shared_expert_gate.weight"] = draw.matrix(1, c.hidden_size)
    return t


def is_moe(c, layer):
    """Whether a layer has experts. The keys of dense layers exist in qwen3_moe and qwen3_next only."""
    step = getattr(c, "decoder_sparse_step", 1)
    return layer not in getattr(c, "mlp_only_layers", []) and (layer + 1) % step == 0


def is_linear(c, layer):
    return c.model_type in HYBRIDS and c.layer_types[layer] == "linear_attention"


def layer(draw, c, p, linear, sparse):
    shifted = c.model_type in HYBRIDS
    t = {f"{p}{name}.weight": norm(draw, c.hidden_size, shifted) for name in ("input_layernorm", "post_attention_layernorm")}
    t |= deltanet(draw, c, p + "linear_attn.") if linear else attention(draw, c, p + "self_attn.")
    t |= moe(draw, c, p + "mlp.") if sparse else mlp(draw, c, p + "mlp.", c.intermediate_size)
    return t


def mtp(draw, c):
    """The multi-token prediction block that the hybrids' checkpoints carry; it has no part in the logits."""
    t = {"mtp.fc.weight": draw.matrix(c.hidden_size, 2 * c.hidden_size)}
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        t[f"mtp.{name}.weight"] = norm(draw, c.hidden_size, True)
    return t | layer(draw, c, "mtp.layers.0.", linear=False, sparse=True)


def model(seed, c, with_mtp=False):
    """All tensors of a text model with configuration `c`."""
    draw = Draw(seed)
    scale = 0.3 if c.tie_word_embeddings else 1.0  # a large tied embedding would drown the layers
    t = {"model.embed_tokens.weight": draw.normal(c.vocab_size, c.hidden_size, std=scale)}
    for i in range(c.num_hidden_layers):
        t |= layer(draw, c, f"model.layers.{i}.", is_linear(c, i), is_moe(c, i))
    t["model.norm.weight"] = norm(draw, c.hidden_size, c.model_type in HYBRIDS)
    if not c.tie_word_embeddings:
        t["lm_head.weight"] = draw.matrix(c.vocab_size, c.hidden_size, gain=2.0)
    return t | (mtp(draw, c) if with_mtp else {})


def fuse_experts(tensors):
    """Experts as the 3-D tensors of a fused checkpoint: gate_up_proj [E, 2F, H], gate rows first, and down_proj [E, H, F]."""
    fused, experts = {}, {}
    for name, tensor in tensors.items():
        head, found, tail = name.partition(".mlp.experts.")
        if not found or tail in ("gate_up_proj", "down_proj"):
            fused[name] = tensor
            continue
        expert, part, _ = tail.split(".")
        experts.setdefault(f"{head}.mlp.experts.", {})[int(expert), part] = tensor
    for prefix, parts in experts.items():
        count = 1 + max(e for e, _ in parts)
        stack = lambda part: torch.stack([parts[e, part] for e in range(count)])
        fused[prefix + "gate_up_proj"] = torch.cat([stack("gate_proj"), stack("up_proj")], dim=1)
        fused[prefix + "down_proj"] = stack("down_proj")
    return fused
