"""On fresh draws, what the labels were of: rules broken, and what is preferred."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from words import RULES, taste

import posteriori as po


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path, help="the policy that fit has kept")
    parser.add_argument("--num-samples", type=int, default=1000, help="draws per prompt")
    given = parser.parse_args(arguments)
    target = po.load_target(Path(__file__).with_name("people.toml"))
    shares = {
        "prior": _shares(target, target.prior, given.num_samples),
        "policy": _shares(target, po.load(given.policy), given.num_samples),
    }
    print(f"{'':16}", *(f"{name:>16}" for name in shares))
    for name in next(iter(shares.values())):
        columns = (f"{each[name][0]:8.3f} ± {each[name][1]:.3f}" for each in shares.values())
        print(f"{name:16}", *(f"{each:>16}" for each in columns))
    return 0


def _shares(target: po.Target, lm: po.LanguageModel, number: int) -> dict[str, tuple[float, float]]:
    """Each rule's share of broken draws, that of draws that break any, and the mean of taste, all
    with their standard errors (for these prompts)."""
    stream = torch.Generator().manual_seed(2)
    drawn = lm.sample(target.prompts, number, target.max_new_tokens, stream)
    broken = {
        rule: [bool(pattern.search(text)) for text in drawn.texts]
        for rule, pattern in RULES.items()
    }
    broken["any rule"] = [any(each) for each in zip(*broken.values(), strict=True)]
    values = {**broken, "taste": taste(drawn.texts)}
    found = {}
    for name, each in values.items():
        value_PN = torch.tensor(each, dtype=torch.float64).view(len(target.prompts), number)
        error = (value_PN.var(1) / number).sum().sqrt() / len(target.prompts)
        found[name] = (float(value_PN.mean()), float(error))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
