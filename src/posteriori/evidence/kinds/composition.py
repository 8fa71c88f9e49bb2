"""Human preferences as evidence, by readable features that are weighed by pairs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind
from .judge import Answer
from .reward import check_given_beta

_EXAMPLE = '[evidence.features.name] with function = "my_features.py:phi", or model and question'


class ComposedFeature(Strict):
    """A readable feature: the user's function, or a judge: a language model and a question.

    Args:
        function: the user's function, as "my_features.py:phi".
        model: in its place a judge, a path or a hub id.
        question: what the judge is asked about the completion.
        yes: the answer that counts, in one spelling or several.
        no: the other answer.
        template: the judge's prompt, as of `posteriori.Judge`.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    function: str | None = None
    model: str | None = None
    question: str | None = None
    yes: Answer = "Yes"
    no: Answer = "No"
    template: str | None = None


class CompositionSettings(Strict):
    """Settings of evidence of the kind "composition": readable features, weighed by pairs.

        log P(chosen over rejected) = log sigmoid(sum_k w_k (phi_k(chosen) - phi_k(rejected)))

    See `posteriori.fit_composition` for how the weights are found, and `posteriori.Preferences` for
    what they say of a completion.

    Args:
        pairs: the file of the preference pairs.
        features: phi_k by name.
        held_out_pairs: a file of pairs that judge the weights; left out, a share of `pairs` does.
        held_out: that share, by whole prompts.
        label_noise: share of labels that are known to be swapped, below 0.5.
        seed: of the split.
        beta: units of the reward per nat; left out only beside a budget of `fit`.
        uncertainty: "mean", "marginal" or "lower", as of `posteriori.Preferences`.
        kappa: standard deviations that "lower" takes off.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "composition"
        pairs = "pairs.jsonl"
        beta = 0.5
        [evidence.features.polite]
        function = "my_features.py:polite"
    """

    pairs: str
    features: dict[str, ComposedFeature]
    held_out_pairs: str | None = None
    held_out: float = Field(default=0.2, gt=0, lt=1)
    label_noise: float = Field(default=0.0, ge=0, lt=0.5)
    seed: int = Field(default=0, ge=0)
    beta: float | None = Field(default=None, gt=0)
    uncertainty: Literal["mean", "marginal", "lower"] = "mean"
    kappa: float = Field(default=1.0, ge=0)


class CompositionKind(DistributionKind):
    """`posteriori.fit_composition`, as evidence by `posteriori.Preferences`."""

    kind = "composition"
    Settings = CompositionSettings
    needs: ClassVar = {"pairs": 'pairs = "pairs.jsonl"', "features": _EXAMPLE}

    @classmethod
    def check(cls, settings: CompositionSettings, site: Site) -> None:
        check_given_beta(settings.beta, "a reward", site)
        if not settings.features:
            raise site.error("'features' is empty", f"write {_EXAMPLE}")
        if "kappa" in settings.model_fields_set and settings.uncertainty != "lower":
            raise site.error("'kappa' has no effect", 'write uncertainty = "lower" beside it')
        for key, given in (("pairs", settings.pairs), ("held_out_pairs", settings.held_out_pairs)):
            if given is not None and not site.path(given).exists():
                raise site.error(
                    f"there is no file '{site.path(given)}'",
                    "paths are relative to the config",
                    key,
                )
        for name, feature in settings.features.items():
            _check_feature(f"features.{name}", feature, site)

    @classmethod
    def from_settings(cls, settings: CompositionSettings, site: Site) -> Any:
        from posteriori.evidence.composed.fit_composition import fit_composition
        from posteriori.evidence.preferences import Preferences

        held_out = settings.held_out_pairs
        fitted = fit_composition(
            {
                name: _built(f"features.{name}", feature, site)
                for name, feature in settings.features.items()
            },
            site.path(settings.pairs),
            held_out_pairs=None if held_out is None else site.path(held_out),
            held_out=settings.held_out,
            label_noise=settings.label_noise,
            seed=settings.seed,
        )
        return Preferences(fitted, settings.beta, settings.uncertainty, kappa=settings.kappa)


def _check_feature(key: str, feature: ComposedFeature, site: Site) -> None:
    own, judged = feature.function is not None, feature.model is not None
    if own == judged:
        raise site.error(
            "a feature is a function, or a judge's model with its question",
            f"write {_EXAMPLE}",
            key,
        )
    if feature.function is not None:
        stray = sorted(feature.model_fields_set - {"function"})
        if stray:
            raise site.error(
                f"'{stray[0]}' goes with a judge's model, and a function is given",
                "remove one of them",
                key,
            )
        site.check_function(f"{key}.function", feature.function)
        return
    if feature.question is None:
        raise site.error("'question' is missing", 'write question = "Is it polite?"', key)
    site.check_model(f"{key}.model", str(feature.model))


def _built(key: str, feature: ComposedFeature, site: Site) -> Any:
    if feature.function is not None:
        return site.function(f"{key}.function", feature.function)
    from posteriori.evidence.judge.judge import Judge

    place = site.check_model(f"{key}.model", str(feature.model))
    return Judge(place, str(feature.question), feature.yes, feature.no, feature.template)
