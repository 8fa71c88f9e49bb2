"""Whether two language models are over the same outcomes: tokens, ends, and prompts as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from posteriori.errors import ModelError, OutcomeError

from .completions import Completions
from .hooks import HasEnvironment, HasTokenizer, HasVocabulary
from .occurrence import Prompt
from .prompted import Prompted, prompt_ids
from .protocols import LanguageModel
from .tensors import ints


def difference_in_tokens(one: LanguageModel, other: LanguageModel) -> str | None:
    """Why a completion's ids do not mean the same to both; None where they do.

    The same vocabulary, token by token, and the same end-of-sequence ids. A model that shows no
    vocabulary is taken at its size.
    """
    if _same_tokenizer(one, other):
        mine = theirs = dict[str, int]()
    else:
        mine, theirs = vocabulary(one), vocabulary(other)
    if mine is None or theirs is None:
        if one.vocab_size != other.vocab_size:
            return f"vocabularies of {one.vocab_size} and {other.vocab_size} tokens"
    elif mine != theirs:
        if len(mine) != len(theirs):
            return f"vocabularies of {len(mine)} and {len(theirs)} tokens"
        token = min((t for t in mine if theirs.get(t) != mine[t]), key=lambda t: mine[t])
        return f"token {token!r} is {mine[token]} for one and {theirs.get(token)} for the other"
    if set(one.eos_token_ids) != set(other.eos_token_ids):
        return f"end-of-sequence ids {list(one.eos_token_ids)} and {list(other.eos_token_ids)}"
    return None


def check_same_outcomes(
    prior: LanguageModel, other: LanguageModel, prompts: Sequence[Prompt], role: str
) -> None:
    """Raise `ModelError` unless `other` (a policy, a proposal: its `role`) is a distribution over
    the prior's own outcomes, after the same prompts.

    The same tokens, the same number of rows for them, the same end-of-sequence ids, and the same
    ids for every prompt (a chat template of its own, or another BOS, gives others). A log-ratio of
    models that differ in one of these is a number without a meaning.
    """
    difference = difference_in_outcomes(prior, other, prompts)
    if difference is not None:
        raise ModelError(
            f"prior and {role} do not share their outcomes: {difference}",
            where=role,
            hint="give both the same tokenizer, chat template and end-of-sequence ids "
            "(model.generation_config.eos_token_id), and embeddings of the same size",
        )


def difference_in_outcomes(
    prior: LanguageModel, other: LanguageModel, prompts: Sequence[Prompt]
) -> str | None:
    """Why the two are no distributions over the same outcomes; None where they are."""
    if prior is other:
        return None
    difference = _difference_in_environments(prior, other)
    return difference or _difference_without_environments(_bare(prior), _bare(other), prompts)


def _difference_without_environments(
    mine: LanguageModel, theirs: LanguageModel, prompts: Sequence[Prompt]
) -> str | None:
    if mine is theirs:
        return None
    difference = None
    if isinstance(mine, HasTokenizer) == isinstance(theirs, HasTokenizer):
        # The names of a table's tokens are for people: against a tokenizer, their number counts.
        difference = difference_in_tokens(mine, theirs)
    if difference is None and mine.vocab_size != theirs.vocab_size:
        difference = f"rows for {mine.vocab_size} and for {theirs.vocab_size} tokens"
    if difference is None:
        difference = _difference_in_prompts(mine, theirs, prompts)
    return difference


def check_outcomes_of(lm: LanguageModel, completions: Completions, role: str) -> None:
    """Raise `OutcomeError` unless completions from outside (draws, a data set: their
    `role`) can be this model's: ids that it has, its ends of sequence at the end and nowhere else,
    and, where it is known which model drew them, the same tokens, ends and prompts."""
    tokens_NL, mask_NL = completions.tokens_NL, completions.mask_NL
    eos = torch.tensor(sorted(lm.eos_token_ids), device=tokens_NL.device)
    place_L = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)
    last_NL = place_L == completions.lengths_N[:, None] - 1
    wanted_NL = last_NL & completions.ended_N[:, None]
    if completions.own_NL is not None:
        # Inside an episode a turn ends where the environment's reply begins.
        wanted_NL |= completions.own_mask_NL & ~last_NL & ~completions.own_NL.roll(-1, 1)
        mask_NL = mask_NL & completions.own_NL
    wrong = {
        f"has a token beyond the model's {lm.vocab_size}": tokens_NL >= lm.vocab_size,
        f"goes on, or is cut off, after an end of sequence of the model ({ints(eos)})": (
            torch.isin(tokens_NL, eos) & ~wanted_NL
        ),
        f"ends with what is no end of sequence of the model ({ints(eos)})": (
            ~torch.isin(tokens_NL, eos) & wanted_NL
        ),
    }
    for why, wrong_NL in wrong.items():
        bad_N = (wrong_NL & mask_NL).any(-1)
        if bool(bad_N.any()):
            row = int(bad_N.nonzero()[0])
            raise OutcomeError(
                f"completion {row} ({completions.completion_ids[row]}) {why}",
                where=role,
                hint="draw with a model that has the prior's tokens and end-of-sequence ids",
            )
    # Ids that both have may still be other words.
    drew = getattr(completions.decode, "__self__", None)
    if drew is lm or not isinstance(drew, LanguageModel):
        return
    difference = _difference_without_environments(_bare(lm), _bare(drew), completions.prompt_set)
    if difference is not None:
        raise OutcomeError(
            f"the model that drew these completions has other outcomes: {difference}",
            where=role,
            hint="draw with a model that has the prior's tokens and end-of-sequence ids",
        )


def _difference_in_prompts(
    one: LanguageModel, other: LanguageModel, prompts: Sequence[Prompt]
) -> str | None:
    # A table reads no tokens of a prompt: its ids there are a number of its own.
    both = isinstance(one, HasTokenizer) and isinstance(other, HasTokenizer)
    if _same_tokenizer(one, other) or not both:
        return None
    for prompt in prompts:
        mine, theirs = prompt_ids(one, prompt), prompt_ids(other, prompt)
        if mine != theirs:
            said = str(prompt)[:60]
            return f"the prompt {said!r} is {_some(mine)} for one and {_some(theirs)} for the other"
    return None


def _same_tokenizer(one: LanguageModel, other: LanguageModel) -> bool:
    """Whether it is one object: then nothing has to be compared."""
    if not (isinstance(one, HasTokenizer) and isinstance(other, HasTokenizer)):
        return False
    return one.tokenizer is not None and one.tokenizer is other.tokenizer


def _some(ids: tuple[int, ...]) -> str:
    return str(list(ids)) if len(ids) < 12 else f"[{', '.join(map(str, ids[:12]))}, ..]"


def _difference_in_environments(one: LanguageModel, other: LanguageModel) -> str | None:
    mine, theirs = (
        lm.environment if isinstance(lm, HasEnvironment) else None for lm in (one, other)
    )
    if mine is theirs or (mine is not None and mine == theirs):
        return None
    if mine is None or theirs is None:
        return "one of them is answered by an environment, and the other is not"
    return "they are answered by different environments"


def _bare(lm: LanguageModel) -> LanguageModel:
    """Without the prefix of its own, which is put before a prompt on purpose, and without the
    environment that answers it."""
    return _bare(lm.lm) if isinstance(lm, Prompted | HasEnvironment) else lm


def vocabulary(lm: LanguageModel) -> Mapping[str, int] | None:
    """Token -> id, from a transformers tokenizer or a table; None where there is neither."""
    if isinstance(lm, Prompted | HasEnvironment):
        return vocabulary(lm.lm)
    if isinstance(lm, HasTokenizer):
        return lm.tokenizer.get_vocab()
    if isinstance(lm, HasVocabulary):
        return {token: at for at, token in enumerate(lm.vocabulary)}
    return None
