"""Logits by `transformers` in float32, and how far the routers are from a tie."""
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import weights

torch.set_num_threads(1)
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}


def parse_config(config):
    """A transformers configuration from the contents of a config.json."""
    config = {k: v for k, v in config.items() if k != "quantization_config"}
    model_type = config["model_type"]
    return AutoConfig.for_model(model_type, **{k: v for k, v in config.items() if k != "model_type"})


def text_config(config):
    return parse_config(config).get_text_config()


def from_tensors(config, tensors):
    """The text model with these weights: every parameter must be given, only what inference skips may be left over."""
    model = AutoModelForCausalLM.from_config(text_config(config), dtype=torch.float32, **EAGER).eval()
    state = {
        name: tensor.float()
        for name, tensor in weights.fuse_experts(tensors).items()
        if not name.startswith(("mtp.", "model.visual."))
    }
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


def from_directory(path):
    """The same through transformers' own loader. The text configuration makes a wrapper load as its text model."""
    config = text_config(json.loads((Path(path) / "config.json").read_text()))
    model, info = AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=torch.float32, output_loading_info=True, **EAGER
    )
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return model.eval()


class RouterMargins:
    """Collects, from every router, the gap between the last chosen expert's logit and the best one left out."""

    def __init__(self, model):
        self.smallest = []
        for module in model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_hook(self.see)

    def see(self, router, _, out):
        ordered = out[0].sort(dim=-1, descending=True).values
        self.smallest.append((ordered[:, router.top_k - 1] - ordered[:, router.top_k]).min().item())


@torch.no_grad()
def logits(model, ids):
    """Logits [n, vocab] of one sequence, computed in one pass."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].contiguous()


def choose_ids(model, length, seed, attempts=60, margin=1e-3):
    """Of some random sequences, the one that keeps the routers farthest from a tie: (ids, logits, smallest margin)."""
    routers = RouterMargins(model)
    best = (0.0, None, None)
    for attempt in range(attempts):
        generator = torch.Generator().manual_seed(1000 * seed + attempt)
        ids = torch.randint(model.config.vocab_size, (length,), generator=generator).tolist()
        routers.smallest.clear()
        out = logits(model, ids)
        if min(routers.smallest) > best[0]:
            best = (min(routers.smallest), ids, out)
    assert best[0] >= margin, f"routers come within {best[0]} of a tie"
    return best[1], best[2], best[0]
