"""`simulate_preferences`: pairs of draws, labelled by a utility that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posteriori.core.draw import draw
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.run.progress import Progress, portions
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count, in_short, positive
from posteriori.errors import ConfigError, EvidenceError, SamplingError
from posteriori.runs.target_fingerprint import digest
from posteriori.runs.target_journal import keeping

_ROUNDS = 50
"""Times that draws are taken before a prompt whose draws are all alike is given up."""


@named_arguments
@explained("sampling", "set a lower num_samples, max_new_tokens or memory_gib")
def simulate_preferences(
    target: Target,
    num_pairs: int,
    *,
    scale: float = 1.0,
    noise: float = 0.0,
    proposal: LanguageModel | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
    journal: Path | str | None = None,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Preference pairs of which everything is known: the target's reward is their utility.

        y1, y2 ~ prior(. | c),  P(y1 preferred) = sigmoid((u(c, y1) - u(c, y2)) / scale)

    Then a label is swapped with probability `noise`. Pairs are spread evenly over the target's
    prompts, given that their texts differ and neither is blank (the synthetic labellers of Gao,
    Schulman and Hilton 2022, arXiv 2210.10760, section 2).

    Args:
        target: its reward is u.
        num_pairs: how many.
        scale: in units of u; a small one makes sure labels.
        noise: share of labels that are swapped, below 0.5.
        proposal: what draws the completions; default: the prior.
        seed: of everything that is drawn.
        on_progress: counts pairs.
        journal: a folder that keeps what is finished until all is; to be removed when the pairs are
            kept elsewhere.
        resume: go on from the journal of a run that was stopped, and end with the same pairs.

    Returns:
        Rows of prompt, chosen, rejected, as `fit_reward` takes them, with `chosen_utility` and
        `rejected_utility`.

    Raises:
        ConfigError: for a setting out of range.
        EvidenceError: where a utility is not finite.
        SamplingError: where a prompt has no two different completions to offer.
        CheckpointError: for a journal of other work.

    Example:
        >>> pairs = po.simulate_preferences(target, 10, seed=0)
        >>> len(pairs), sorted(pairs[0])[:2]
        (10, ['chosen', 'chosen_utility'])
    """
    count(num_pairs, "num_pairs", where="simulate_preferences")
    if positive(scale) is None:
        raise ConfigError(
            f"scale={in_short(scale)} must be a positive number",
            where="simulate_preferences",
            hint="it is the difference of utility that makes the odds e to 1",
        )
    if not 0.0 <= noise < 0.5:
        raise ConfigError(
            f"noise={noise} must be at least 0 and below 0.5", where="simulate_preferences"
        )
    drawing = proposal or target.prior
    prompts = len(target.prompts)
    shares = [num_pairs // prompts + (at < num_pairs % prompts) for at in range(prompts)]

    def about() -> dict[str, Any]:
        return {
            "the work": "simulate_preferences",
            "num_pairs": num_pairs,
            "scale": scale,
            "noise": noise,
            "seed": seed,
            "proposal": digest(None if drawing is target.prior else drawing),
        }

    rows: list[dict[str, Any]] = []
    with keeping(target, journal, about, resume=resume):
        for at, portion in enumerate(portions(on_progress, shares)):
            rows += _pairs(target, drawing, at, shares[at], (scale, noise), seed, portion)
    order = torch.randperm(len(rows), generator=generator(seed, "simulated order"))
    return [rows[at] for at in order.tolist()]


def best_accuracy(rows: list[dict[str, Any]], *, scale: float = 1.0, noise: float = 0.0) -> float:
    """E[accuracy] on these pairs of a judge that knows the utility: the mean of the likelier
    label's probability, eps + (1 - 2 eps) sigmoid(|u1 - u2| / scale)."""
    gaps_N = torch.tensor(
        [row["chosen_utility"] - row["rejected_utility"] for row in rows], dtype=torch.float64
    )
    return float((noise + (1 - 2 * noise) * (gaps_N.abs() / scale).sigmoid()).mean())


def _pairs(
    target: Target,
    proposal: LanguageModel,
    at: int,
    wanted: int,
    label: tuple[float, float],
    seed: int,
    on_progress: Progress | None,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    prompt = target.prompts[at]
    for turn in range(_ROUNDS):
        missing = wanted - len(rows)
        if not missing:
            return rows
        stream = generator(seed, "simulated pairs", at, turn)
        # Those that are redrawn, few as a rule, were counted when they were drawn first.
        portion = None if turn else on_progress
        draws = draw(target, proposal, 2 * missing, stream, [prompt], on_progress=portion)
        first_N = _first_is_chosen(draws, label, stream)
        utilities, texts = draws.reward_N.tolist(), draws.texts
        for pair, first in enumerate(first_N.tolist()):
            one, other = 2 * pair + (not first), 2 * pair + first
            if texts[one] == texts[other] or not (texts[one].strip() and texts[other].strip()):
                continue
            rows.append(
                {
                    "prompt": prompt,
                    "chosen": _said(prompt, texts[one]),
                    "rejected": _said(prompt, texts[other]),
                    "chosen_utility": utilities[one],
                    "rejected_utility": utilities[other],
                }
            )
    if len(rows) < wanted:
        raise SamplingError(
            f"{_ROUNDS} rounds of draws after {str(prompt)[:60]!r} gave {len(rows)} of {wanted} "
            "pairs of different texts",
            where="simulate_preferences",
            hint="raise max_new_tokens, or draw from a proposal with more variety",
        )
    return rows


def _first_is_chosen(draws: Draws, label: tuple[float, float], stream: torch.Generator) -> Tensor:
    scale, noise = label
    utility_N = draws.reward_N.cpu()
    if not bool(utility_N.isfinite().all()):
        row = int((~utility_N.isfinite()).nonzero()[0])
        raise EvidenceError(
            f"the utility of {draws.texts[row][:60]!r} is {float(utility_N[row])}",
            where="simulate_preferences",
            hint="give a reward that is finite everywhere",
        )
    delta_n = (utility_N[::2] - utility_N[1::2]) / scale
    uniform_2n = torch.rand(2, len(delta_n), dtype=torch.float64, generator=stream)
    return (uniform_2n[0] < delta_n.sigmoid()) ^ (uniform_2n[1] < noise)


def _said(prompt: Any, text: str) -> Any:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
