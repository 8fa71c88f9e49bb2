"""The probability of one class under a scikit-learn pipeline."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.errors import ConfigError, ModelError, unknown_name

from .plain_text import plain_texts

_WHERE = "likelihoods.sklearn"


class SklearnProbability:
    """predict_proba of all texts in one call, and of these one column."""

    def __init__(self, pipeline: Any, label: Any, read: str) -> None:
        self.pipeline = _load(Path(pipeline)) if isinstance(pipeline, str | Path) else pipeline
        self.read = read
        name = type(self.pipeline).__name__
        if not hasattr(self.pipeline, "predict_proba"):
            raise ConfigError(
                f"{name} has no predict_proba",
                where=_WHERE,
                hint="wrap its classifier in sklearn.calibration.CalibratedClassifierCV",
            )
        if not hasattr(self.pipeline, "classes_"):
            raise ConfigError(f"{name} has not been fitted", where=_WHERE, hint="call its fit")
        known = {str(each): at for at, each in enumerate(self.pipeline.classes_)}
        if str(label) not in known:
            raise unknown_name("label", str(label), known)
        self.column = known[str(label)]
        self.__name__ = f"{name}, {label}"

    def __call__(self, prompts: list[Prompt], completions: list[Any], **_: Any) -> list[float]:
        texts = plain_texts(prompts, completions, self.read)
        return self.pipeline.predict_proba(texts)[:, self.column].tolist()


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'", where=_WHERE, hint="joblib.dump wrote none")
    try:
        joblib: Any = import_module("joblib")
    except ImportError as error:
        raise ModelError(
            "a saved pipeline needs the packages 'joblib' and 'scikit-learn'",
            where=_WHERE,
            hint="pip install scikit-learn",
        ) from error
    try:
        return joblib.load(path)
    except Exception as error:  # unpickling can raise whatever is in the file
        raise ModelError(
            f"'{path}' cannot be loaded: {type(error).__name__}: {error}",
            where=_WHERE,
            hint="give a file that joblib.dump wrote with the versions that are installed here",
        ) from error
