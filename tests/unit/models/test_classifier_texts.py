"""A sequence-classification model reads a text as plain transformers would, alone."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers import PROMPTS, generator, tiny_lm, word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import posteriori as po
from posteriori.errors import EvidenceError

WORDS = ("<pad>", "<s>", "</s>", "a", "b", "c", "d", "e", "user:", "assistant:", "<eot>")
TEMPLATE = (
    "{{ bos_token + ' ' }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' <eot> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def chat_tokenizer():
    made = word_tokenizer(words=WORDS, bos_token="<s>", unk_token="<pad>")
    made.add_special_tokens({"eos_token": "</s>"})
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.chat_template = TEMPLATE
    return made


def scorer(vocab=6, pad=0, width=16):
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=1,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForSequenceClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.5)
    return model.eval().requires_grad_(False)


def plain(model, ids):
    x = torch.tensor([ids])
    with torch.no_grad():
        return float(model(input_ids=x, attention_mask=torch.ones_like(x)).logits)


def saved(place, model, tokenizer):
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


CHAT = [{"role": "user", "content": "a b"}]
REPLIES = ["c", "d e a", "b b"]


@pytest.mark.moves_rng
def test_a_template_writes_the_only_bos(tmp_path):
    model, tokenizer = scorer(len(WORDS)), chat_tokenizer()
    want = [
        plain(
            model,
            tokenizer.apply_chat_template(
                [*CHAT, {"role": "assistant", "content": reply}], tokenize=True, return_dict=True
            )["input_ids"],
        )
        for reply in REPLIES
    ]
    assert len(set(want)) == 3
    fn = po.Reward(str(saved(tmp_path / "m", model, tokenizer)), beta=1.0).fns[0]
    said = [[{"role": "assistant", "content": reply}] for reply in REPLIES]
    assert fn([CHAT] * 3, said) == pytest.approx(want, abs=1e-4)
    in_parts = [{"role": "user", "content": [{"type": "text", "text": "a b"}]}]
    assert fn([in_parts] * 3, said) == pytest.approx(want, abs=1e-4)
    learned = po.Preferences(str(tmp_path / "m"), beta=1.0).model
    assert learned.reward([CHAT] * 3, REPLIES).tolist() == pytest.approx(want, abs=1e-4)


def refusing(place):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    return saved(place, scorer(len(WORDS)), tokenizer)


def test_a_template_that_refuses_is_an_error_of_the_evidence(tmp_path):
    fn = po.Reward(str(refusing(tmp_path / "m")), beta=1.0).fns[0]
    with pytest.raises(EvidenceError, match="refuses a conversation"):
        fn([CHAT], [[{"role": "assistant", "content": "c"}]])


@pytest.mark.parametrize("pad", [0, 5], ids=["the tokenizer's", "another"])
def test_a_texts_reward_does_not_depend_on_its_batch(tmp_path, pad):
    model = scorer(pad=pad)
    place = str(saved(tmp_path / "m", model, word_tokenizer()))
    drawn = tiny_lm("llama").sample(PROMPTS, 4, 6, generator())
    tokenizer = word_tokenizer()
    want = [
        plain(model, tokenizer(prompt + text)["input_ids"])
        for prompt, text in zip(drawn.prompts, drawn.texts, strict=True)
    ]
    for evidence in (po.Reward(place, beta=1.0), po.Preferences(place, beta=1.0)):
        assert evidence.score(drawn, {}).reward.tolist() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("given", ["path", "object"])
def test_a_bfloat16_checkpoint_is_scored_in_float32(tmp_path, given):
    model = scorer(width=64).to(torch.bfloat16)
    place = saved(tmp_path / "m", model, word_tokenizer())
    loads = transformers.LlamaForSequenceClassification.from_pretrained
    exact, model = loads(place, dtype=torch.float32), loads(place, dtype=torch.bfloat16)
    ids = word_tokenizer()("a b c d")["input_ids"]
    options = {} if given == "path" else {"tokenizer": word_tokenizer()}
    fn = po.Reward(str(place) if given == "path" else model, beta=1.0, **options).fns[0]
    assert fn(["a b"], [" c d"]) == pytest.approx([plain(exact.eval(), ids)], abs=1e-4)
    assert model.dtype == torch.bfloat16


def test_prompt_and_text_together_read_as_their_tokens_do():
    vocab = {w: i for i, w in enumerate(("<unk>", "<s>", "</s>", "▁a", "▁b", "▁c"))}
    table = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    table.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=table, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    lm = tiny_lm("llama", tokenizer=tokenizer)
    batch = lm.completions(["a b"], [[3, 4, 2]], 3)
    whole = tokenizer.decode([*batch.prompt_ids[0], 3, 4, 2], skip_special_tokens=True)
    assert "a b" + batch.texts[0] == whole == "a b a b"
