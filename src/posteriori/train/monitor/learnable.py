"""Whether the evidence differs between a run's draws: where it does not, nothing can be learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.target import Target
from posteriori.core.types import Draws, Finding

from .reward_ranges import RewardRanges

PATIENCE = 10
"""Steps in a row without a difference after which it is no bad luck any more."""

NOTHING = ("nothing_to_learn", "no_draw_meets_the_evidence")
"""Names of the findings that a run has learned nothing at all so far."""

_SAME = 1e-9
"""Log evidence within so much of each other, relatively, is the same."""

_FEWEST = 50
"""Draws of a prompt from which on it is worth saying that they are all alike."""


class Learnable:
    """What the draws of a run so far say of its evidence; findings once each.

    Draws of one prompt that all have the same evidence teach nothing: no advantage, no weight and
    no preference distinguishes one from another, whatever the objective. That is so for a reward
    that is a constant (0 for all, None for all), for one that only differs between prompts, and for
    hard evidence that no draw meets. The first step's draws are the prior's, and what they show is
    said before any update (`warn`: rare evidence may look the same); what stays so for ten steps is
    said again as `stop`.
    """

    def __init__(self, target: Target, steps: int) -> None:
        self.target, self.steps = target, steps
        self.rewards = RewardRanges()
        size = len(target.prompts)
        self.low_P = torch.full((size,), math.inf, dtype=torch.float64)
        self.high_P = torch.full((size,), -math.inf, dtype=torch.float64)
        self.count_P = torch.zeros(size, dtype=torch.float64)
        self.alike = 0
        """Steps in a row, up to the last one, whose draws differ and have the same evidence. (Those
        of a collapsed policy do not differ, which is another finding, of `posteriori.evaluate`.)"""
        self.since = 0
        self.said: set[str] = set()
        self.verdict: Finding | None = None
        """That nothing was learned so far, of level stop from the tenth step on."""
        self.seen_steps = 0

    def see(self, draws: Draws, step: int) -> list[Finding]:
        """What is new to say after these fresh draws of the step."""
        log_e_N = draws.log_evidence_N.detach().cpu()
        # Of pairs from a file the evidence is not asked; a step that was cut off is made again.
        if bool(log_e_N.isnan().any()) or step < self.seen_steps:
            return []
        self.seen_steps = step + 1
        before = bool(self._varied().any())
        position_N = self.target.prompt_positions(draws.completions).cpu()
        if self._count(position_N, log_e_N):
            self.alike, self.since = 0, step + 1
        elif _distinct(position_N, draws.completions):
            self.alike += 1
        last = step == self.steps - 1
        found: list[Finding] = []
        if not bool(self._varied().any()):
            self.verdict = self._nothing("stop" if step >= PATIENCE - 1 else "warn", draws)
            return self._new([self.verdict])
        self.verdict = None
        if before and self.alike == PATIENCE:
            found.append(_constant_since(self.since, draws))
        if last or step == PATIENCE - 1:
            found += self.rewards.findings()
        if last:
            found += self._prompts()
        return self._new(found)

    def _new(self, found: list[Finding]) -> list[Finding]:
        new = [each for each in found if f"{each.level} {each.name}" not in self.said]
        self.said |= {f"{each.level} {each.name}" for each in new}
        return new

    def _count(self, position_N: Tensor, log_e_N: Tensor) -> bool:
        """Take the draws in; whether those of a prompt differ within this step."""
        size = len(self.count_P)
        low_P = torch.full((size,), math.inf).double()
        low_P = low_P.scatter_reduce(0, position_N, log_e_N, "amin")
        high_P = torch.full((size,), -math.inf).double()
        high_P = high_P.scatter_reduce(0, position_N, log_e_N, "amax")
        self.low_P = torch.minimum(self.low_P, low_P)
        self.high_P = torch.maximum(self.high_P, high_P)
        self.count_P += torch.bincount(position_N, minlength=size)
        return bool(_differ(low_P, high_P).any())

    def _varied(self) -> Tensor:
        return _differ(self.low_P, self.high_P)

    def _nothing(self, level: str, draws: Draws) -> Finding:
        num, seen = int(self.count_P.sum()), self.count_P > 0
        rare = f"rarer than one in {max(1, num // 3):,}"
        if bool(self.high_P[seen].isneginf().all()):
            return Finding(
                level,  # pyright: ignore[reportArgumentType]
                "no_draw_meets_the_evidence",
                f"None of {num:,} draws so far meets the evidence (log e = -inf for all), so there "
                "is nothing to learn from.",
                "Check the evidence on a completion that should meet it. If it is right and "
                f"{rare}, draw more (num_samples), or put a graded reward in its place.",
            )
        return Finding(
            level,  # pyright: ignore[reportArgumentType]
            "nothing_to_learn",
            f"All {num:,} draws so far have the same evidence as the others of their prompt"
            f"{self._value(seen, draws)}, so there is nothing to learn: the target is the prior as "
            "far as they show.",
            "Print what the reward function gets and returns: does it find the answer, do its "
            "columns have the names it reads, does it return None for all? If it is right and "
            f"good completions are {rare}, draw more (num_samples) or give it grades.",
        )

    def _value(self, seen: Tensor, draws: Draws) -> str:
        """The reward itself, where it is one number for all."""
        reward_N = draws.reward_N.cpu()
        log_e_P = self.high_P[seen]
        if not _alike(log_e_P) or not _alike(reward_N):
            return ", though it differs between prompts"
        return f" (a reward of {float(reward_N[0]):g})"

    def _prompts(self) -> list[Finding]:
        """Prompts that taught nothing in the whole run, beside others that did."""
        enough = self.count_P >= _FEWEST
        without = (enough & self.high_P.isneginf()).nonzero()[:, 0].tolist()
        same = (enough & ~self._varied() & ~self.high_P.isneginf()).nonzero()[:, 0].tolist()
        found = []
        if without:
            found.append(
                Finding(
                    "warn",
                    "prompts_without_evidence",
                    f"{self._some(without)} met the evidence with none of the run's draws, so "
                    "nothing was learned about it.",
                    "Check the evidence for this prompt, draw more, or leave it out.",
                )
            )
        if same:
            found.append(
                Finding(
                    "info",
                    "prompts_all_alike",
                    f"{self._some(same)} had the same evidence for all of the run's draws, so "
                    "nothing was learned about it.",
                    "It may be too easy or too hard for the prior, or the reward function may not "
                    "understand it.",
                )
            )
        return found

    def _some(self, positions: list[int]) -> str:
        shown = repr(str(self.target.prompts[positions[0]])[:60])
        num = len(self.count_P)
        return f"{len(positions)} of {num} prompts (such as {shown})"

    def settled(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """A run's findings without those that its later draws have overtaken."""
        others = tuple(each for each in findings if each.name not in NOTHING)
        return others if self.verdict is None else (*others, self.verdict)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "low_P": self.low_P,
            "high_P": self.high_P,
            "count_P": self.count_P,
            "alike": self.alike,
            "since": self.since,
            "said": sorted(self.said),
            "verdict": None if self.verdict is None else asdict(self.verdict),
            "seen_steps": self.seen_steps,
            "rewards": self.rewards.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.low_P, self.high_P = state["low_P"], state["high_P"]
        self.count_P, self.alike = state["count_P"], state["alike"]
        self.since = state["since"]
        self.said, self.seen_steps = set(state["said"]), state["seen_steps"]
        self.verdict = None if state["verdict"] is None else Finding(**state["verdict"])
        self.rewards.load_state_dict(state["rewards"])


