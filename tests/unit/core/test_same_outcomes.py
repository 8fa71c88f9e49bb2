"""Wherever two language models meet, they are over the same outcomes or are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import PROMPTS, WORDS, generator, tiny_model, word_tokenizer
from tokenizers import processors

import posteriori as po
from posteriori.core.draw import draw
from posteriori.errors import ModelError, OutcomeError
from posteriori.samplers.annealing.ladder import adapt_ladder
from posteriori.samplers.annealing.reverse_annealing import reverse_annealed_log_z
from posteriori.samplers.smc.conditional import conditional_log_z
from posteriori.samplers.smc.fit_twist import fit_twist

CHAT = [{"role": "user", "content": "a b"}]


def lm(words=WORDS, rows=None, eos=0, template=None, bos=False):
    model = tiny_model("llama").requires_grad_(False)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    model.generation_config.eos_token_id = eos
    tokenizer = word_tokenizer(words=words)
    tokenizer.chat_template = template
    if bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="e $A", special_tokens=[("e", 5)]
        )
    return po.CausalLM(model, tokenizer)


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


OTHERS = {
    "tokens": (lambda: lm(("<eos>", "v", "w", "x", "y", "z")), "token 'a' is 1"),
    "order": (lambda: lm(("<eos>", "b", "a", "c", "d", "e")), "token 'a' is 1"),
    "rows": (lambda: lm(rows=8), "rows for 6 and for 8 tokens"),
    "ends": (lambda: lm(eos=[0, 3]), r"end-of-sequence ids \[0\] and \[0, 3\]"),
    "bos": (lambda: lm(bos=True), r"prompt 'a b' is \[1, 2\] for one and \[5, 1, 2\]"),
}
MEETINGS = {
    "evaluate": lambda target, other: po.evaluate(target, other, 4),
    "importance": lambda target, other: po.sample(target, "importance", 4, proposal=other),
    "smc": lambda target, other: po.sample(target, "smc", 4, proposal=other),
    "imh": lambda target, other: po.sample(target, "imh", 4, proposal=other),
    "exact": lambda target, other: po.exact(target).evaluate(other),
    "draw": lambda target, other: draw(target, other, 4),
    "exact's log-probs": lambda target, other: po.exact(target).log_prob(other),
    "annealed": lambda target, other: po.sample(target, "annealed", 4, proposal=other),
    "fit_twist": lambda target, other: fit_twist(target, proposal=other, steps=1, num_samples=4),
    "fit_moments": lambda target, other: po.fit_moments(with_moments(target), proposal=other),
    "ladder": lambda target, other: adapt_ladder(target, proposal=other),
    "conditional": lambda target, other: conditional_log_z(
        target, target.prior.sample(target.prompts, 4, 2, generator()), 4, proposal=other
    ),
    "simulated pairs": lambda target, other: po.simulate_preferences(target, 4, proposal=other),
}


def with_moments(target):
    moments = po.Moments({"length": (length, 1.5)}, method="draws", num_samples=20)
    return po.Target(target.prior, moments, target.prompts, 2)


@pytest.mark.moves_rng
@pytest.mark.parametrize("meeting", MEETINGS)
@pytest.mark.parametrize("kind", OTHERS)
def test_another_models_outcomes_are_refused(meeting, kind):
    make, message = OTHERS[kind]
    target = po.Target(lm(), po.Reward(length, beta=1.0), ["a b"], 2)
    with pytest.raises(ModelError, match=message):
        MEETINGS[meeting](target, make())


@pytest.mark.parametrize("meeting", MEETINGS)
def test_another_chat_template_is_refused(meeting):
    one = lm(template="{% for m in messages %}{{ m.content }} {% endfor %}")
    other = lm(template="{% for m in messages %}{{ m.content }} c {% endfor %}")
    target = po.Target(one, po.Reward(length, beta=1.0), [CHAT], 2)
    with pytest.raises(ModelError, match="share their outcomes: the prompt"):
        MEETINGS[meeting](target, other)


def test_the_same_words_in_another_tokenizer_are_the_same_outcomes():
    target = po.Target(lm(), po.Reward(length, beta=1.0), list(PROMPTS), 2)
    po.evaluate(target, lm(), 4)


def test_a_prefix_of_its_own_is_no_difference():
    bare = lm()
    target = po.Target(po.Prompted(bare, "a "), po.Reward(length, beta=1.0), ["b"], 2)
    po.evaluate(target, bare, 4)


DRAWS = {
    "log_density": lambda target, drawn: target.log_density(drawn.completions),
    "posterior": lambda target, drawn: po.evaluate(
        target, target.prior, 4, posterior=replace(drawn, guarantee="exact")
    ),
    "prior_draws": lambda target, drawn: po.evaluate(target, lm(), 40, prior_draws=drawn),
    "conditional": lambda target, drawn: conditional_log_z(target, drawn.completions, 4),
    "reverse": lambda target, drawn: reverse_annealed_log_z(
        target, replace(drawn, guarantee="exact"), [0.0, 1.0]
    ),
}


@pytest.mark.moves_rng
@pytest.mark.parametrize("kind", ["ends", "fewer ends"])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_another_model_are_refused(name, kind):
    """Its other ends of sequence, and what went on past one of the prior's."""
    others = {"ends": lm(eos=[0, 3]), "fewer ends": lm()}
    other, prior = others[kind], lm(eos=[0, 3]) if kind == "fewer ends" else lm()
    drawn = draw(po.Target(other, po.Reward(length, beta=1.0), ["a b"], 3), other, 40)
    target = po.Target(prior, po.Reward(length, beta=1.0), ["a b"], 3)
    with pytest.raises(
        OutcomeError, match=r"completion \d+ \(.*\) (has a token|goes on|ends with)"
    ):
        DRAWS[name](target, drawn)


