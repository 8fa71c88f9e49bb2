"""What the demo runs: its evidence, prompts, scale, and a folder without files of others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posteriori.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Scale:
    """How much is run: the first `num_prompts` prompts; `betas` from the gentler evidence to the
    stronger; `steps` of `num_samples` draws for inference, which is run by default settings."""

    betas: tuple[float, float] = (0.1, 0.03)
    num_prompts: int = 3
    steps: int = 12
    num_samples: int = 24
    alone_steps: int = 150
    max_new_tokens: int = 12
    judged_by: int = 400


REWARD_ALONE: dict[str, Any] = {
    "num_samples": 4,
    "learning_rate": 1e-3,
    "decay": "linear",
    "warmup_steps": 3,
    "max_grad_norm": 0.01,
}
"""How reward alone is maximised: few draws per step and many steps. Where many completions share
the highest reward, it is the noise of small steps that brings the policy down to one of them. The
clipped gradient is always of one size, and so are the steps when rewards are nearly equal."""

FULL = Scale()
QUICK = Scale(steps=2, alone_steps=2, num_samples=4, judged_by=30)


@dataclass(frozen=True)
class Trial:
    """One way to go from the prior to a policy, and the beta of the target that judges it."""

    name: str
    objective: str
    beta: float

    def settings(self, scale: Scale) -> dict[str, Any]:
        """Of `posteriori.fit`."""
        if self.objective == "rl":
            return {"steps": scale.alone_steps, **REWARD_ALONE}
        return {"steps": scale.steps, "num_samples": scale.num_samples}

    @property
    def folder(self) -> str:
        return self.objective if self.objective == "rl" else f"{self.objective}-{self.beta:g}"


def trials(scale: Scale) -> list[Trial]:
    """Reward alone, judged where reward counts most; and inference at each beta."""
    inference = [Trial(f"soft_q, beta {beta:g}", "soft_q", beta) for beta in scale.betas]
    return [Trial("rl", "rl", scale.betas[-1]), *inference]


def prompts() -> list[str]:
    """The demo's prompts, from the package."""
    text = Path(__file__).with_name("demo_prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def offensiveness() -> Callable[..., list[float]]:
    """r(c, y) = -P(offensive), a classifier's probability for the completion's own text.

    Raises `ConfigError` where the classifier is not installed.
    """
    try:
        with warnings.catch_warnings():
            # The classifier was pickled by another scikit-learn; a linear model does not mind.
            from sklearn.exceptions import InconsistentVersionWarning

            warnings.simplefilter("ignore", InconsistentVersionWarning)
            from profanity_check import predict_prob
    except ImportError as error:
        raise ConfigError(
            f"the demo's classifier is not installed ({error})",
            where="demo",
            hint="pip install 'posteriori[demo]'",
        ) from error

    def minus_offensiveness(completions: list[str], **_: object) -> list[float]:
        return [-float(probability) for probability in predict_prob(completions)]

    return minus_offensiveness


def make_room(folder: Path) -> None:
    """Move what an earlier demo left at `folder` into `folder/earlier-N`. Nothing is deleted.

    Whatever else is there stays. Raises `CheckpointError` where `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"'{folder}' is a file", hint="choose another --output-dir")
    own = [
        "report.html",
        "figure.svg",
        "evaluation.json",
        "versions.json",
        "samples.jsonl",
        "frontier.json",
        *(trial.folder for trial in trials(FULL)),
    ]
    there = [folder / name for name in own if (folder / name).exists()]
    if not there:
        folder.mkdir(parents=True, exist_ok=True)
        return
    number = 1
    while (folder / f"earlier-{number}").exists():
        number += 1
    aside = folder / f"earlier-{number}"
    aside.mkdir()
    for path in there:
        os.replace(path, aside / path.name)
