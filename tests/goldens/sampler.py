"""Sampler goldens: next-token probabilities after transformers' logits processors, in transformers' own order."""
import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, Qwen3MoeConfig, Qwen3MoeForCausalLM

VOCAB = 50
SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_p": 0.8},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 0.9},
    {"frequency_penalty": 0.6},
    {"frequency_penalty": -0.4, "presence_penalty": 0.5},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.02},
    {"repetition_penalty": 1.2, "presence_penalty": 1.5, "frequency_penalty": 0.3, "temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
]
NOTES = (
    "Order of transformers 5.17 (GenerationMixin._get_logits_processor): repetition penalty, then processors of the caller, "
    "then temperature, top_k, top_p, min_p; each is skipped when absent. Probabilities are the softmax of what is left, zero where "
    "a token was removed. Repetition penalty: each distinct token of prompt and generated, logit < 0 times, otherwise divided by the penalty. "
    "Presence and frequency are not in transformers; they are the caller's processor here: "
    "logit -= frequency * count + presence * (count > 0), counted over generated only. "
    "top_p keeps the smallest set of most probable tokens whose sum reaches top_p (at least one); min_p keeps p >= min_p * max p; "
    "both see the probabilities left by the steps before them, renormalised."
)


class CountPenalty(LogitsProcessor):
    """Presence and frequency penalties as OpenAI's API and vLLM define them."""

    def __init__(self, presence, frequency, prompt_length):
        self.presence, self.frequency, self.prompt_length = presence, frequency, prompt_length

    def __call__(self, input_ids, scores):
        count = torch.bincount(input_ids[0, self.prompt_length :], minlength=scores.shape[1])
        return scores - self.frequency * count - self.presence * (count > 0)


def host():
    """A tiny model, wanted only for its _get_logits_processor."""
    config = Qwen3MoeConfig(
        vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8,
        num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8, intermediate_size=8,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config)


def probabilities(model, logits, prompt, generated, settings):
    own = {k: v for k, v in settings.items() if k not in ("presence_penalty", "frequency_penalty")}
    config = GenerationConfig(do_sample=True, **{"top_k": 0, "temperature": 1.0, "top_p": 1.0, **own})
    count = CountPenalty(settings.get("presence_penalty", 0.0), settings.get("frequency_penalty", 0.0), len(prompt))
    processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt), logits_processor=[count])
    ids = torch.tensor([prompt + generated])
    return [type(p).__name__ for p in processors], processors(ids, torch.tensor([logits])).softmax(-1)[0]


def goldens():
    model = host()
    rng = np.random.default_rng(3)
    cases = []
    for i, settings in enumerate(SETTINGS):
        logits = [float(f"{x:.4f}") for x in rng.normal(0, 2.5, VOCAB)]
        top = np.argsort(logits)[::-1]
        prompt = [int(t) for t in (*rng.integers(0, VOCAB, 6), top[0])]
        generated = [int(t) for t in (*rng.integers(0, VOCAB, 5), top[1], top[1], top[2])]
        order, p = probabilities(model, logits, prompt, generated, settings)
        cases.append(
            {
                "settings": settings,
                "processors": order,
                "prompt": prompt,
                "generated": generated,
                "logits": logits,
                "probabilities": [float(f"{x:.7g}") for x in p.tolist()],
            }
        )
    return {"notes": NOTES, "cases": cases}
