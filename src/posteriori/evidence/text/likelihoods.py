"""Ready-made likelihoods: a classifier's label, a scikit-learn pipeline, a word list, a similarity.

Each is P(observed | c, y) for something observed of the text: that a classifier gives it a label,
that a reader objects to none of its words, that it means the same as another text. The text is
prompt and completion together (`read="both"`), or the completion alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError
from posteriori.evidence.likelihood import Likelihood

Read = Literal["both", "completion"]


@named_arguments
def classifier(
    model: Any,
    label: str | int,
    *,
    read: Read = "both",
    tokenizer: Any = None,
    batch_size: int = 32,
    **calling: Any,
) -> Likelihood:
    """A likelihood by a transformers classifier f.

        P(observed | c, y) = softmax(f(text))[label]

    Where the model's problem type is "multi_label_classification" its labels do not exclude each
    other, and it is sigmoid(f(text)[label]).

    Args:
        model: a sequence-classification model, a directory or a hub id.
        label: one of its config's names, or an index.
        read: what the text is: the prompt and the completion ("both"), or the completion alone
            ("completion").
        tokenizer: of a model that is given as an object.
        batch_size: texts per forward pass.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The likelihood.

    Raises:
        UnknownNameError: for a label that the model does not have.
        ModelError: for a model that cannot be loaded, or a regression, which has no probabilities.

    Example:
        >>> import transformers
        >>> config = transformers.BertConfig(hidden_size=8, num_attention_heads=1)
        >>> model = transformers.BertForSequenceClassification(config)
        >>> tokenizer = po.load("tiny").tokenizer
        >>> po.likelihoods.classifier(model, 1, tokenizer=tokenizer).max_log_evidence
        0.0
    """
    from .label_probability import LabelProbability

    fn = LabelProbability(model, label, _checked(read), tokenizer, batch_size)
    return Likelihood(fn, **calling)


@named_arguments
def sklearn(pipeline: Any, label: Any, *, read: Read = "both", **calling: Any) -> Likelihood:
    """A likelihood by a scikit-learn pipeline.

        P(observed | c, y) = pipeline.predict_proba([text])[label]

    It is called once for all texts of a batch.

    Args:
        pipeline: one that takes texts (a vectoriser comes first), or the path of one that `joblib`
            saved; loading runs code in that file, so it has to be your own.
        label: one of its `classes_`.
        read: what the text is: the prompt and the completion ("both"), or the completion alone
            ("completion").
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The likelihood.

    Raises:
        UnknownNameError: for a label that it does not have.
        ConfigError: for a classifier without `predict_proba`.
        ModelError: for a file that holds none.

    Example:
        >>> from sklearn.feature_extraction.text import CountVectorizer
        >>> from sklearn.naive_bayes import MultinomialNB
        >>> from sklearn.pipeline import make_pipeline
        >>> fitted = make_pipeline(CountVectorizer(), MultinomialNB()).fit(["good", "bad"], [1, 0])
        >>> po.likelihoods.sklearn(fitted, 1).max_log_evidence
        0.0
    """
    from .sklearn_probability import SklearnProbability

    return Likelihood(SklearnProbability(pipeline, label, _checked(read)), **calling)


@named_arguments
def words(
    probability: Mapping[str, float],
    *,
    observed: Literal["none", "some"] = "none",
    read: Read = "completion",
    case_sensitive: bool = False,
    **calling: Any,
) -> Likelihood:
    """A likelihood by words that a reader may notice: a word list as a noisy-or.

        P(none) = prod_w (1 - p_w)^(n_w),   P(some) = 1 - P(none)

    n_w is how often the word or phrase w stands whole in the text; each time a reader notices it
    with probability p_w, independently.

    Args:
        probability: p_w by word, each in [0, 1].
        observed: that they notice "none" (a list of words to avoid), or "some" (of words to have).
        read: what the text is: the prompt and the completion ("both"), or the completion alone
            ("completion").
        case_sensitive: whether capitals count.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The likelihood.

    Raises:
        ConfigError: for an empty list, or a probability outside [0, 1].

    Example:
        >>> exact = po.exact(po.Target(prior, po.likelihoods.words({"a": 0.5}), ["x"], 1))
        >>> bool(exact.log_z[0] < 0)
        True
    """
    from .word_probability import WordProbability

    if observed not in ("none", "some"):
        raise ConfigError(f"observed='{observed}' is neither 'none' nor 'some'", where="words")
    fn = WordProbability(probability, observed, _checked(read), case_sensitive)
    return Likelihood(fn, **calling)


@named_arguments
def similarity(
    to: str | Sequence[str],
    model: str | Path | Callable[[list[str]], Any],
    *,
    threshold: float = 0.5,
    temperature: float = 0.1,
    read: Read = "completion",
    batch_size: int = 32,
    **calling: Any,
) -> Likelihood:
    """A likelihood by likeness of meaning to one of some texts.

        P(observed | c, y) = sigmoid((max_j cos(h(text), h(to_j)) - threshold) / temperature)

    h is a sentence embedding. A reader finds that the text means the same as one of `to`, undecided
    at a cosine of `threshold`, and the surer the smaller the `temperature`.

    Args:
        to: one text or several.
        model: h: a directory or hub id of an encoder, whose token states are averaged as sentence-
            transformers do it (mean pooling), or any function from a list of texts to an array [N,
            D], such as `SentenceTransformer(...).encode`.
        threshold: the cosine at which the probability is 1/2.
        temperature: above 0.
        read: what the text is: the prompt and the completion ("both"), or the completion alone
            ("completion").
        batch_size: texts per forward pass.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The likelihood.

    Raises:
        ConfigError: for no text, or a temperature that is not positive.
        ModelError: for a model that cannot be loaded, or pools in another way.

    Example:
        >>> def lengths(texts):
        ...     return [[1.0, len(text)] for text in texts]
        >>> po.likelihoods.similarity("Good.", lengths).max_log_evidence
        0.0
    """
    from .similarity import Similarity

    texts = [to] if isinstance(to, str) else list(to)
    fn = Similarity(texts, model, threshold, temperature, _checked(read), batch_size)
    return Likelihood(fn, **calling)


def _checked(read: str) -> Any:
    if read not in ("both", "completion"):
        raise ConfigError(f"read='{read}' is neither 'both' nor 'completion'", where="likelihoods")
    return read
