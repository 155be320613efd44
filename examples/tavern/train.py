"""Trains the bundled model: tokenizer, trunk, MTP head, export in the published layout, evaluation.

    python train.py --out model --heldout heldout.json --minutes 6

One GPU, `torch` and `transformers`; the text comes from corpus.py. Modules are transformers' own
Qwen3Next classes; `speed_up` replaces inner parts by equal maths that a GPU likes better.
"""

import argparse
import copy
import json
import math
import multiprocessing
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import GenerationConfig, Qwen3NextConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

from corpus import documents
from evaluate import evaluate

VOCAB = 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The pre-tokenizer of Qwen2 and Qwen3: words with one leading space, single digits, runs of marks.
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

SHORT, LONG = 512, 2048  # row lengths; every fifth step takes long rows, so that position 2000 is no surprise
TOKENS_PER_STEP = 65536
HELDOUT_SEED, HELDOUT_TOKENS, HELDOUT_ROW = 10_000_000, 4000, 256
MTP_WEIGHT, BALANCE_WEIGHT = 0.15, 0.01


# --- text ---------------------------------------------------------------------------------------


def shard(job: tuple[int, int]) -> list[str]:
    seed, count = job
    return list(documents(seed, count))


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    for token in SPECIAL:
        texts = [text.replace(token, "") for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    # Added last, as in Qwen: the special tokens get the highest ids.
    tokenizer.add_special_tokens(SPECIAL)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def pack(encoded: list[list[int]], length: int, end: int) -> torch.Tensor:
    """Rows of `length` tokens, each starting with a new document; a row's last document is cut."""
    rows, row = [], []
    for ids in encoded:
        row += ids + [end]
        if len(row) >= length:
            rows.append(row[:length])
            row = []
    return torch.tensor(rows, dtype=torch.int16)


# --- model --------------------------------------------------------------------------------------


class BalancedRouter(qwen.Qwen3NextTopKRouter):
    """The router, which also notes how unevenly it spread its tokens (1 when even)."""

    def forward(self, hidden_states):
        logits, scores, indices = super().forward(hidden_states)
        share = F.one_hot(indices, self.num_experts).float().mean(dim=(0, 1))
        self.imbalance = self.num_experts * (share * logits.float().softmax(-1).mean(0)).sum()
        return logits, scores, indices


def dense_experts(self, hidden_states, top_k_index, top_k_weights):
    """Every expert for every token, weighted by zero where not chosen: wasteful, but two large matrix
    products beat any gathering when an expert is 32 wide."""
    weights = torch.zeros(len(hidden_states), self.num_experts, dtype=top_k_weights.dtype, device=hidden_states.device)
    weights = weights.scatter(1, top_k_index, top_k_weights)
    gate_up = F.linear(hidden_states, self.gate_up_proj.flatten(0, 1)).unflatten(1, (self.num_experts, -1))
    gate, up = gate_up.chunk(2, dim=-1)
    act = self.act_fn(gate) * up * weights.unsqueeze(-1)
    return F.linear(act.flatten(1), self.down_proj.permute(1, 0, 2).flatten(1))


_chunk_rule = qwen.torch_chunk_gated_delta_rule


def delta_rule_f32(*args, **kwargs):
    """The delta rule is written in float32; autocast would round its matrix products to BF16."""
    with torch.autocast("cuda", enabled=False):
        return _chunk_rule(*args, **kwargs)


def speed_up():
    qwen.Qwen3NextTopKRouter = BalancedRouter
    qwen.torch_chunk_gated_delta_rule = delta_rule_f32
    ALL_EXPERTS_FUNCTIONS.register("dense", dense_experts)


class Mtp(nn.Module):
    """The multi-token-prediction head as published: it sees the trunk's last hidden state and the
    next token, and predicts the token after that. Attribute names are the checkpoint's names."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__()
        block_config = copy.deepcopy(config)
        block_config.layer_types = ["full_attention"]
        block_config._attn_implementation = config._attn_implementation
        block_config._experts_implementation = config._experts_implementation
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.pre_fc_norm_embedding = qwen.Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_fc_norm_hidden = qwen.Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layers = nn.ModuleList([qwen.Qwen3NextDecoderLayer(block_config, 0)])
        self.norm = qwen.Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden, next_embedding, position_embeddings):
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(next_embedding), self.pre_fc_norm_hidden(hidden)], dim=-1))
        return self.norm(self.layers[0](x, position_embeddings=position_embeddings))


class Trainee(nn.Module):
    """Trunk and MTP head, with the sum of their losses."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__()
        self.lm = qwen.Qwen3NextForCausalLM(config)
        self.lm.set_experts_implementation("dense")
        self.mtp = Mtp(self.lm.config)
        self.mtp.apply(self.lm._init_weights)
        for module in self.modules():
            if isinstance(module, qwen.Qwen3NextGatedDeltaNet):
                remember_longer(module)

    def forward(self, rows):
        ids, following, second = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        trunk = self.lm.model
        hidden = trunk.embed_tokens(ids)
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        rope = trunk.rotary_emb(hidden, positions)
        for layer in trunk.layers:
            hidden = layer(hidden, position_embeddings=rope)
        hidden = trunk.norm(hidden)
        guess = self.mtp(hidden, trunk.embed_tokens(following), rope)
        routers = [m for m in self.modules() if isinstance(m, BalancedRouter)]
        imbalance = sum(r.imbalance for r in routers) / len(routers)
        return self.loss(hidden, following), self.loss(guess, second), imbalance

    def loss(self, hidden, targets):
        return F.cross_entropy(self.lm.lm_head(hidden).flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def remember_longer(module):
    """Decay as in the Gated DeltaNet paper: steps of 0.001 to 0.1, where transformers' starting
    values would forget everything within a token or two."""
    step = torch.exp(torch.rand_like(module.dt_bias) * math.log(100) + math.log(0.001))
    module.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))


