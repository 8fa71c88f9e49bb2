"""Ready-made evidence of a config: which keys go together, and what they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from posteriori.core.settings.parse import parse
from posteriori.errors import ConfigError

from .evidence_settings import ReadyMadeSettings
from .find_model import find_model
from .functions import check_function, load_function
from .run_config import EvidenceSettings


class Way(NamedTuple):
    """What a way of making evidence says of the text, and the keys that it needs beside its own,
    and those that it takes."""

    says: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


_ASKING = ("yes", "no", "template")
WAYS: dict[str, dict[str, Way]] = {
    "reward": {
        "functions": Way(
            "several reward functions, added up by weights",
            ("beta",),
            ("weights", "max_reward", "calls"),
        )
    },
    "constraint": {
        "regex": Way("the text, or a part of it, matches a pattern", (), ("match", "calls")),
        "words": Way("it has some words, all of some, or none of some", (), ("calls",)),
        "length": Way("it is so many tokens or words long", (), ("calls",)),
        "json_schema": Way("it is JSON that a schema allows", (), ("calls",)),
    },
    "likelihood": {
        "classifier": Way(
            "a transformers classifier's probability of a label", ("label",), ("read", "calls")
        ),
        "sklearn": Way(
            "a scikit-learn pipeline's probability of a label", ("label",), ("read", "calls")
        ),
        "word_probability": Way(
            "a reader notices none, or some, of the words in a list",
            (),
            ("observed", "read", "calls"),
        ),
        "similarity": Way(
            "a reader finds that it means the same as a text",
            ("model",),
            ("threshold", "temperature", "read", "calls"),
        ),
    },
    "judge": {
        "url": Way(
            "a model behind an OpenAI-compatible server answers yes to a question",
            ("model", "question"),
            (*_ASKING, "server"),
        ),
        "model": Way("a language model answers yes to a question", ("question",), _ASKING),
    },
}
"""By kind: each way's own key. Of a judge with a url, `model` is the server's name for it."""


def is_ready_made(settings: EvidenceSettings) -> bool:
    """Whether it is for this file to check and build, rather than a plain function or model."""
    return settings.kind == "judge" or any(
        name in ReadyMadeSettings.model_fields for name in _given(settings)
    )


def calls_of(settings: EvidenceSettings) -> dict[str, Any]:
    """The settings of calls that the config has, by name."""
    return {} if settings.calls is None else settings.calls.model_dump(exclude_unset=True)


def check_calls(settings: EvidenceSettings, where: str) -> None:
    """Raise `ConfigError` for settings of calls that would do nothing."""
    if settings.calls is None:
        return
    if settings.kind not in _CALLED:
        raise ConfigError(
            f"a {settings.kind} has no 'calls'",
            where=where,
            hint=f"remove it; it is for a function: {', '.join(_CALLED)}",
        )
    from posteriori.evidence.calls.caller import call_settings

    call_settings(calls_of(settings), f"{where}.calls")


_CALLED = ("reward", "likelihood", "constraint")


def check_ready_made(settings: EvidenceSettings, folder: Path, where: str) -> None:
    """Raise a `PosterioriError` for keys that do not go together, or name what is not there.

    Nothing is loaded and no server is asked; what is quick to make is made.
    """
    kind, given = settings.kind, _given(settings)
    ways = WAYS.get(kind, {})
    chosen = [name for name in ways if name in given]
    if kind == "judge" and "url" in chosen:
        chosen = ["url"]
    if not chosen:
        example = " or ".join(f"{name} = ..." for name in ways)
        stray = next((name for name in given if name in ReadyMadeSettings.model_fields), kind)
        raise ConfigError(
            f"a {kind} cannot be made of '{stray}'" if stray != kind else f"a {kind} of nothing",
            where=where,
            hint=f"write {example}" if ways else "remove it",
        )
    own = chosen[0]
    fitting = {own, *ways[own].needs, *ways[own].takes}
    for name in given:
        if name not in fitting:
            raise ConfigError(
                f"'{own}' and '{name}' do not go together in a {kind}",
                where=where,
                hint=f"beside '{own}' it takes: {', '.join(sorted(fitting - {own}))}",
            )
    for name in ways[own].needs:
        if name not in given:
            raise ConfigError(
                f"'{name}' is missing; write {name} = ...", where=where, hint=f"'{own}' needs it"
            )
    _check_places(settings, own, folder, where)
    if kind == "constraint" or own in ("word_probability", "url"):
        build_ready_made(settings, folder, where)


def build_ready_made(settings: EvidenceSettings, folder: Path, where: str) -> Any:
    """The evidence. Raises a `PosterioriError` that names its place in the config."""
    try:
        return _build(settings, folder, where)
    except ConfigError as error:
        if error.where and error.where.startswith(where):
            raise
        raise ConfigError(error.what, where=where, hint=error.hint) from error


def _build(settings: EvidenceSettings, folder: Path, where: str) -> Any:
    given = _given(settings)
    calls = calls_of(settings)
    some = {name: given[name] for name in given if name in _ARGUMENTS}
    if settings.kind == "judge":
        return _build_judge(settings, some, folder, where)
    if settings.functions is not None:
        from posteriori.evidence.reward import Reward

        fns = [load_function(each, folder, f"{where}.functions") for each in settings.functions]
        return Reward(fns, settings.beta, **some, **calls)
    from posteriori.evidence.text import constraints, likelihoods

    if settings.regex is not None:
        return constraints.regex(settings.regex, **some, **calls)
    if settings.words is not None:
        return constraints.words(**settings.words.model_dump(), **calls)
    if settings.length is not None:
        return constraints.length(**settings.length.model_dump(), **calls)
    if settings.json_schema is not None:
        schema = settings.json_schema
        resolved = folder / schema if isinstance(schema, str) else schema
        return constraints.json_schema(resolved, **calls)
    if settings.classifier is not None:
        place = find_model(settings.classifier, folder, f"{where}.classifier")
        return likelihoods.classifier(place, **some, **calls)
    if settings.sklearn is not None:
        return likelihoods.sklearn(folder / settings.sklearn, **some, **calls)
    if settings.word_probability is not None:
        return likelihoods.words(settings.word_probability, **some, **calls)
    assert settings.similarity is not None
    assert settings.model is not None
    place = find_model(settings.model, folder, f"{where}.model")
    return likelihoods.similarity(settings.similarity, place, **some, **calls)


_ARGUMENTS = (
    *("match", "label", "observed", "threshold", "temperature", "read"),
    *("yes", "no", "template", "weights", "max_reward"),
)
"""Keys that are handed on by their own name."""


def _build_judge(settings: EvidenceSettings, some: dict[str, Any], folder: Path, where: str) -> Any:
    from posteriori.evidence.judge.judge import Judge

    assert settings.model is not None
    assert settings.question is not None
    if settings.url is not None:
        from posteriori.evidence.judge.endpoint import EndpointSettings

        resolved = parse(EndpointSettings, settings.server or {}, where=f"{where}.server")
        server = resolved.model_dump(exclude_unset=True)
        return Judge.endpoint(settings.url, settings.model, settings.question, **some, **server)
    return Judge(find_model(settings.model, folder, f"{where}.model"), settings.question, **some)


def _check_places(settings: EvidenceSettings, own: str, folder: Path, where: str) -> None:
    for each in settings.functions or ():
        check_function(each, folder, f"{where}.functions")
    if settings.classifier is not None:
        find_model(settings.classifier, folder, f"{where}.classifier")
    if settings.model is not None and own != "url":
        find_model(settings.model, folder, f"{where}.model")
    if settings.sklearn is not None and not (folder / settings.sklearn).is_file():
        raise ConfigError(
            f"there is no file '{folder / settings.sklearn}'",
            where=f"{where}.sklearn",
            hint="give one that joblib.dump wrote; paths are relative to the config",
        )


def _given(settings: EvidenceSettings) -> dict[str, Any]:
    return {
        name: value
        for name, value in settings
        if value is not None and name != "kind" and name in settings.model_fields_set
    }
