"""Likelihoods as evidence: Bayes' rule in its plainest form."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site

from .function import Called, FunctionKind, FunctionWay

Read = Literal["both", "completion"]


class LikelihoodFunction(FunctionWay):
    """A likelihood by the user's function; see `posteriori.Likelihood`.

    Example:
        [[evidence]]
        kind = "likelihood"
        function = "my_classifier.py:harmless"
    """

    def build(self, site: Site) -> Any:
        from posteriori.evidence.likelihood import Likelihood

        return Likelihood(site.function("function", self.function), calls=self.calls)


class ClassifierLikelihood(Called):
    """A likelihood by a transformers classifier; see `posteriori.likelihoods.classifier`.

        log e(c, y) = log P(label | c, y)

    Args:
        classifier: a path or a hub id.
        label: the label whose probability counts, by its name or number.
        read: what the text is: the completion ("completion"), or the prompt and it ("both").

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "likelihood"
        classifier = "classifiers/sentiment"
        label = "POSITIVE"
    """

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
    """A likelihood by a scikit-learn pipeline; see `posteriori.likelihoods.sklearn`.

        log e(c, y) = log P(label | c, y)

    Args:
        sklearn: the file that `joblib.dump` wrote; a pickle, which runs what it holds.
        label: the label whose probability counts, by its name or number.
        read: what the text is: the completion ("completion"), or the prompt and it ("both").

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "likelihood"
        sklearn = "sentiment.joblib"
        label = 1
    """

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
    """A likelihood by words that a reader may notice; see `posteriori.likelihoods.words`.

        P(none noticed | y) = product of (1 - p_w) over occurrences of each word w in y

    Args:
        word_probability: p_w by word: the probability that a reader notices it.
        observed: what was observed: "none" noticed, or "some".
        read: what the text is: the completion ("completion"), or the prompt and it ("both").

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "likelihood"
        word_probability = { awful = 0.9, bad = 0.5 }
    """

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
    """A likelihood by likeness of meaning; see `posteriori.likelihoods.similarity`.

        P(same meaning | y) = sigmoid((cosine - threshold) / temperature)

    Args:
        similarity: the text, or several of which the nearest counts.
        model: an encoder whose mean hidden states are compared, a path or a hub id.
        threshold: the cosine at which the probability is 1/2.
        temperature: how fast it rises there.
        read: what the text is: the completion ("completion"), or the prompt and it ("both").

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "likelihood"
        similarity = "The food was good."
        model = "encoders/minilm"
    """

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
