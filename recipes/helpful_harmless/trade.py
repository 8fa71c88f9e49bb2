"""What helpfulness costs in harmlessness at one KL, from draws of the prior; and where a policy is.

The two evidences of the run file have weights w and 1 - w, and a strength at which the posterior is
so many nats from the prior. No policy at that KL has more of w x one + (1 - w) x the other.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from people import harmless, helpful
from scipy.optimize import brentq

import posteriori as po


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--policy", type=Path, help="the policy that fit has kept")
    parser.add_argument("--kl", type=float, default=0.4, help="nats from the prior")
    parser.add_argument("--num-samples", type=int, default=1000, help="draws per prompt")
    parser.add_argument("--set", action="append", default=[], help="as of posteriori fit")
    given = parser.parse_args(arguments)
    target = po.load_target(given.config, given.set)
    drawn = _drawn(target, target.prior, given.num_samples)
    log_e_2N = torch.stack(
        [each.score(drawn, {}).log_evidence for each in target.evidence]  # pyright: ignore
    )
    true_2N = torch.tensor([helpful(drawn.texts), harmless(drawn.texts)], dtype=torch.float64)
    at_N = drawn.prompt_index_N
    print(f"{'':24}{'helpful':>10}{'harmless':>10}{'KL, nats':>10}")
    _line("prior", true_2N, torch.zeros_like(true_2N[0]), at_N)
    for w in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixed_N = w * log_e_2N[0] + (1 - w) * log_e_2N[1]
        strength = brentq(lambda s, e=mixed_N: _kl(s * e, at_N) - given.kl, 0.0, 50.0)
        _line(f"{w:.2f} helpful", true_2N, strength * mixed_N, at_N)
    _line("the run file's target", true_2N, log_e_2N.sum(0), at_N)
    if given.policy is not None:
        lm = po.load(given.policy)
        own = _drawn(target, lm, given.num_samples)
        texts = torch.tensor([helpful(own.texts), harmless(own.texts)], dtype=torch.float64)
        kl = float((lm.log_prob(own) - target.prior.log_prob(own)).mean())
        print(f"{'policy':24}{texts[0].mean():10.3f}{texts[1].mean():10.3f}{kl:10.3f}")
    return 0


def _drawn(target: po.Target, lm: po.LanguageModel, number: int) -> po.Completions:
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return lm.sample(target.prompts, number, target.max_new_tokens, stream)


def _kl(log_e_N: torch.Tensor, at_N: torch.Tensor) -> float:
    """KL(prior x e / Z, prior) from draws of the prior, the mean over prompts."""
    found = []
    for prompt in range(int(at_N.max()) + 1):
        log_w = log_e_N[at_N == prompt].log_softmax(0)
        found.append(float((log_w.exp() * (log_w + math.log(len(log_w)))).sum()))
    return sum(found) / len(found)


def _line(name: str, true_2N: torch.Tensor, log_e_N: torch.Tensor, at_N: torch.Tensor) -> None:
    means = torch.stack(
        [
            (true_2N[:, at_N == prompt] * log_e_N[at_N == prompt].softmax(0)).sum(1)
            for prompt in range(int(at_N.max()) + 1)
        ]
    ).mean(0)
    print(f"{name:24}{means[0]:10.3f}{means[1]:10.3f}{_kl(log_e_N, at_N):10.3f}")


if __name__ == "__main__":
    raise SystemExit(main())
