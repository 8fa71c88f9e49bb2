"""Our sampler against `model.generate`: same model, batch and length, both returning log-probs.

    python benchmarks/sampler.py [--smollm2 models/smollm2] [--rounds 5]

Prints tokens per second and their ratio, from runs taken in turns. Every row is made to run its
full length, so both do the same work. With `--smollm2` (see scripts/fetch_smollm2.py) SmolLM2-135M
too: in float32, in bfloat16, and `generate` in bfloat16 against our default, which keeps the output
head and the residual stream in float32 (dtype="mixed"); that once more for longer completions.
"""

from __future__ import annotations

import argparse

import torch
from common import paired, prompts, tiny_gpt2, tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import posteriori as po
from posteriori.core.seeds import generator
from posteriori.models.causal import CausalLM
from posteriori.models.warp import Warp


def generate_with_log_probs(model, tok, texts: list[str], num_samples: int, length: int) -> None:
    """What a user of transformers writes to get draws and their log-probs."""
    tok.padding_side = "left"
    inputs = tok([t for t in texts for _ in range(num_samples)], return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model.generate(
            **{k: inputs[k] for k in ("input_ids", "attention_mask")},
            do_sample=True,
            top_k=0,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=tok.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        log_probs = torch.stack(out.scores, dim=1).float().log_softmax(-1)
        log_probs.gather(-1, out.sequences[:, -length:, None])


def row(name: str, lm: CausalLM, model, texts: list[str], each: int, length: int, rounds: int):
    fixed_length = lm.warped(min_new_tokens=length)
    ours, theirs = paired(
        lambda: fixed_length.sample(texts, each, length, generator(0)),
        lambda: generate_with_log_probs(model, lm.tokenizer, texts, each, length),
        rounds,
    )
    tokens = len(texts) * each * length
    print(
        f"{name:28s} {tokens / theirs:9.0f} tokens/s generate {tokens / ours:9.0f} ours "
        f"  ratio {theirs / ours:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", help="directory of SmolLM2-135M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = tiny_gpt2()
    lm = CausalLM(model, tokenizer(), warp=Warp())
    row("GPT-2, 2 layers, 256 x 20", lm, model, prompts(8), 32, 20, options.rounds)
    if options.smollm2:
        texts = ["I think you are", "My boss is", "The weather", "People say that this"]
        plain = po.load(options.smollm2, dtype="float32")
        row("SmolLM2 float32, 64 x 20", plain, plain.model, texts, 16, 20, options.rounds)
        half = AutoModelForCausalLM.from_pretrained(options.smollm2, dtype=torch.bfloat16).eval()
        for dtype in ("bfloat16", "mixed"):
            fast = po.load(options.smollm2, dtype=dtype)
            name = f"SmolLM2 {dtype}, 64 x 20"
            row(name, fast, half, texts, 16, 20, options.rounds)
        longer = max(1, options.rounds // 3)
        row("SmolLM2 mixed, 64 x 100", fast, half, texts, 16, 100, longer)


if __name__ == "__main__":
    main()
