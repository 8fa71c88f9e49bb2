"""Pretrain the bundled prior ``tiny``: a 4-million-parameter Llama on short English documents.

Fetches the data with ``apt-get download`` and ``pip download``, builds the corpus, trains a
byte-level BPE tokenizer and the model on one CPU core, and writes the model directory with a card
that holds the measured figures. Needs ``torch``, ``transformers``, ``gguf`` and
``alt-profanity-check``.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiny_corpus
import tiny_remarks
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

log = logging.getLogger("tiny.pretrain")

SIZE_LIMIT = 10_000_000
ROOT = Path(__file__).resolve().parent.parent


class PretrainError(RuntimeError):
    """The trained model does not meet a requirement of the bundled prior."""


@dataclass
class Figures:
    """What is measured on the way, for the model card."""

    documents: dict[str, int] = field(default_factory=dict)
    epoch_tokens: int = 0
    epochs: int = 0
    minutes: float = 0.0
    parameters: int = 0
    held_documents: int = 0
    perplexity: float = 0.0
    bits_per_byte: float = 0.0
    perplexity_by_source: dict[str, float] = field(default_factory=dict)
    offensive: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0
    distinct: float = 0.0
    samples: list[tuple[str, str]] = field(default_factory=list)


def new_model(tokenizer: Any, hidden: int, layers: int) -> LlamaForCausalLM:
    """A fresh Llama with tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=tiny_corpus.CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of whole documents: start token, text, end token."""
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts).input_ids]


def batches(rows: list[list[int]], budget: int, pad: int, rng: random.Random) -> Iterator[Any]:
    """Right-padded batches of about ``budget`` tokens, with rows of like length together."""
    # sorting in pools keeps both the padding and the order's regularity small
    pool = 64 * budget // 20
    groups: list[list[list[int]]] = []
    for at in range(0, len(rows), pool):
        part = sorted(rows[at : at + pool], key=len)
        while part:
            count = max(1, budget // len(part[-1]))
            groups.append(part[-count:])
            part = part[:-count]
    rng.shuffle(groups)
    for group in groups:
        width = max(map(len, group))
        yield torch.tensor([row + [pad] * (width - len(row)) for row in group])


def token_losses(model: Any, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Negative log-likelihood of every predicted token of a batch, padding left out."""
    # right padding under a causal mask cannot reach the tokens that count: no attention mask
    states = model.model(input_ids=ids[:, :-1]).last_hidden_state
    targets = ids[:, 1:]
    wanted = targets != pad
    logits = model.lm_head(states[wanted])
    return F.cross_entropy(logits.float(), targets[wanted], reduction="none")


def optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def train(model: Any, data: list[list[list[int]]], args: argparse.Namespace, pad: int) -> None:
    """Train on the epochs' encoded documents, with warm-up and a linear decay to zero."""
    rng = random.Random(args.seed)
    steps = [b for rows in data for b in batches(rows, args.batch, pad, rng)]
    optims = optimizers(model, args.rate)
    start, seen, smooth = time.monotonic(), 0, 0.0
    model.train()
    for step, ids in enumerate(steps):
        scale = min((step + 1) / 60, 1 - step / len(steps))
        for optim in optims:
            optim.param_groups[0]["lr"] = args.rate * scale
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = token_losses(model, ids, pad).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        seen += ids.numel()
        smooth += (loss.item() - smooth) * max(0.1, 1 / (step + 1))
        if step % 25 == 0 or step + 1 == len(steps):
            pace = seen / (time.monotonic() - start)
            log.info("step %d/%d loss %.3f, %.0f tokens/s", step, len(steps), smooth, pace)
    model.eval()


@torch.no_grad()
def held_out(model: Any, tokenizer: Any, docs: list[tiny_corpus.Document], out: Figures) -> None:
    """Held-out perplexity for each token and source, and bits for each byte."""
    nats: dict[str, float] = {}
    tokens: dict[str, int] = {}
    rng = random.Random(0)
    for name in sorted({d.source for d in docs}):
        rows = encode(tokenizer, [d.text for d in docs if d.source == name])
        parts = [token_losses(model, b, 0) for b in batches(rows, 4096, 0, rng)]
        nats[name] = sum(float(p.sum()) for p in parts)
        tokens[name] = sum(p.numel() for p in parts)
        out.perplexity_by_source[name] = math.exp(nats[name] / tokens[name])
    size = sum(len(d.text.encode()) for d in docs)
    out.held_documents = len(docs)
    out.perplexity = math.exp(sum(nats.values()) / sum(tokens.values()))
    out.bits_per_byte = sum(nats.values()) / math.log(2) / size
    log.info("held-out perplexity %.2f, %.3f bits/byte", out.perplexity, out.bits_per_byte)


