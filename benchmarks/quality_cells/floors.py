"""Maximum likelihood on exact draws of the posterior: what the model's weights can learn at all
from so many draws."""

from __future__ import annotations

import copy

import torch

import posteriori as po
from posteriori.core.completions import Completions
from posteriori.core.settings.training import LoraSettings
from posteriori.models.causal import CausalLM

RATES = (1e-4, 3e-4)
EPOCHS, BATCH, HELD_OUT = 12, 64, 10


def fit_exact_draws(target: po.Target, num_samples: int, seed: int) -> CausalLM:
    """argmax over weights of the mean log pi(y|c), y ~ p*(.|c), `num_samples` per prompt.

    Every tenth draw is held out. The policy is the one, of both rates and all epochs, under which
    the held-out draws have the highest log-prob; a run ends after two epochs without a gain.
    """
    exact = po.sample(target, "rejection", num_samples=num_samples, seed=seed).completions
    number = torch.arange(len(exact))
    held_out = exact.select(number[number % HELD_OUT == 0])
    rest = exact.select(number[number % HELD_OUT != 0])
    runs = [_run(target, rest, held_out, rate, seed) for rate in RATES]
    return max(runs, key=lambda run: run[0])[1]


def _run(
    target: po.Target, draws: Completions, held_out: Completions, rate: float, seed: int
) -> tuple[float, CausalLM]:
    assert isinstance(target.prior, CausalLM)
    policy = target.prior.as_policy("full", LoraSettings(), seed)
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    seeded = torch.Generator().manual_seed(seed)
    best, weights, without_gain = _mean_log_prob(policy, held_out), None, 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(draws), generator=seeded).split(BATCH):
            optimizer.zero_grad()
            (-policy.log_prob(draws.select(rows)).mean()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        now = _mean_log_prob(policy, held_out)
        without_gain = 0 if now > best else without_gain + 1
        if now > best:
            best, weights = now, copy.deepcopy(policy.module.state_dict())
        if without_gain == 2:
            break
    if weights is None:
        return best, target.prior
    policy.module.load_state_dict(weights)
    return best, policy


def _mean_log_prob(lm: CausalLM, completions: Completions) -> float:
    with torch.no_grad():
        return float(lm.log_prob(completions).mean())
