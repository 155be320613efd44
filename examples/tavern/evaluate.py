"""Reads the exported model back through transformers: held-out perplexity, MTP head, sample chats.

python evaluate.py            # perplexity of model/ on heldout.json, then sample answers
"""

import copy
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextDecoderLayer, Qwen3NextRMSNorm

CHATS = [
    ["hello"],
    ["Good evening!"],
    ["who are you?"],
    ["are you an AI?"],
    ["what is 3 + 4?"],
    ["12-5"],
    ["what is seven plus two"],
    ["tell me a story"],
    ["Can you tell me a story about a dragon?"],
    ["do you have a room?"],
    ["what's on the menu"],
    ["an ale please"],
    ["what do you think about quantum computers?"],
    ["where can I buy a sword?"],
    ["tell me a joke"],
    ["thanks, goodbye"],
    ["Hi, my name is Robert.", "two ales and a pie", "what do I owe you?", "what is my name?"],
    ["tell me a riddle", "no idea", "what is 9 + 8", "how are you?"],
]


def load(folder: Path, dtype: torch.dtype, device: str):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    return model.to(device).eval()


class Mtp:
    """The MTP head of the export, which transformers itself skips when loading."""

    def __init__(self, folder: Path, model):
        config = copy.deepcopy(model.config)
        config.layer_types = ["full_attention"]
        config._attn_implementation, config._experts_implementation = "sdpa", "eager"
        with safe_open(folder / "model.safetensors", "pt") as file:
            weights = {k[4:]: file.get_tensor(k).float() for k in file.keys() if k.startswith("mtp.")}
        for part in ("gate", "up", "down"):
            names = [f"layers.0.mlp.experts.{e}.{part}_proj.weight" for e in range(config.num_experts)]
            weights[part] = torch.stack([weights.pop(n) for n in names])
        weights["layers.0.mlp.experts.gate_up_proj"] = torch.cat([weights.pop("gate"), weights.pop("up")], dim=1)
        weights["layers.0.mlp.experts.down_proj"] = weights.pop("down")
        self.block = Qwen3NextDecoderLayer(config, 0)
        self.block.load_state_dict({k[9:]: v for k, v in weights.items() if k.startswith("layers.0.")})
        self.block.to(model.device)
        self.fc = weights["fc.weight"].to(model.device)
        self.norms = {}
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            self.norms[name] = Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps).to(model.device)
            self.norms[name].load_state_dict({"weight": weights[f"{name}.weight"]})
        self.model = model

    def logits(self, hidden, ids):
        """For every position t but the last: logits of token t+2, from hidden state t and token t+1."""
        trunk = self.model.model
        embedding = self.norms["pre_fc_norm_embedding"](trunk.embed_tokens(ids[:, 1:]))
        x = F.linear(torch.cat([embedding, self.norms["pre_fc_norm_hidden"](hidden[:, :-1])], dim=-1), self.fc)
        positions = torch.arange(x.shape[1], device=x.device)[None]
        x = self.block(x, position_embeddings=trunk.rotary_emb(x, positions))
        return self.model.lm_head(self.norms["norm"](x))


@torch.no_grad()
def perplexity(model, rows: list[list[int]]) -> float:
    total = count = 0
    for row in rows:
        ids = torch.tensor([row], device=model.device)
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(row) - 1
    return math.exp(total / count)


@torch.no_grad()
def mtp_quality(folder: Path, model, rows: list[list[int]]) -> dict:
    """The head's own loss, and how often its best guess is the trunk's best guess one step later."""
    head = Mtp(folder, model)
    total = count = agreed = 0
    for row in rows:
        ids = torch.tensor([row], device=model.device)
        hidden = model.model(ids, use_cache=False).last_hidden_state
        guess = head.logits(hidden, ids)[0]
        agreed += (guess.argmax(-1) == model.lm_head(hidden)[0, 1:].argmax(-1)).sum().item()
        total += F.cross_entropy(guess[:-1], ids[0, 2:], reduction="sum").item()
        count += len(row) - 1
    return {"loss": round(total / (count - len(rows)), 4), "greedy_agreement": round(agreed / count, 4)}


def evaluate(folder: Path, rows: list[list[int]], device: str) -> dict:
    torch.set_float32_matmul_precision("highest")
    exact = load(folder, torch.float32, device)
    return {
        "perplexity_bf16_weights_f32_math": round(perplexity(exact, rows), 5),
        "perplexity_bf16": round(perplexity(load(folder, torch.bfloat16, device), rows), 5),
        "mtp": mtp_quality(folder, exact, rows),
    }


@torch.no_grad()
def converse(folder: Path, asks: list[str], model, tokenizer, sample: bool):
    messages = []
    for ask in asks:
        messages.append({"role": "user", "content": ask})
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        out = model.generate(ids.to(model.device), do_sample=sample, max_new_tokens=400)[0, ids.shape[1] :]
        answer = tokenizer.decode(out, skip_special_tokens=True)
        stopped = out[-1].item() == tokenizer.eos_token_id
        messages.append({"role": "assistant", "content": answer})
        print(f"> {ask}\n{answer}{'' if stopped else '   [DID NOT STOP]'}")
    print()


if __name__ == "__main__":
    here = Path(__file__).parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "model"
    heldout = json.loads((folder.parent / "heldout.json").read_text())
    print(evaluate(folder, heldout["token_ids"], "cpu"), {k: v for k, v in heldout.items() if k != "token_ids"})
    model, tokenizer = load(folder, torch.float32, "cpu"), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    for asks in CHATS:
        for sample in (False, True):
            converse(folder, asks, model, tokenizer, sample)