@torch.no_grad()
def demo(model: Any, tokenizer: Any, prompts: list[str], each: int, out: Figures) -> None:
    """Completions of the demo prompts: offensive share, ends within 24 tokens, diversity."""
    torch.manual_seed(0)
    ended, grams = [], []
    for prompt in prompts:
        ids = tokenizer([prompt] * each, return_tensors="pt")
        full = model.generate(**ids, max_new_tokens=24, do_sample=True, top_k=0, temperature=1.0)
        new = full[:, ids.input_ids.shape[1] :]
        ended += (new == tokenizer.eos_token_id).any(1).tolist()
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        flagged = [p > 0.5 for p in tiny_corpus.offensive(texts)]
        out.offensive[prompt] = sum(flagged) / each
        out.samples += [(prompt, t) for t in texts[:2]]
        words = [t.split() for t in texts]
        grams += [pair for w in words for pair in pairwise(w)]
    out.ended = sum(ended) / len(ended)
    out.distinct = len(set(grams)) / len(grams)
    log.info("offensive %s", out.offensive)
    log.info("ended %.3f, distinct bigrams %.3f", out.ended, out.distinct)


def save(model: Any, tokenizer: Any, target: Path) -> None:
    """Write the model in half precision, and make plain sampling the default for generation."""
    target.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    model.generation_config._from_model_config = False
    model.to(torch.float16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    # the name by which older releases of transformers know this class
    config = target / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    for path in target.iterdir():
        path.chmod(0o644)


def card(figures: Figures, each: int, boost: float) -> str:
    """The model card, from what was measured."""
    sources = [
        f"| {s.name} | {figures.documents[s.name]:,} | {s.weight:g} | {s.licence} | {s.about} |"
        for s in tiny_corpus.SOURCES
    ]
    template = Path(__file__).with_name("tiny_card.md").read_text(encoding="utf-8")
    return template.format(
        f=figures,
        each=each,
        boost=boost,
        sources="\n".join(sources),
        by_source=", ".join(f"{k} {v:.1f}" for k, v in figures.perplexity_by_source.items()),
        mean=sum(figures.offensive.values()) / len(figures.offensive),
        offensive="\n".join(f"| {k} | {v:.1%} |" for k, v in figures.offensive.items()),
        samples="\n".join(f"- **{p}**{' '.join(t.split(chr(10)))}" for p, t in figures.samples),
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    package = ROOT / "src" / "posteriori"
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads and samples")
    parser.add_argument("--target", type=Path, default=package / "models" / "tiny")
    parser.add_argument("--prompts", type=Path, default=package / "cli" / "demo_prompts.txt")
    parser.add_argument("--remarks", type=int, default=14_000, help="remarks to sample")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2048, help="tokens in a batch")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--boost", type=float, default=1.0, help="weight of offensive documents")
    parser.add_argument("--each", type=int, default=128, help="completions of each demo prompt")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Build everything."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    tiny_remarks.write_remarks(args.work, args.work / "remarks.jsonl", args.remarks, args.seed)
    docs, held = tiny_corpus.build(args.work, args.seed)
    figures = Figures(epochs=args.epochs)
    for doc in docs:
        figures.documents[doc.source] = figures.documents.get(doc.source, 0) + 1

    rng = random.Random(args.seed)
    tokenizer = tiny_corpus.train_tokenizer([d.text for d in docs], args.vocab)
    texts = [tiny_corpus.epoch(docs, args.boost, rng) for _ in range(args.epochs)]
    data = [encode(tokenizer, part) for part in texts]
    figures.epoch_tokens = sum(map(len, data[0]))
    model = new_model(tokenizer, args.hidden, args.layers)
    figures.parameters = model.num_parameters()
    log.info("%d parameters, %d tokens an epoch", figures.parameters, figures.epoch_tokens)
    start = time.monotonic()
    train(model, data, args, tokenizer.pad_token_id)
    figures.minutes = (time.monotonic() - start) / 60

    save(model, tokenizer, args.target)
    stored: Any = AutoModelForCausalLM.from_pretrained(args.target, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    held_out(stored, tokenizer, held, figures)
    prompts = args.prompts.read_text(encoding="utf-8").split("\n")
    demo(stored, tokenizer, [p for p in prompts if p], args.each, figures)
    (args.target / "README.md").write_text(card(figures, args.each, args.boost), encoding="utf-8")
    size = sum(p.stat().st_size for p in args.target.iterdir())
    log.info("%s holds %d bytes", args.target, size)
    if size > SIZE_LIMIT:
        raise PretrainError(f"{args.target} holds {size} bytes, more than {SIZE_LIMIT}")


if __name__ == "__main__":
    main()
