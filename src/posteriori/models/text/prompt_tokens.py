"""From prompts to token ids, and from outside ids to `Completions`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt
from posteriori.data.conversation import with_text_contents
from posteriori.errors import ModelError, OutcomeError, PromptError


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `ModelError` for what turns no text into tokens."""
    if isinstance(tokenizer, type) or not (callable(tokenizer) and hasattr(tokenizer, "decode")):
        kind = tokenizer.__name__ if isinstance(tokenizer, type) else type(tokenizer).__name__
        raise ModelError(
            f"a {kind} is no tokenizer",
            hint="give the model's own: AutoTokenizer.from_pretrained(path)",
        )


def check_draws(prompts: object, num_samples: int) -> None:
    """Raise `PromptError` for one prompt where several are wanted, and for less than one draw."""
    check_several(prompts)
    if not isinstance(num_samples, Integral) or num_samples < 1:
        raise PromptError(f"num_samples={num_samples!r} must be a whole number of at least 1")


def check_several(prompts: object) -> None:
    """Raise `PromptError` for one prompt where a list of them is wanted: each character of a string
    would be a prompt of its own."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise PromptError(
            f"prompts is {str(prompts)[:40]!r}, of type {type(prompts).__name__}",
            hint='give a list of prompts, such as ["My boss is"]',
        )


def encode_prompt(
    tokenizer: Any,
    prompt: Prompt,
    start_token_id: int | None,
    eos_token_ids: Sequence[int],
    vocab_size: int,
) -> tuple[int, ...]:
    """Token ids of a string or of a conversation (by the chat template, open for the reply).

    A conversation that ends with the assistant's own message goes on within that message, as TRL's
    trainers have it: no header of a new message follows.

    An empty prompt becomes the start token (BOS, else EOS), because a causal model has no
    next-token distribution before its first token. An end of sequence that the tokenizer puts
    behind every text is left out: the completion goes on from the prompt. Raises `PromptError`, and
    `ModelError` for a token that the model has no row for.
    """
    ids = tuple(_ids(tokenizer, prompt, set(eos_token_ids)))
    strange = [at for at in ids if not 0 <= at < vocab_size]
    if strange:
        raise ModelError(
            f"the tokenizer gives token {strange[0]} ({_token(tokenizer, strange[0])!r}), and the "
            f"model has rows for {vocab_size}",
            where=_name(prompt),
            hint="use the model's own tokenizer, or model.resize_token_embeddings(len(tokenizer))",
        )
    if ids:
        return ids
    if start_token_id is None:
        raise PromptError(
            "the prompt is empty, and the model has neither a BOS nor an EOS token to start from",
            where=_name(prompt),
            hint="begin the prompt with some text",
        )
    return (start_token_id,)


def _is_conversation(prompt: Any) -> bool:
    is_list = isinstance(prompt, list | tuple) and len(prompt) > 0
    return is_list and all(isinstance(message, Mapping) for message in prompt)


def _check_text(text: str, prompt: Prompt) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"it is no text: half of a surrogate pair at character {error.start}",
            where=_name(prompt),
            hint="remove it; files are read with encoding='utf-8' and errors='replace'",
        ) from error


def _ids(tokenizer: Any, prompt: Prompt, eos: set[int]) -> list[int]:
    if isinstance(prompt, str):
        _check_text(prompt, prompt)
        ids = tokenizer(prompt)["input_ids"] if prompt else []
        if ids and ids[-1] in eos:
            text_alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            if not text_alone or text_alone[-1] != ids[-1]:
                ids = ids[:-1]
        return ids
    if not _is_conversation(prompt):
        raise PromptError(
            f"{str(prompt)[:40]!r}, of type {type(prompt).__name__}, is no prompt",
            hint="write a string (token ids: tokenizer.decode(ids)), or messages such as "
            '[{"role": "user", "content": "..."}]',
        )
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError(
            "the prompt is a conversation, and this tokenizer has no chat template",
            where=_name(prompt),
            hint="give strings, or set tokenizer.chat_template",
        )
    messages = with_text_contents(prompt)
    is_begun = messages[-1].get("role") == "assistant"
    if is_begun and not messages[-1].get("content"):
        messages, is_begun = messages[:-1], False  # a reply of which nothing is there yet
    try:
        return tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not is_begun,
            continue_final_message=is_begun,
            tokenize=True,
            return_dict=True,
        )["input_ids"]
    except Exception as error:  # a template is a program that came with the model
        raise PromptError(
            f"the chat template refuses it: {error}",
            where=_name(prompt),
            hint="write the conversation as the template wants it (some take no system message), "
            "or set another tokenizer.chat_template",
        ) from error


def _token(tokenizer: Any, at: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(at))


def check_length(
    prompt: Prompt, ids: Sequence[int], max_new_tokens: int, context: int | None
) -> None:
    """Raise `PromptError` when the prompt and `max_new_tokens` exceed the model's context."""
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if context is not None and len(ids) + max_new_tokens > context:
        raise PromptError(
            f"the prompt has {len(ids)} tokens and max_new_tokens is {max_new_tokens}, "
            f"but the model's context holds {context}",
            where=_name(prompt),
            hint=f"shorten the prompt to {max(context - max_new_tokens, 0)} tokens or lower "
            "max_new_tokens",
        )


