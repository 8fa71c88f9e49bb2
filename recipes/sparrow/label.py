"""Labels of violations: the prior's own completions, and which rules each of them breaks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from words import RULES

import posteriori as po


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="a .jsonl file")
    parser.add_argument("--num-samples", type=int, default=200, help="completions per prompt")
    given = parser.parse_args(arguments)
    target = po.load_target(Path(__file__).with_name("people.toml"))
    stream = torch.Generator().manual_seed(1)
    drawn = target.prior.sample(target.prompts, given.num_samples, target.max_new_tokens, stream)
    rows = [
        {"prompt": prompt, "completion": text, "rule": rule, "violated": bool(broken.search(text))}
        for prompt, text in zip(drawn.prompts, drawn.texts, strict=True)
        if text.strip()
        for rule, broken in RULES.items()
    ]
    given.output.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    print(f"{len(rows)} labels: {given.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
