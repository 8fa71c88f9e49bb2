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
    """P(observed | c, y) = softmax(f(text))[label], by a sequence-classification model f.

    Where the model's problem type is "multi_label_classification" its labels do not exclude each
    other, and it is sigmoid(f(text)[label]). `model` is a transformers model, a directory or hub
    id; `label` one of its config's names, or an index.

    Raises `UnknownNameError` for a label that it does not have, `ModelError` where it cannot be
    loaded or is a regression, which has no probabilities.
    """
    from .label_probability import LabelProbability

    fn = LabelProbability(model, label, _checked(read), tokenizer, batch_size)
    return Likelihood(fn, **calling)


@named_arguments
def sklearn(pipeline: Any, label: Any, *, read: Read = "both", **calling: Any) -> Likelihood:
    """P(observed | c, y) = pipeline.predict_proba([text])[label], in one call for all texts.

    `pipeline` takes texts (a vectoriser comes first), or is the path of one that `joblib` saved;
    loading runs code in that file, so it has to be your own. `label` is one of its `classes_`.

    Raises `UnknownNameError` for a label that it does not have, `ConfigError` for a classifier
    without `predict_proba`, `ModelError` for a file that holds none.
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
    """P(none) = prod_w (1 - p_w)^(n_w), and P(some) = 1 - P(none): a word list as a noisy-or.

    n_w is how often the word or phrase w stands whole in the text; each time a reader notices it
    with probability p_w = `probability[w]`, independently. Observed is that they notice `none`
    (a list of words to avoid), or `some` (of words to have).

    Raises `ConfigError` for an empty list, or a probability outside [0, 1].
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
    """P(observed | c, y) = sigmoid((max_j cos(h(text), h(to_j)) - threshold) / temperature).

    h is a sentence embedding, `to` one text or several: a reader finds that the text means the same
    as one of them, undecided at a cosine of `threshold` and the surer the smaller the
    `temperature`. `model` is a directory or hub id of an encoder, whose token states are averaged
    as sentence-transformers do it (mean pooling), or any function from a list of texts to an array
    [N, D], such as `SentenceTransformer(...).encode`.

    Raises `ConfigError` for no text or a temperature that is not positive, `ModelError` where the
    model cannot be loaded or pools in another way.
    """
    from .similarity import Similarity

    texts = [to] if isinstance(to, str) else list(to)
    fn = Similarity(texts, model, threshold, temperature, _checked(read), batch_size)
    return Likelihood(fn, **calling)


def _checked(read: str) -> Any:
    if read not in ("both", "completion"):
        raise ConfigError(f"read='{read}' is neither 'both' nor 'completion'", where="likelihoods")
    return read