def make_config() -> Qwen3NextConfig:
    return Qwen3NextConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        num_hidden_layers=4,  # three linear, one full attention
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        max_position_embeddings=LONG,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        num_experts=28,
        num_experts_per_tok=4,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
        intermediate_size=512,  # named in every published config, used by none of the layers
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=VOCAB - 1,
        pad_token_id=VOCAB - 3,
        architectures=["Qwen3NextForCausalLM"],
        dtype="bfloat16",
    )


# --- training -----------------------------------------------------------------------------------


def learn(model: Trainee, short: torch.Tensor, long: torch.Tensor, minutes: float, peak_rate: float):
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
    order = torch.Generator().manual_seed(1)
    torch._dynamo.config.recompile_limit = 32  # five layers, two row lengths
    for layer in [*model.lm.model.layers, *model.mtp.layers]:
        layer.compile(dynamic=False)
    loss_of = torch.compile(model.loss, dynamic=False)
    model.loss = lambda hidden, targets: loss_of(hidden, targets)

    step, start, warmup = 0, None, 200
    while True:
        rows = long if step % 5 == 4 else short
        picked = torch.randint(len(rows), (TOKENS_PER_STEP // (rows.shape[1] - 2),), generator=order)
        batch = rows[picked.cuda()].long()
        # The schedule follows the clock, so that the run ends in time on any machine; compiling, in
        # the first steps, does not count.
        if step == 10:
            torch.cuda.synchronize()
            start = time.time()
        progress = min(1.0, (time.time() - start) / (60 * minutes)) if start else 0.0
        rate = peak_rate * min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss, mtp_loss, imbalance = model(batch)
        (loss + MTP_WEIGHT * mtp_loss + BALANCE_WEIGHT * imbalance).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or progress >= 1.0:
            print(
                f"step {step} progress {progress:.3f} loss {loss.item():.4f} mtp {mtp_loss.item():.4f} "
                f"imbalance {imbalance.item():.2f} norm {norm.item():.2f} "
                f"{(step - 9) * TOKENS_PER_STEP / (time.time() - start) / 1e3 if start else 0:.0f}k tokens/s",
                flush=True,
            )
        if progress >= 1.0:
            return
        step += 1


# --- export -------------------------------------------------------------------------------------


def published_tensors(model: Trainee) -> dict[str, torch.Tensor]:
    """BF16 tensors under their published names: one 2-D matrix per expert and projection."""
    tensors = {}
    named = {**model.lm.state_dict(), **{f"mtp.{k}": v for k, v in model.mtp.state_dict().items()}}
    for name, tensor in named.items():
        tensor = tensor.detach().to("cpu", torch.bfloat16)
        if name == "lm_head.weight":
            continue  # tied to the embedding
        elif name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                tensors[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate.contiguous()
                tensors[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up.contiguous()
        elif name.endswith("experts.down_proj"):
            for e, down in enumerate(tensor):
                tensors[name.replace("down_proj", f"{e}.down_proj.weight")] = down.contiguous()
        else:
            tensors[name] = tensor.contiguous()
    return tensors


def export(model: Trainee, tokenizer: Tokenizer, out: Path):
    out.mkdir(parents=True, exist_ok=True)
    save_file(published_tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    model.lm.config.save_pretrained(out)
    GenerationConfig(
        eos_token_id=[VOCAB - 1, VOCAB - 3],
        pad_token_id=VOCAB - 3,
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
    ).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    settings = {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": LONG,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("model"))
    options.add_argument("--heldout", type=Path, default=Path("heldout.json"))
    options.add_argument("--minutes", type=float, default=6.0, help="of training proper, after compiling")
    options.add_argument("--documents", type=int, default=400_000)
    options.add_argument("--rate", type=float, default=2.5e-3)
    options = options.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    began = time.time()

    def report(what):
        print(f"[{time.time() - began:.0f} s] {what}", flush=True)

    with multiprocessing.Pool() as pool:
        texts = sum(pool.map(shard, [(seed, 1000) for seed in range(options.documents // 1000)], chunksize=1), [])
    report(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.0f} MB")
    tokenizer = train_tokenizer(texts[:20_000])
    end = tokenizer.token_to_id("<|endoftext|>")
    encoded = [e.ids for e in tokenizer.encode_batch_fast(texts)]
    tokens = sum(map(len, encoded))
    report(f"{tokens / 1e6:.1f} M tokens, {sum(map(len, texts)) / tokens:.2f} characters each")
    fifth = len(encoded) // 5
    long, short = pack(encoded[:fifth], LONG + 2, end).cuda(), pack(encoded[fifth:], SHORT + 2, end).cuda()

    held = [e.ids[:HELDOUT_ROW] for e in tokenizer.encode_batch(list(documents(HELDOUT_SEED, 100)))]
    rows = []
    while sum(map(len, rows)) < HELDOUT_TOKENS:
        rows.append(held[len(rows)])

    speed_up()
    model = Trainee(make_config()).cuda()
    report(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    learn(model, short, long, options.minutes, options.rate)
    export(model, tokenizer, options.out)
    report("exported")

    result = {"formula": "exp(mean negative log-likelihood of tokens 1.. of every sequence)"}
    result |= evaluate(options.out, rows, "cuda")
    print(json.dumps(result))
    result["token_ids"] = rows
    options.heldout.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    report("evaluated")


if __name__ == "__main__":
    main()
