"""`fit_composition`: weights of readable features from preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from posteriori.core.occurrence import prompt_key
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import finite, in_short, positive
from posteriori.errors import ConfigError, DataError
from posteriori.evidence.judge.judge import Judge
from posteriori.reward_models.calibration import held_out_figures
from posteriori.reward_models.head_posterior import HeadPosterior
from posteriori.reward_models.labelled_pairs import (
    LabelledPair,
    PairSource,
    label_tensors,
    read_labelled_pairs,
    split_by_prompt,
)
from posteriori.reward_models.laplace import PairFeatures, integrated, laplace

from .composition import Composition, Feature, raw_features

_SAME = 1e-9


@named_arguments
def fit_composition(
    features: Mapping[str, Feature | Judge],
    pairs: PairSource,
    *,
    held_out_pairs: PairSource | None = None,
    held_out: float = 0.2,
    label_noise: float = 0.0,
    prior_precision: float | None = None,
    seed: int = 0,
) -> Composition:
    """Learn how much each readable feature counts, from preference pairs.

        P(chosen preferred | c) = sigmoid(w . (f(c, chosen) - f(c, rejected))),
        w | pairs ~ N(mean, covariance): Bayesian logistic regression on feature differences

    A preference is explained by what a judge, or a function, says of each text, and by K numbers: a
    person can read why one text is better, and a policy finds fewer holes than in a model of
    millions of weights (compositional preference models: Go et al. 2023, arXiv 2310.13011). The
    prior precision of the weights is integrated over (Laplace's approximation, MacKay 1992).

    Args:
        features: by name: a function, called as TRL calls reward functions with `prompts` and
            `completions` alone, returning a finite number each; or a `Judge`, whose P(yes) it is.
        pairs: rows of prompt, chosen, rejected, as `fit_reward` takes them, with their optional
            `label` and `margin`.
        held_out_pairs: pairs that judge the fit; default: those of a share of the prompts.
        held_out: that share.
        label_noise: share of labels that are known to be swapped, below 0.5.
        prior_precision: of the weights; left out, it is integrated over.
        seed: of the split.

    Returns:
        A `Composition`: the weights with their errors, held-out figures, and the reward function.

    Raises:
        DataError: for what is no pair, or a single prompt without held_out_pairs.
        ConfigError: for no features, one that is the same for all texts, or features of which one
            is a sum of the others.
        EvidenceError: where a feature fails or is not finite.

    Example:
        >>> def cheerful(completions, **_):
        ...     return [float("good" in text) for text in completions]
        >>> pairs = [
        ...     {"prompt": f"Dish {n} is", "chosen": " good", "rejected": " bad"} for n in range(20)
        ... ]
        >>> po.fit_composition({"cheerful": cheerful}, pairs).weights["cheerful"].value > 0
        True
    """
    fns = {name: _function(name, feature) for name, feature in features.items()}
    if not fns:
        raise ConfigError(
            "there is no feature", where="fit_composition", hint='write {"name": function}'
        )
    noise = finite(label_noise)
    if noise is None or not 0.0 <= noise < 0.5:
        raise ConfigError(
            f"label_noise={in_short(label_noise)} must lie in [0, 0.5)", where="fit_composition"
        )
    if prior_precision is not None and positive(prior_precision) is None:
        raise ConfigError(
            f"prior_precision={in_short(prior_precision)} must be a positive number",
            where="fit_composition",
        )
    train, judged = _split(pairs, held_out_pairs, held_out, seed)
    chosen_NK, rejected_NK = (_raw(fns, train, which) for which in ("chosen", "rejected"))
    both_NK = torch.cat([chosen_NK, rejected_NK])
    centre_K, scale_K = both_NK.mean(0), both_NK.std(0)
    _check(list(fns), scale_K, (chosen_NK - rejected_NK) / scale_K.clamp(min=_SAME))
    label_N, margin_N = _labels(train)
    seen = PairFeatures((chosen_NK - rejected_NK) / scale_K, margin_N, label_N, noise)
    found = integrated(seen) if prior_precision is None else laplace(seen, prior_precision)
    zero_K = torch.zeros_like(found.mean_D)
    posterior = HeadPosterior.gaussian(found.mean_D, found.covariance_DD, zero_K)
    delta_NK = (_raw(fns, judged, "chosen") - _raw(fns, judged, "rejected")) / scale_K
    figures = held_out_figures(
        posterior.mean(delta_NK),
        _labels(judged)[0],
        [prompt_key(pair.prompt) for pair in judged],
        noise,
    )
    findings: list[Finding] = list(figures.findings)
    return Composition(fns, centre_K, scale_K, posterior, figures, findings)


def _function(name: str, feature: Any) -> Feature:
    if isinstance(feature, Judge):
        return feature.as_feature
    if not callable(feature):
        raise ConfigError(
            f"the feature '{name}' is a {type(feature).__name__}, which cannot be called",
            where="fit_composition",
            hint="give a function of prompts and completions, or a Judge",
        )
    return feature


def _split(
    source: PairSource, judged: PairSource | None, share: float, seed: int
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    pairs = read_labelled_pairs(source)
    if judged is not None:
        return pairs, read_labelled_pairs(judged)
    part = finite(share)
    if part is None or not 0.0 < part < 1.0:
        raise ConfigError(
            f"held_out={in_short(share)} must lie between 0 and 1", where="fit_composition"
        )
    train, rest = split_by_prompt(pairs, part, seed)
    if len(train) < 2:
        raise DataError(
            f"{len(train)} pair is left to learn from",
            where="fit_composition",
            hint="give more pairs, or held_out_pairs from another file",
        )
    return train, rest


def _raw(fns: Mapping[str, Feature], pairs: Sequence[LabelledPair], which: str) -> torch.Tensor:
    return raw_features(
        fns, [pair.prompt for pair in pairs], [str(getattr(pair, which)) for pair in pairs]
    )


def _labels(pairs: Sequence[LabelledPair]) -> tuple[torch.Tensor, torch.Tensor]:
    return label_tensors(pairs)


def _check(names: list[str], scale_K: torch.Tensor, diff_NK: torch.Tensor) -> None:
    """Raises `ConfigError` for a feature that is constant, or that follows from others."""
    for name, scale, size in zip(
        names, scale_K.tolist(), diff_NK.abs().amax(0).tolist(), strict=True
    ):
        if not (math.isfinite(scale) and scale > _SAME and size > _SAME):
            raise ConfigError(
                f"the feature '{name}' is the same for both texts of every pair",
                where="fit_composition",
                hint="leave it out, or give pairs that differ in it",
            )
    singular_K = torch.linalg.svdvals(diff_NK)
    if len(diff_NK) >= len(names) and float(singular_K[-1]) < 1e-8 * float(singular_K[0]):
        raise ConfigError(
            f"one of the features {', '.join(names)} is a sum of the others in all pairs",
            where="fit_composition",
            hint="leave one of them out",
        )