@pytest.mark.moves_rng
@pytest.mark.parametrize("kind", ["tokens", "order", "rows", "bos"])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_a_model_with_other_words_are_refused(name, kind):
    """Ids that the prior has, and that mean something else to it."""
    make, message = OTHERS[kind]
    other = make()
    drawn = draw(po.Target(other, po.Reward(length, beta=1.0), ["a b"], 3), other, 40)
    drawn.completions.tokens_NL.clamp_(max=5)
    target = po.Target(lm(), po.Reward(length, beta=1.0), ["a b"], 3)
    with pytest.raises(OutcomeError, match=message):
        DRAWS[name](target, drawn)


def test_a_table_whose_words_are_renamed_is_refused():
    names = ("<eos>", "a", "b"), ("<eos>", "b", "a")
    prior, other = (po.TabularLM.random(words, 2, ("x",), seed=0) for words in names)
    target = po.Target(prior, po.Reward(length, beta=1.0), ["x"], 2)
    drawn = other.sample(["x"], 8, 2, generator())
    with pytest.raises(OutcomeError, match="token 'a' is 1 for one and 2 for the other"):
        target.log_density(drawn)
    by_hand = other.completions(["x"], [[1, 0]], 2)
    with pytest.raises(OutcomeError, match="token 'a' is 1"):
        target.log_density(by_hand)


def test_expert_of_other_ends_is_refused():
    with pytest.raises(ModelError, match="end-of-sequence ids"):
        po.Target(lm(), po.Expert(lm(eos=[0, 3])), ["a b"], 2)


def test_a_token_that_the_prior_does_not_have_is_refused():
    small, large = (po.TabularLM.random(WORDS[:n], 2, ("x",), seed=0) for n in (3, 4))
    target = po.Target(small, po.Reward(length, beta=1.0), ["x"], 2)
    with pytest.raises(OutcomeError, match="has a token beyond the model's 3"):
        target.log_density(large.completions(["x"], [[3, 0]], 2))