def _constant_since(step: int, draws: Draws) -> Finding:
    reward_N = draws.reward_N.cpu()
    value = f" (a reward of {float(reward_N[0]):g})" if _alike(reward_N) else ""
    return Finding(
        "warn",
        "evidence_constant_since",
        f"Since step {step} all draws of a prompt have the same evidence{value}, though they are "
        "not the same; before that it differed. Nothing is learned from it any more.",
        "If this is the best there is, the run may end here; otherwise look at whether the reward "
        "function still works.",
    )


def _differ(low_P: Tensor, high_P: Tensor) -> Tensor:
    """Where there are two values; what is allowed beside what is ruled out counts as two."""
    mixed_P = low_P.isneginf() & (high_P > -math.inf)
    span_P = (high_P - low_P).nan_to_num(nan=0.0)
    scale_P = 1 + low_P.abs().nan_to_num(posinf=0.0)
    return mixed_P | (low_P.isfinite() & (span_P > _SAME * scale_P))


def _distinct(position_N: Tensor, completions: Completions) -> bool:
    """Whether any prompt has two different completions."""
    tokens_NL = completions.tokens_NL.masked_fill(~completions.mask_NL, -1).cpu()
    rows = torch.cat([position_N[:, None], tokens_NL], dim=1).unique(dim=0)
    return len(rows) > len(position_N.unique())


def _alike(values: Tensor) -> bool:
    return bool((values == values[0]).all())
