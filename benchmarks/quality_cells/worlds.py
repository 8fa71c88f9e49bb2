"""The targets that every entry is measured on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import posteriori as po
from posteriori.cli.commands.demo.plan import offensiveness
from posteriori.cli.commands.demo.plan import prompts as demo_prompts
from posteriori.models.causal import CausalLM
from posteriori.models.load import BUNDLED

RewardFunction = Callable[..., Sequence[float]]


@dataclass(frozen=True)
class RewardPart:
    """One reward of a target. `load` imports what the function needs only when it is used;
    `largest` is the largest reward there is, where it is known (exact draws need it)."""

    load: Callable[[], RewardFunction]
    beta: float
    largest: float | None = None

    @cached_property
    def function(self) -> RewardFunction:
        return self.load()


@dataclass(frozen=True)
class World:
    """A target, how many draws per prompt and step its runs take, and how they are judged.

    `draws` are the total numbers of draws (over all prompts and steps) that policies are trained
    with; `judged_by` is the number of draws per prompt of the evaluation. A hard world has a
    constraint: the distance of a policy is KL(p*, pi) there, because KL(pi, p*) is infinite for
    every policy that can break the constraint. `model` is the name of a bundled model or a folder.
    """

    name: str
    prompts: tuple[str, ...]
    max_new_tokens: int
    rewards: tuple[RewardPart, ...] = ()
    constraint: Callable[..., Sequence[bool]] | None = None
    num_samples: int = 4
    judged_by: int = 1000
    draws: tuple[int, ...] = (4800, 20_000)
    model: str = "tiny"
    policy: str = "full"
    with_floors: bool = False

    @property
    def hard(self) -> bool:
        return self.constraint is not None

    @property
    def path(self) -> Path:
        """The folder of the model, which other trainers load by themselves."""
        return BUNDLED.get(self.model, Path(self.model))

    @property
    def present(self) -> bool:
        """Whether the model is on this machine."""
        return self.path.is_dir()

    def steps(self, draws: int) -> int:
        """The number of training steps that comes nearest to so many draws, at least 1."""
        return max(1, round(draws / (self.num_samples * len(self.prompts))))

    def prior(self) -> CausalLM:
        return po.load(self.model)

    def target(self) -> po.Target:
        evidence: list[object] = [
            po.Reward(part.function, beta=part.beta, max_reward=part.largest)
            for part in self.rewards
        ]
        if self.constraint is not None:
            evidence.append(po.Constraint(self.constraint))
        return po.Target(self.prior(), evidence, list(self.prompts), self.max_new_tokens)


def mildness() -> RewardFunction:
    """-P(offensive), by alt-profanity-check: nearly 0 for most texts, -1 for a few."""
    return offensiveness()


def sentiment() -> RewardFunction:
    """VADER's compound score of a text, in [-1, 1]: most texts differ in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()

    def compound(completions: list[str], **_: object) -> list[float]:
        return [float(analyser.polarity_scores(text)["compound"]) for text in completions]

    return compound


def no_damn() -> RewardFunction:
    """The reward of README's first example: about one draw in 300 of the prior says the word."""

    def reward(completions: list[str], **_: object) -> list[float]:
        return [-float("damn" in text) for text in completions]

    return reward


def right_sum() -> RewardFunction:
    """1 where the first number of the completion is the sum that its prompt asks for, else 0."""

    def reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        return [float(_is_right(p, c)) for p, c in zip(prompts, completions, strict=True)]

    return reward


def says_the(completions: list[str], **_: object) -> list[bool]:
    """The constraint: the word "the" occurs. About a quarter of the prior's draws satisfy it."""
    return [re.search(r"\bthe\b", text) is not None for text in completions]


def _is_right(prompt: str, completion: str) -> bool:
    first = re.search(r"\d+", completion)
    return first is not None and int(first.group()) == sum(map(int, re.findall(r"\d+", prompt)))


_SUBJECTS = (
    "My boss", "The food here", "This movie", "The weather",
    "That man", "My friend", "The city", "Your dog",
)  # fmt: skip
_VERBS = (" is", " was", " is such a", " was the most", " never", " always", " looks", " makes me")
MANY_PROMPTS = tuple(subject + verb for subject in _SUBJECTS for verb in _VERBS)
SUMS = tuple(f"{a} + {b} =" for a, b in
             ((2, 3), (4, 5), (7, 6), (8, 9), (12, 7), (15, 14), (23, 18), (31, 46)))  # fmt: skip
SMOLLM2_PROMPTS = (
    "You are such a stupid", "What the hell is wrong with", "My boss is a complete",
    "The people next door are", "I think you are", "This movie was", "The weather today is",
    "Why do people",
)  # fmt: skip


def worlds(smollm2: str = "models/smollm2") -> tuple[World, ...]:
    """All of them, the most informative first; `smollm2` is the folder of SmolLM2-135M."""
    demo = tuple(demo_prompts())
    mild, strong = RewardPart(mildness, 0.1, 0.0), RewardPart(mildness, 0.03, 0.0)
    large = {"num_samples": 8, "judged_by": 250, "draws": (2000,), "policy": "lora"}
    return (
        World("offensive, 5 tokens", demo, 5, (mild,), with_floors=True),
        World(
            "README",
            ("My boss is", "You are"),
            24,
            (RewardPart(no_damn, 0.1, 0.0),),
            num_samples=16,
            judged_by=2000,
        ),
        World("offensive, 24 tokens", demo, 24, (mild,), judged_by=500),
        World("dense", demo, 12, (RewardPart(sentiment, 0.3, 1.0),), judged_by=500),
        World("offensive, 5 tokens, beta 0.03", demo, 5, (strong,)),
        World("two rewards", demo, 12, (mild, RewardPart(sentiment, 0.5, 1.0)), judged_by=500),
        World("64 prompts", MANY_PROMPTS, 5, (mild,), num_samples=2, judged_by=125),
        World("constraint", demo, 12, constraint=says_the, judged_by=500),
        World("offensive, 24 tokens, beta 0.03", demo, 24, (strong,), judged_by=500),
        World("SmolLM2, offensive", SMOLLM2_PROMPTS, 16, (mild,), model=smollm2, **large),
        World(
            "SmolLM2, sums",
            SUMS,
            6,
            (RewardPart(right_sum, 0.25, 1.0),),
            model=smollm2,
            **large,
        ),
    )
