"""Evidence about distributions in a config: moments, experts, powers of the prior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from posteriori.errors import ConfigError

from .find_model import find_model
from .functions import check_function, load_function
from .run_config import DistributionSettings, EvidenceSettings

KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "moments": ("features", ("per_prompt", "num_samples", "seed", "method")),
    "expert": ("model", ("weight", "prompt_prefix", "over_text")),
    "power": ("alpha", ()),
}
"""By kind: the key that it needs, and those that it takes."""

_EXAMPLES = {
    "features": '[evidence.features.name] with function = "my_features.py:phi" and mean = 0.5',
    "model": 'model = "the expert\'s directory"',
    "alpha": "alpha = 4.0",
}


def check_distribution(settings: EvidenceSettings, folder: Path, where: str) -> None:
    """Raise a `PosterioriError` for keys that a kind does not have, and for what is not there."""
    needed, others = KEYS[settings.kind]
    given = _given(settings)
    if needed not in given:
        raise ConfigError(f"'{needed}' is missing", where=where, hint=f"write {_EXAMPLES[needed]}")
    for name in given:
        if name not in (needed, *others):
            takes = ", ".join((needed, *others))
            raise ConfigError(
                f"'{name}' means nothing to {settings.kind}", where=where, hint=f"it has: {takes}"
            )
    if settings.features == {}:
        raise ConfigError("'features' is empty", where=where, hint=f"write {_EXAMPLES[needed]}")
    for name, feature in (settings.features or {}).items():
        check_function(feature.function, folder, f"{where}.features.{name}.function")
    if settings.model is not None:
        find_model(settings.model, folder, f"{where}.model")
    if settings.weight == 0:
        raise ConfigError(
            "'weight' is 0, so the expert says nothing", where=where, hint="remove the expert"
        )


def check_elsewhere(settings: EvidenceSettings, where: str) -> None:
    """Raise `ConfigError` where another kind of evidence has a key of these."""
    for name in _given(settings):
        if name in DistributionSettings.model_fields:
            of = next(kind for kind, (own, others) in KEYS.items() if name in (own, *others))
            raise ConfigError(
                f"a {settings.kind} has no '{name}'", where=where, hint=f'it is for kind = "{of}"'
            )


def build_distribution(
    settings: EvidenceSettings, folder: Path, where: str, load: Callable[[str], Any]
) -> Any:
    """The evidence; `load` loads a language model the way the prior is."""
    from posteriori.evidence.expert import Expert
    from posteriori.evidence.power import Power
    from posteriori.moments.moments import Moments

    needed, _ = KEYS[settings.kind]
    some = {name: value for name, value in _given(settings).items() if name != needed}
    if settings.kind == "power":
        assert settings.alpha is not None
        return Power(settings.alpha)
    if settings.kind == "expert":
        assert settings.model is not None
        return Expert(load(find_model(settings.model, folder, f"{where}.model")), **some)
    moments = {}
    for name, feature in (settings.features or {}).items():
        fn = load_function(feature.function, folder, f"{where}.features.{name}.function")
        moments[name] = (fn, feature.mean)
    return Moments(moments, **some)


def _given(settings: EvidenceSettings) -> dict[str, Any]:
    return {name: value for name, value in settings if value is not None and name != "kind"}
