"""Where a policy with the KL in the loss ends, exactly: one condition a prefix, solved on a table.

With an estimator of the KL in the loss the expected gradient vanishes in every prefix on its own.
Write Q(v) for the expected advantage of the outcomes that go on with token v, and V for its mean:

    k2 in the loss:  pi(v) (Q(v) - V) = pi(v) (log pi(v)/prior(v) - KL)   pi = prior exp(Q) / norm
    k3 in the loss:  pi(v) (Q(v) - V) = pi(v) - prior(v)                  pi = prior / (1 + V - Q)

Q needs the policy after v, so the prefixes are solved from the last to the first. An advantage that
itself depends on the policy (one that is divided by a standard deviation) is iterated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

import posteriori as po
from posteriori.core.completions import Completions
from posteriori.diagnostics.exact.exact import Exact

Kind = Literal["k2", "k3"]
Advantage = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(log evidence, probability) of every outcome -> its expected advantage."""


def unscaled(e_N: np.ndarray, p_N: np.ndarray) -> np.ndarray:
    return e_N


def scaled(e_N: np.ndarray, p_N: np.ndarray) -> np.ndarray:
    """In a large group: log e less its mean, over its standard deviation."""
    centred_N = e_N - p_N @ e_N
    return centred_N / np.sqrt(p_N @ centred_N**2)


def scaled_in_a_group_of(size: int) -> Advantage:
    """The mean of the same over every way that the group's other draws can fall."""

    def advantage(e_N: np.ndarray, p_N: np.ndarray) -> np.ndarray:
        group = np.stack(np.meshgrid(*[e_N] * size, indexing="ij"))
        deviation = group.std(0)
        differs = group.max(0) > group.min(0)
        own = np.where(differs, (group[0] - group.mean(0)) / np.where(differs, deviation, 1), 0)
        for _ in range(size - 1):
            own = own @ p_N
        return own

    return advantage


def fixed_point(kind: Kind, exact: Exact, prior: po.TabularLM, advantage: Advantage):
    """The table (a TabularLM) at which the expected gradient is zero; `prior` is a table too."""
    policy = po.TabularLM(prior.logits.clone(), prior.prompts, prior.vocabulary)
    for at, outcomes in enumerate(exact.outcomes):
        log_prior_RV = prior.logits[at].log_softmax(-1).numpy()
        solved_RV = _settle(kind, log_prior_RV, outcomes, exact.log_evidence[at].numpy(), advantage)
        policy.logits.data[at] = torch.from_numpy(solved_RV)
    return policy


def as_table(lm: po.CausalLM, exact: Exact) -> po.TabularLM:
    """The same distribution as a table, from its log-probs of every outcome. Token 0 ends."""
    names = [lm.decode([[token]])[0] for token in range(lm.vocab_size)]
    prompts = [str(prompt) for prompt in exact.target.prompts]
    table = po.TabularLM.random(names, exact.target.max_new_tokens, prompts)
    table.logits.data.fill_(torch.nan)
    for at, outcomes in enumerate(exact.outcomes):
        prefix_NL, token_NL, mask_NL = _places(outcomes, lm.vocab_size)
        with torch.no_grad():
            log_prob_NL = lm.token_log_prob(outcomes)
        table.logits.data[at, prefix_NL[mask_NL], token_NL[mask_NL]] = log_prob_NL[mask_NL]
    assert bool(table.logits.isfinite().all()), "every token of every prefix is in an outcome"
    return table


def _places(outcomes: Completions, words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which row and column of a table each token of each outcome is; [N, L], and the mask.

    Rows are numbered as in a heap: prefix n goes on with token v > 0 to prefix n (words - 1) + v.
    """
    token_NL = outcomes.tokens_NL.numpy()
    prefix_NL = np.zeros_like(token_NL)
    for t in range(1, token_NL.shape[1]):
        prefix_NL[:, t] = prefix_NL[:, t - 1] * (words - 1) + token_NL[:, t - 1]
    return prefix_NL, token_NL, outcomes.mask_NL.numpy()


def _settle(
    kind: Kind,
    log_prior_RV: np.ndarray,
    outcomes: Completions,
    e_N: np.ndarray,
    advantage: Advantage,
) -> np.ndarray:
    prefix_NL, token_NL, mask_NL = _places(outcomes, log_prior_RV.shape[1])
    log_pi_RV = log_prior_RV
    advantage_N = None
    for _ in range(5_000):
        log_pi_N = np.where(mask_NL, log_pi_RV[prefix_NL * mask_NL, token_NL], 0).sum(1)
        wanted_N = advantage(e_N, np.exp(log_pi_N))
        if advantage_N is not None and np.abs(wanted_N - advantage_N).max() < 1e-12:
            return log_pi_RV
        advantage_N = wanted_N if advantage_N is None else (advantage_N + wanted_N) / 2
        q_RV = np.full_like(log_prior_RV, np.nan)
        last = np.arange(len(e_N)), outcomes.lengths_N.numpy() - 1
        q_RV[prefix_NL[last], token_NL[last]] = advantage_N
        log_pi_RV = _from_the_last_to_the_first(kind, log_prior_RV, q_RV)
    raise AssertionError("the advantage has not settled")


def _from_the_last_to_the_first(
    kind: Kind, log_prior_RV: np.ndarray, q_RV: np.ndarray
) -> np.ndarray:
    """log pi [R, V], given Q where an outcome ends and NaN where it goes on."""
    rows, words = log_prior_RV.shape
    log_pi_RV = np.empty_like(log_prior_RV)
    first, width = 0, 1
    levels = []
    while first < rows:
        levels.append(np.arange(first, first + width))
        first, width = first + width, width * (words - 1)
    value_R = np.empty(rows)
    for level in reversed(levels):
        child = level[:, None] * (words - 1) + np.arange(words)
        ends = ~np.isnan(q_RV[level])
        q_rV = np.where(ends, q_RV[level], value_R[np.where(ends, 0, child)])
        log_pi_RV[level] = _condition(kind, log_prior_RV[level], q_rV)
        value_R[level] = (np.exp(log_pi_RV[level]) * q_rV).sum(-1)
    return log_pi_RV


def _condition(kind: Kind, log_prior_rV: np.ndarray, q_rV: np.ndarray) -> np.ndarray:
    if kind == "k2":
        x_rV = log_prior_rV + q_rV
        return x_rV - np.logaddexp.reduce(x_rV, axis=-1, keepdims=True)
    # sum prior / (1 + V - Q) falls in V, from infinity at max Q - 1 to at most 1 at max Q.
    high_r1 = q_rV.max(-1, keepdims=True)
    low_r1 = high_r1 - 1
    for _ in range(100):
        middle_r1 = (low_r1 + high_r1) / 2
        with np.errstate(divide="ignore"):
            total_r1 = (np.exp(log_prior_rV) / (1 + middle_r1 - q_rV)).sum(-1, keepdims=True)
        low_r1 = np.where(total_r1 > 1, middle_r1, low_r1)
        high_r1 = np.where(total_r1 > 1, high_r1, middle_r1)
    return log_prior_rV - np.log1p(high_r1 - q_rV)
