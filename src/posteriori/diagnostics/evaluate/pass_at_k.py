"""pass@k: how probable it is that one of k draws is correct, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from scipy.stats import beta as beta_law
from torch import Tensor

from posteriori.core.display.shown import html_table
from posteriori.core.draw import draw
from posteriori.core.estimates import combine
from posteriori.core.hooks import rewards_among
from posteriori.core.registry import language_model
from posteriori.core.reliability import NORMAL
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.run.default_progress import with_progress
from posteriori.core.run.out_of_memory import explained
from posteriori.core.run.progress import Progress
from posteriori.core.seeds import generator
from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate
from posteriori.data.given_arguments import named_arguments
from posteriori.diagnostics.prompt_sample import of_a_sample, sampled_prompts
from posteriori.errors import ConfigError

_CONFIDENCE = 0.95


@dataclass(frozen=True, repr=False)
class PassAtK:
    """What `num_samples` draws per prompt say of a model that is right or wrong.

    Args:
        name: the model's.
        figures: pass@k by k, the mean over prompts, unbiased.
        num_samples: draws per prompt.
        num_correct_P: how many of them are correct, per prompt.
        correct: the distinct correct answers per prompt, as token ids.

    Example:
        >>> def correct(completions, **_):
        ...     return [text.startswith("a") for text in completions]
        >>> checked = po.Target(prior, po.Verifier(correct), ["x", "y"], 3)
        >>> found = po.pass_at_k(checked, k=[1, 4], num_samples=64, seed=0)["prior"]
        >>> found.num_prompts, 0 < found.figures[1].value < found.figures[4].value
        (2, True)
    """

    name: str
    figures: Mapping[int, Estimate]
    num_samples: int
    num_correct_P: Tensor
    correct: Sequence[frozenset[tuple[int, ...]]]

    @property
    def num_prompts(self) -> int:
        return len(self.num_correct_P)

    @property
    def solved(self) -> int:
        return int((self.num_correct_P > 0).sum())

    @property
    def unsolved_bound(self) -> float:
        """Of a prompt without a correct draw: pass@1 is below this with 95% confidence, about 3 /
        num_samples (the rule of three)."""
        return 1.0 - (1.0 - _CONFIDENCE) ** (1.0 / self.num_samples)

    def interval(self, prompt: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
        """pass@1 of one prompt, by Clopper and Pearson: it holds with at least that confidence."""
        (low,), (high,) = _between(
            [float(self.num_correct_P[prompt])], self.num_samples, confidence
        )
        return low, high

    def __repr__(self) -> str:
        return f"PassAtK({self})"

    def _repr_html_(self) -> str:
        rows = [(f"pass@{k}", str(each), each.kind) for k, each in self.figures.items()]
        table = html_table((self.name, "value ± standard error", "kind"), rows)
        return f"{table}<p>{escape(str(self).partition('; ')[2])}</p>"

    def __str__(self) -> str:
        shown = ", ".join(f"pass@{k} {each}" for k, each in self.figures.items())
        solved = f"{self.name}: {shown}; {self.solved} of {self.num_prompts} prompts solved"
        if self.solved == self.num_prompts:
            return solved
        if self.name == "target":
            return f"{solved} by the prior, the others 0 or 1"
        return f"{solved}, pass@1 of the others below {self.unsolved_bound:.2g} each (95%)"


@named_arguments
@with_progress("pass@k")
@explained("sampling", "set a lower num_samples, max_new_tokens or memory_gib")
def pass_at_k(
    target: Target,
    models: Any = None,
    k: Sequence[int] = (1, 2, 4, 8),
    num_samples: int = 64,
    seed: int = 0,
    *,
    max_prompts: int | None = MAX_PROMPTS,
    on_progress: Progress | None = None,
) -> dict[str, PassAtK]:
    """pass@k of the prior, of policies and of p*, for a target whose evidence is yes or no.

        pass@k = 1 - C(n - c, k) / C(n, k),   c correct of n draws

    Unbiased for k <= n (Chen et al. 2021, arXiv 2107.03374). p* draws correct answers alone, so its
    pass@k is 1 where the prior has any correct answer and not defined elsewhere: it counts the
    solved prompts, and is a lower bound.

    Args:
        target: its evidence is a `Verifier`, or constraints.
        models: a policy, or several by name; what `evaluate` takes. The prior comes along.
        k: numbers of draws, each at most `num_samples`.
        num_samples: draws per prompt of each model.
        seed: of the draws.
        max_prompts: of more prompts, so many are drawn (None: all).
        on_progress: counts passes over the completions of each model.

    Returns:
        A `PassAtK` per model: "prior", the policies' names, "target".

    Raises:
        ConfigError: for a k above num_samples, or evidence that is not yes or no.

    Example:
        >>> def correct(completions, **_):
        ...     return [text.startswith("a") for text in completions]
        >>> checked = po.Target(prior, po.Verifier(correct), ["x", "y"], 3)
        >>> sorted(po.pass_at_k(checked, k=[1, 4], num_samples=64, seed=0))
        ['prior', 'target']
    """
    several = sorted({int(each) for each in k})
    if not several or several[0] < 1 or several[-1] > num_samples:
        raise ConfigError(
            f"k={list(k)} must be from 1 to num_samples={num_samples}", where="pass_at_k"
        )
    if rewards_among(target.evidence):
        raise _of_degree()
    given = {} if models is None else models if isinstance(models, Mapping) else {"policy": models}
    some = sampled_prompts(target, max_prompts, seed)
    share = len(some.prompts) / len(target.prompts)
    named: dict[str, Any] = {"prior": target.prior}
    named |= {name: language_model(each, name, target.prior) for name, each in given.items()}
    found = {}
    for name, lm in named.items():
        stream = generator(seed, "pass_at_k", name)
        draws = draw(some, lm, num_samples, stream, on_progress=on_progress)
        found[name] = _of_draws(name, draws, several, num_samples, share)
    of_prior = found["prior"]
    solved_P = (of_prior.num_correct_P > 0).double()
    # Of a prompt without a correct draw it is 0, or 1 if the prior has a correct answer at all.
    per_prompt = [
        Estimate(each, 0.0 if each else math.nan, "lower_bound", num_samples)
        for each in solved_P.tolist()
    ]
    of_target = of_a_sample(combine(per_prompt, "lower_bound"), share)
    found["target"] = PassAtK(
        "target",
        dict.fromkeys(several, of_target),
        num_samples,
        (solved_P * num_samples).long(),
        of_prior.correct,
    )
    return found


@named_arguments
def newly_solved(of_prior: PassAtK, of_policy: PassAtK) -> float:
    """The share of a policy's distinct correct answers that no draw of the prior was.

    Near 0 for a policy that sharpened what the prior had, up to the number of draws.

    Args:
        of_prior: the prior's draws, as `pass_at_k` gives them.
        of_policy: the policy's.

    Returns:
        A share between 0 and 1; NaN where the policy has no correct answer.

    Raises:
        ValueError: for results over different numbers of prompts.

    Example:
        >>> def correct(completions, **_):
        ...     return [text.startswith("a") for text in completions]
        >>> checked = po.Target(prior, po.Verifier(correct), ["x", "y"], 3)
        >>> found = po.pass_at_k(checked, {"same": prior}, k=[1], num_samples=64, seed=0)
        >>> po.newly_solved(found["prior"], found["same"]) < 0.5
        True
    """
    total = sum(len(each) for each in of_policy.correct)
    pairs = zip(of_policy.correct, of_prior.correct, strict=True)
    new = sum(len(mine - theirs) for mine, theirs in pairs)
    return new / total if total else math.nan


def _of_draws(
    name: str, draws: Draws, several: Sequence[int], num_samples: int, share: float
) -> PassAtK:
    is_right_N = (draws.log_evidence_N == 0).cpu()
    if not bool((is_right_N | draws.log_evidence_N.isneginf().cpu()).all()):
        raise _of_degree()
    rows = rows_of_prompts(draws.completions)
    correct_P = torch.stack([is_right_N[each].sum() for each in rows])
    ids = draws.completion_ids
    right = [frozenset(tuple(ids[at]) for at in each[is_right_N[each]].tolist()) for each in rows]
    figures = {k: of_a_sample(_mean(correct_P, num_samples, k), share) for k in several}
    return PassAtK(name, figures, num_samples, correct_P, right)


def _mean(correct_P: Tensor, num: int, k: int) -> Estimate:
    """The mean over prompts. The error of one: 1.96 of it reach the farther end of what pass@1 may
    be with 95% (Clopper and Pearson), seen by p -> 1 - (1 - p)^k; so where all draws agree, p is
    still not known exactly, and few correct draws say little of many."""
    c_P = correct_P.double()
    n = torch.tensor(float(num), dtype=torch.float64)
    log_none_P = (
        torch.lgamma(n - c_P + 1)
        - torch.lgamma((n - c_P - k + 1).clamp(min=0.5))
        - torch.lgamma(n + 1)
        + torch.lgamma(n - k + 1)
    )
    value_P = 1 - log_none_P.exp().where(c_P <= num - k, torch.zeros_like(c_P))
    ends = [torch.tensor(each, dtype=torch.float64) for each in _between(c_P.tolist(), num)]
    away = [(1 - (1 - end_P) ** k - value_P).abs() for end_P in ends]
    error_P = torch.maximum(*away) / NORMAL
    pairs = zip(value_P.tolist(), error_P.tolist(), strict=True)
    return combine([Estimate(v, e, "unbiased", num) for v, e in pairs], "unbiased")


def _between(
    right: Sequence[float], num: int, confidence: float = _CONFIDENCE
) -> tuple[list[float], list[float]]:
    """Between which probabilities so many right of `num` lie, by Clopper and Pearson: it holds with
    at least that confidence."""
    tail = (1 - confidence) / 2
    low = [float(beta_law.ppf(tail, c, num - c + 1)) if c else 0.0 for c in right]
    high = [float(beta_law.ppf(1 - tail, c + 1, num - c)) if c < num else 1.0 for c in right]
    return low, high


def _of_degree() -> ConfigError:
    return ConfigError(
        "the evidence is a matter of degree, and pass@k is for correct or not",
        where="pass_at_k",
        hint="use posteriori.Verifier(fn), or constraints alone",
    )
