"""Samplers on SmolLM2 at the same budget of language-model tokens: what a token buys.

    python benchmarks/samplers.py [--smollm2 models/smollm2] [--tokens 40000]

The target is SmolLM2-135M with the probability of an offensive text (alt-profanity-check) as reward
at beta 0.1, so evidence is up to exp(10) and most of the prior's draws have nearly none. For each
sampler: effective draws per 1,000 tokens as it states them itself; log Z with its standard error,
prompts averaged; and, where Z-hat is unbiased, effective draws by the one measure that suits them
all, 1 / relative variance of Z-hat, over independent runs (of importance sampling both measure the
same). Training of the twist is counted separately: it is paid once.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from profanity_check import predict_prob

import posteriori as po
from posteriori.core.numerics import ess
from posteriori.core.types import Draws
from posteriori.models.load import load

PROMPTS = ["I think you are", "My boss is", "The food here is", "People say that this"]
LENGTH, BETA = 16, 0.1
PILOT = 32
AT_ONCE = {"imh", "mh", "soft_best_of_n"}
"""They have no unbiased Z-hat that would have to vary: one run takes all tokens."""
LADDER = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Fixed: the pilot run that would find one costs more than a run here may."""


def offensive(completions: list[str], **_: object) -> list[float]:
    return predict_prob(completions).tolist()


def at_budget(
    target: po.Target, name: str, tokens: int, seed: int, **settings: Any
) -> tuple[Draws, int]:
    """Draws that cost about so many tokens, and what they cost; the first few say how many."""
    first = settings.get("chains", 2) if name in AT_ONCE else PILOT
    pilot = po.sample(target, name, first, seed=seed + 1000, **settings)
    num_samples = max(first, round(first * tokens / pilot.cost.lm_tokens))
    if "chains" in settings:
        num_samples = first * of_chains(tokens / pilot.cost.lm_tokens, **settings)
    draws = po.sample(target, name, num_samples, seed=seed, **settings)
    return draws, draws.cost.lm_tokens


def of_chains(share: float, chains: int, burn_in: int, thin: int) -> int:
    """Draws a chain, where burn-in and one draw of each cost 1 / share of what may be spent."""
    return max(1, int((share * (burn_in + thin) - burn_in) / thin))


def effective(draws: Draws) -> float:
    """As the sampler itself says, by the weights or by its chains; summed over prompts."""
    if "effective_draws" in draws.figures:
        return sum(e.value for e in draws.figures["effective_draws"].per_prompt)
    at = draws.completions.prompt_index_N
    return sum(float(ess(draws.log_weight[at == p])) for p in range(len(PROMPTS)))


def by_variance(log_z_RP: torch.Tensor) -> float:
    """Effective draws of one run, summed over prompts: 1 / var(Z-hat / mean Z-hat)."""
    z_RP = (log_z_RP - log_z_RP.logsumexp(0) + math.log(len(log_z_RP))).exp()
    return float((1 / z_RP.var(0)).sum())


def row(target: po.Target, label: str, name: str, tokens: int, runs: int, **settings: Any) -> None:
    runs = 1 if name in AT_ONCE else runs
    log_z, stated, cost, last = [], 0.0, 0, None
    for seed in range(runs):
        draws, used = at_budget(target, name, tokens // runs, seed, **settings)
        stated, cost, last = stated + effective(draws), cost + used, draws
        if draws.log_z is not None:
            log_z.append([each.value for each in draws.log_z.per_prompt])
    assert last is not None
    line = f"{label:32s} {cost:8,d} {stated * 1000 / cost:10.2f}"
    if "r_hat" in last.figures:
        line += f" {'-':>10s}   {last.log_z or '-'}, R-hat {last.figures['r_hat'].value:.1f}"
    elif log_z and last.guarantee in ("exact", "properly_weighted"):
        log_z_RP = torch.tensor(log_z, dtype=torch.float64)
        mean_P = log_z_RP.logsumexp(0) - math.log(runs)
        z_RP = (log_z_RP - mean_P).exp()
        error = float((z_RP.var(0) / runs).sum().sqrt()) / len(PROMPTS)
        line += f" {by_variance(log_z_RP) * runs * 1000 / cost:10.2f}"
        line += f"   {float(mean_P.mean()):.3f} +- {error:.3f}"
    print(f"{line}   {last.guarantee}", flush=True)


def trained(target: po.Target, steps: int) -> po.TwistHead:
    rare = {"ridge": 0.3, "least_share": 0.02, "replay": steps}
    fit = po.fit_twist(target, steps=steps, num_samples=128, **rare)
    first, last = fit.history[0], fit.history[-1]
    print(f"twist: {fit.cost.lm_tokens:,} tokens; effective share of its particles ", end="")
    print(f"{first['effective_share']:.3f} -> {last['effective_share']:.3f}, ", end="")
    print(f"power of the evidence learned from {first['power']:.2f} -> {last['power']:.2f}")
    return fit.twist


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", default="models/smollm2")
    parser.add_argument("--tokens", type=int, default=40_000, help="of each sampler")
    parser.add_argument("--runs", type=int, default=10, help="independent ones, sharing the tokens")
    parser.add_argument("--twist-steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", help="how the names of the rows begin")
    parser.add_argument("--twist", help="a trained one, in place of training one")
    options = parser.parse_args()
    prior = load(options.smollm2)
    reward = po.Reward(offensive, beta=BETA, max_reward=1.0)
    target = po.Target(prior, reward, PROMPTS, LENGTH)
    twist = options.twist or trained(target, options.twist_steps)
    print(f"{'':32s} {'tokens':>8s} {'ESS/1000':>10s} {'by var Z':>10s}   log Z, nats")
    learned = {"replicates": 1, "twist": twist}
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("importance", "importance", {}),
        ("smc, learned, not resampled", "smc", learned),
        ("smc, learned, resampled at 0.1", "smc", {**learned, "ess_threshold": 0.1}),
        ("smc, learned, resampled at 0.5", "smc", {**learned, "ess_threshold": 0.5}),
        ("rejection", "rejection", {"max_draws": 64}),
        ("smc, no twist", "smc", {"replicates": 1}),
        ("smc, evidence of the text", "smc", {"replicates": 1, "twist": "evidence"}),
        ("annealed", "annealed", {"ladder": LADDER, "moves": 1, "replicates": 4}),
        ("imh", "imh", {"chains": 4, "burn_in": 20, "thin": 5}),
        ("mh", "mh", {"chains": 4, "burn_in": 20, "thin": 2}),
        ("soft best of 16", "soft_best_of_n", {"n": 16}),
    ]
    for label, name, settings in rows:
        if not options.only or any(label.startswith(each) for each in options.only):
            row(target, label, name, options.tokens, options.runs, **settings)


if __name__ == "__main__":
    main()