def build_completions(
    prompts: Sequence[Prompt],
    completion_ids: Sequence[Sequence[int]],
    *,
    encode: Callable[[Prompt], tuple[int, ...]],
    decode: Callable[[list[list[int]]], list[str]],
    eos_token_ids: Sequence[int],
    vocab_size: int,
    max_new_tokens: int | None,
    device: torch.device,
) -> Completions:
    """`Completions` from ids that came from outside, checked to be token sequences that can be.

    `prompts` holds one prompt a completion, or a single one for all. Raises `OutcomeError` for an
    empty sequence, an id outside the vocabulary, or an end of sequence before the last token.
    """
    check_several(prompts)
    if len(prompts) == 1:
        prompts = list(prompts) * len(completion_ids)
    if len(prompts) != len(completion_ids):
        raise OutcomeError(
            f"{len(prompts)} prompts for {len(completion_ids)} completions",
            hint="give one prompt a completion, or a single prompt for all",
        )
    eos = set(eos_token_ids)
    completion_ids = [_as_list(row, ids) for row, ids in enumerate(completion_ids)]
    for row, ids in enumerate(completion_ids):
        _check_ids(row, ids, eos, vocab_size)
    lengths = [len(ids) for ids in completion_ids]
    width = max(lengths, default=1)
    padded = [list(ids) + [0] * (width - len(ids)) for ids in completion_ids]
    prompt_set: list[Prompt] = []
    positions: dict[str, int] = {}
    index = []
    for prompt in prompts:
        key = prompt if isinstance(prompt, str) else repr(prompt)
        if key not in positions:
            positions[key] = len(prompt_set)
            prompt_set.append(prompt)
        index.append(positions[key])
    return Completions(
        prompt_set=tuple(prompt_set),
        prompt_ids=tuple(encode(prompt) for prompt in prompt_set),
        prompt_index_N=torch.tensor(index, dtype=torch.long, device=device),
        tokens_NL=torch.tensor(padded, dtype=torch.long, device=device).view(-1, width),
        lengths_N=torch.tensor(lengths, dtype=torch.long, device=device),
        ended_N=torch.tensor(
            [ids[-1] in eos for ids in completion_ids], dtype=torch.bool, device=device
        ),
        max_new_tokens=max_new_tokens or width,
        decode=decode,
    )


def _as_list(row: int, ids: Any) -> list[int]:
    """A list, whether it came as one, as an array or as a tensor."""
    found = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(found, list | tuple) or not all(isinstance(i, Integral) for i in found):
        raise OutcomeError(
            f"completion {row} is {str(ids)[:40]!r}, of type {type(ids).__name__}",
            hint="give its token ids, a list of whole numbers (of a text: tokenizer(text))",
        )
    return [int(i) for i in found]


def _check_ids(row: int, ids: Sequence[int], eos: set[int], vocab_size: int) -> None:
    if not ids:
        raise OutcomeError(
            f"completion {row} is empty", hint="the shortest outcome is the EOS token alone"
        )
    foreign = [i for i in ids if not 0 <= i < vocab_size]
    if foreign:
        raise OutcomeError(
            f"completion {row} has token id {foreign[0]}, outside the vocabulary of {vocab_size}"
        )
    early = [at for at, i in enumerate(ids[:-1]) if i in eos]
    if early:
        raise OutcomeError(
            f"completion {row} goes on after its end-of-sequence token at position {early[0]}",
            hint="cut it after the first EOS",
        )


def left_padded(prompt_ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one tensor [P, L] that ends with every prompt's last token, and its mask."""
    width = max(len(ids) for ids in prompt_ids)
    rows = [[0] * (width - len(ids)) + list(ids) for ids in prompt_ids]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def positions(mask_PL: Tensor) -> Tensor:
    """What the mask lets through is counted, so left padding shifts nothing; [P, L]."""
    return (mask_PL.cumsum(-1) - 1).clamp(min=0)


def start_token(tokenizer, config) -> int | None:
    """The token that an empty prompt starts from: BOS, else EOS, else none."""
    for value in (
        getattr(tokenizer, "bos_token_id", None),
        getattr(config, "bos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    ):
        if value is not None:
            return int(value)
    return None


def end_tokens(tokenizer, model, vocab_size: int) -> tuple[int, ...]:
    """Every id that ends a completion: the tokenizer's EOS and the generation config's.

    Raises `ModelError` where there is none, or one that the model has no row for.
    """
    found: set[int] = set()
    for value in (
        getattr(tokenizer, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
    ):
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(int(v) for v in value)
    if not found:
        raise ModelError(
            "the model names no end-of-sequence token",
            hint="set tokenizer.eos_token or model.generation_config.eos_token_id",
        )
    if not 0 <= min(found) <= max(found) < vocab_size:
        raise ModelError(
            f"the end-of-sequence ids are {sorted(found)}, and the model has rows for {vocab_size} "
            "tokens",
            hint="use the model's own tokenizer, and correct model.generation_config.eos_token_id",
        )
    return tuple(sorted(found))


def _name(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", prompt[-1]))
    return f"prompt {text[:60]!r}"
