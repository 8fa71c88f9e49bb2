"""Likelihoods as evidence: Bayes' rule in its plainest form."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site

from .function import Called, FunctionKind, FunctionWay

Read = Literal["both", "completion"]


class LikelihoodFunction(FunctionWay):
    """A function that returns a probability."""

    def build(self, site: Site) -> Any:
        from posteriori.evidence.likelihood import Likelihood

        return Likelihood(site.function("function", self.function), calls=self.calls)


class ClassifierLikelihood(Called):
    """See `posteriori.likelihoods.classifier`."""

    own: ClassVar[str] = "classifier"
    says: ClassVar[str] = "a transformers classifier's probability of a label"

    classifier: str
    label: str | int
    read: Read = "both"

    def check(self, site: Site) -> None:
        site.check_model("classifier", self.classifier)

    def build(self, site: Site) -> Any:
        from posteriori.evidence.text import likelihoods

        place = site.check_model("classifier", self.classifier)
        return likelihoods.classifier(place, self.label, read=self.read, calls=self.calls)


class SklearnLikelihood(Called):
    """See `posteriori.likelihoods.sklearn`."""

    own: ClassVar[str] = "sklearn"
    says: ClassVar[str] = "a scikit-learn pipeline's probability of a label"

    sklearn: str
    label: str | int
    read: Read = "both"

    def check(self, site: Site) -> None:
        place = site.path(self.sklearn)
        if not place.is_file():
            raise site.error(
                f"there is no file '{place}'",
                "give one that joblib.dump wrote; paths are relative to the config",
                "sklearn",
            )

    def build(self, site: Site) -> Any:
        from posteriori.evidence.text import likelihoods

        return likelihoods.sklearn(
            site.path(self.sklearn), self.label, read=self.read, calls=self.calls
        )


class WordLikelihood(Called):
    """See `posteriori.likelihoods.words`."""

    own: ClassVar[str] = "word_probability"
    says: ClassVar[str] = "a reader notices none, or some, of the words in a list"

    word_probability: dict[str, float]
    observed: Literal["none", "some"] = "none"
    read: Read = "completion"

    def check(self, site: Site) -> None:
        del site
        from posteriori.evidence.text.word_probability import WordProbability

        WordProbability(self.word_probability, self.observed, self.read, case_sensitive=False)

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import likelihoods

        return likelihoods.words(
            self.word_probability, observed=self.observed, read=self.read, calls=self.calls
        )


class SimilarityLikelihood(Called):
    """See `posteriori.likelihoods.similarity`."""

    own: ClassVar[str] = "similarity"
    says: ClassVar[str] = "a reader finds that it means the same as a text"

    similarity: str | list[str]
    model: str
    threshold: float = 0.5
    temperature: float = Field(default=0.1, gt=0)
    read: Read = "completion"

    def check(self, site: Site) -> None:
        site.check_model("model", self.model)

    def build(self, site: Site) -> Any:
        from posteriori.evidence.text import likelihoods

        return likelihoods.similarity(
            self.similarity,
            site.check_model("model", self.model),
            threshold=self.threshold,
            temperature=self.temperature,
            read=self.read,
            calls=self.calls,
        )


class LikelihoodKind(FunctionKind):
    """`posteriori.Likelihood` and `posteriori.likelihoods`."""

    kind = "likelihood"
    ways = (
        ClassifierLikelihood,
        SklearnLikelihood,
        WordLikelihood,
        SimilarityLikelihood,
        LikelihoodFunction,
    )
