"""Language models as evidence: experts, powers of the prior, and prompted models."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import WORDS, generator, plain_log_prob, reward, tiny_lm, tiny_model, word_tokenizer

import posteriori as po
from posteriori.core.prompted import with_prefix
from posteriori.errors import ConfigError, EvidenceError, ModelError, PromptError

PREFIXED = ("x", "y", "zx", "zy")


@pytest.fixture
def prompted_table() -> po.TabularLM:
    """A table that knows each prompt with a "z" before it, and without."""
    return po.TabularLM.random(WORDS[:4], 3, PREFIXED, seed=5)


def exact_power(log_p: torch.Tensor, alpha: float) -> float:
    return math.log(sum(math.exp(float(x)) ** alpha for x in log_p))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_the_normaliser_of_a_power_is_the_sum_of_powers(table, alpha):
    exact = po.exact(po.Target(table, po.Power(alpha), table.prompts, 3))
    expected = [exact_power(log_p, alpha) for log_p in exact.log_prior]
    np.testing.assert_allclose(exact.log_z, expected, rtol=0, atol=1e-12)


def test_a_power_keeps_out_what_the_prior_keeps_out(table):
    log_prior_N = torch.tensor([-1.0, -math.inf], dtype=torch.float64)
    drawn = table.sample(["x"], 2, 3, generator())
    for alpha in (0.5, 1.0, 3.0):
        scores = po.Power(alpha).score(drawn, {}, log_prior_N)
        assert scores.log_evidence.tolist() == [1 - alpha, -math.inf]


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
def test_an_alpha_that_is_none(alpha):
    with pytest.raises(ConfigError, match="must be a positive number"):
        po.Power(alpha)


def test_bounds_are_there_where_there_is_one(table):
    for evidence, bound in (
        (po.Power(2.0), 0.0),
        (po.Power(0.5), None),
        (po.Expert(table, 0.5), 0.0),
        (po.Expert(table, -0.5), None),
    ):
        target = po.Target(table, evidence, table.prompts, 3)
        assert target.max_log_evidence == bound
        drawn = table.sample(table.prompts, 200, 3, generator())
        if bound is not None:
            assert float(target.score(drawn).log_evidence.max()) <= bound


def always(completions, **kwargs):
    return [True] * len(completions)


def times_asked(table, monkeypatch, evidence, do) -> int:
    """How often the prior scores completions while something is done with a target."""
    asked, plain = [], po.TabularLM.token_log_prob

    def counted(lm, completions):
        asked.append(lm is table)
        return plain(lm, completions)

    with monkeypatch.context() as patch:
        patch.setattr(po.TabularLM, "token_log_prob", counted)
        do(po.Target(table, evidence, table.prompts, 3))
    return sum(asked)


SAMPLERS = {
    "importance": {},
    "imh": {"chains": 2},
    "mh": {"chains": 2},
    "annealed": {"replicates": 2, "ladder": (0.0, 0.5, 1.0)},
    "rejection": {},
    "smc": {"twist": "evidence"},
    "smc, rollouts": {"twist": {"name": "rollouts", "num": 2}},
    "smc, prefix": {"twist": "prefix"},
}
OTHER = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=2)
DONE = {
    **{
        name: (lambda t, n=name, s=s: po.sample(t, n.split(",")[0], 8, **s))
        for name, s in SAMPLERS.items()
    },
    "another proposal": lambda t: po.sample(t, "importance", 8, OTHER),
    "mh by another proposal": lambda t: po.sample(t, "mh", 8, OTHER, chains=2),
    "evaluate": lambda t: po.evaluate(t, OTHER, num_samples=8),
    "exact": po.exact,
    "fit": lambda t: po.fit(t, "dpg", steps=2, num_samples=8),
    "log_density": lambda t: t.log_density(OTHER.sample(["x"], 4, 3, generator())),
}


@pytest.mark.parametrize("name", DONE)
def test_the_prior_is_not_run_again_for_its_power(table, monkeypatch, name):
    """As often as for a constraint that does not care."""
    indifferent = po.Constraint(always, prefix=always)
    power, constraint = (
        times_asked(table, monkeypatch, evidence, DONE[name])
        for evidence in (po.Power(1.01), indifferent)
    )
    if name in ("rejection", "mh", "mh by another proposal"):
        # How many rounds it takes depends on what is accepted: an extra pass would double them.
        assert power < 1.5 * constraint
    else:
        assert power == constraint


def test_it_is_run_where_nobody_knows_what_it_says(table, monkeypatch):
    drawn = OTHER.sample(["x"], 4, 3, generator())
    assert times_asked(table, monkeypatch, po.Power(2.0), lambda t: t.score(drawn)) == 1
    density = po.Target(table, po.Power(1.5), table.prompts, 3).log_density(drawn)
    torch.testing.assert_close(density.evidence, 0.5 * density.prior)


@pytest.mark.parametrize("twist", ["none", "evidence", "prefix"])
@pytest.mark.parametrize("kind", ["power", "expert"])
def test_smc_along_their_prefixes_is_properly_weighted(table, kind, twist):
    """64 populations; 5.5 standard errors of Z-hat, a normal's false alarm in 2.6e7 each."""
    other = po.TabularLM.random(WORDS[:4], 3, table.prompts, seed=2)
    evidence = po.Power(1.7) if kind == "power" else po.Expert(other, 0.7)
    target = po.Target(table, evidence, table.prompts, 3)
    settings = {} if twist == "none" else {"twist": twist}
    draws = po.sample(target, "smc", 6400, replicates=64, seed=2, **settings)
    for estimate, truth in zip(draws.log_z.per_prompt, po.exact(target).log_z, strict=True):
        assert abs(estimate.value - truth) < 5.5 * estimate.standard_error
        assert estimate.standard_error < 0.03


def test_an_expert_is_told_its_prefix(table, prompted_table):
    drawn = table.sample(table.prompts, 50, 3, generator())
    plain, told = (
        po.Expert(prompted_table, 0.5, prompt_prefix=prefix).score(drawn, {})
        for prefix in (None, "z")
    )
    prompts = [f"z{prompt}" for prompt in drawn.prompts]
    expected = prompted_table.log_prob(prompted_table.completions(prompts, drawn.completion_ids, 3))
    torch.testing.assert_close(told.reward, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(told.log_evidence, 0.5 * expected, rtol=0, atol=1e-12)
    assert float((plain.reward - told.reward).abs().max()) > 0.1


def test_an_anti_expert_may_not_find_anything_impossible(gpt2):
    drawn = gpt2.sample(["a b"], 200, 3, generator())
    narrow = gpt2.warped(top_k=2)
    assert bool(po.Expert(narrow, 1.0).score(drawn, {}).log_evidence.isneginf().any())
    with pytest.raises(EvidenceError, match="which a negative weight makes infinitely good"):
        po.Expert(narrow, -1.0).score(drawn, {})


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_a_weight_that_is_none(table, weight):
    with pytest.raises(ConfigError, match="must be a number other than zero"):
        po.Expert(table, weight)


PERMUTED = (WORDS[0], *reversed(WORDS[1:]))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (PERMUTED, "token 'a' is 1 for one and 5 for the other"),
        (WORDS[:5], "vocabularies of 6 and 5 tokens"),
    ],
)
def test_an_expert_with_other_tokens_is_refused_with_the_reason(gpt2, other, reason):
    expert = tiny_lm("gpt2", seed=3, tokenizer=word_tokenizer(words=other))
    with pytest.raises(ModelError, match=f"do not share their tokens: {reason}") as caught:
        po.Target(gpt2, [po.Reward(reward, beta=1.0), po.Expert(expert)], ["a"], 3)
    assert "over_text=True" in caught.value.hint


def test_an_expert_that_ends_otherwise_is_refused(table):
    ends = po.TabularLM(table.logits, table.prompts, table.vocabulary, eos_token_id=1)
    with pytest.raises(ModelError, match=r"end-of-sequence ids \[0\] and \[1\]"):
        po.Target(table, po.Expert(ends), table.prompts, 3)


@pytest.mark.parametrize("prefix", [None, "c d "])
def test_over_text_it_scores_its_own_tokens_of_the_text(gpt2, prefix):
    tokenizer = word_tokenizer(words=PERMUTED)
    expert = po.Expert(
        tiny_lm("gpt2", seed=3, tokenizer=tokenizer), 0.5, prompt_prefix=prefix, over_text=True
    )
    target = po.Target(gpt2, expert, ["a b", "c"], 3)
    drawn = gpt2.sample(target.prompts, 20, 3, generator())
    assert 0 < int(drawn.ended_N.sum()) < 40
    place = {word: at for at, word in enumerate(PERMUTED)}
    model = tiny_model("gpt2", 3)
    expected = [
        plain_log_prob(
            model,
            [place[word] for word in ((prefix or "") + prompt).split()],
            [place[WORDS[token]] for token in ids],
        )
        for prompt, ids in zip(drawn.prompts, drawn.completion_ids, strict=True)
    ]
    found = target.score(drawn).log_evidence
    torch.testing.assert_close(found, 0.5 * torch.tensor(expected).double(), rtol=0, atol=1e-5)


def test_over_text_needs_a_tokenizer_and_an_empty_beginning_counts_nothing(table, gpt2):
    with pytest.raises(ModelError, match="a TabularLM has no tokenizer"):
        po.Expert(table, over_text=True)
    beginning = gpt2.completions(["a", "a"], [[0], [1, 0]], 3)
    empty_N = torch.tensor([True, False])
    beginning = replace(
        beginning,
        lengths_N=beginning.lengths_N.masked_fill(empty_N, 0),
        ended_N=beginning.ended_N & ~empty_N,
    )
    log_prob_N = po.Expert(gpt2, over_text=True).log_prob(beginning)
    assert float(log_prob_N[0]) == 0.0
    expected = plain_log_prob(gpt2.model, [1], [1, 0])
    assert float(log_prob_N[1]) == pytest.approx(expected, abs=1e-5)


def test_a_prompted_model_is_the_model_on_longer_prompts(prompted_table):
    lm = po.Prompted(prompted_table, "z")
    drawn = lm.sample(["x", "y"], 30, 3, generator(1))
    plain = prompted_table.sample(["zx", "zy"], 30, 3, generator(1))
    assert drawn.completion_ids == plain.completion_ids
    assert drawn.prompt_set == ("x", "y")
    assert drawn.prompt_ids == ((0,), (1,)), "as any other model encodes the bare prompt"
    assert torch.equal(drawn.log_prob_N, plain.log_prob_N)
    torch.testing.assert_close(lm.log_prob(drawn), plain.log_prob_N)
    again = lm.resample_suffix(drawn, torch.zeros_like(drawn.lengths_N), generator(2))
    assert again.prompt_set == ("x", "y")
    torch.testing.assert_close(lm.log_prob(again), again.log_prob_N)


@pytest.mark.parametrize("sampler", ["importance", "smc", "mh", "power"])
def test_samplers_draw_from_a_prompted_prior(prompted_table, sampler):
    lm = po.Prompted(prompted_table, "z")
    target = po.Target(lm, po.Reward(reward, beta=2.0), ["x", "y"], 3)
    draws = po.sample(target, sampler, 16, seed=0)
    torch.testing.assert_close(lm.log_prob(draws.completions), draws.log_prior_N)
    plain = po.Target(prompted_table, target.evidence, ["zx", "zy"], 3)
    np.testing.assert_allclose(po.exact(target).log_z, po.exact(plain).log_z, atol=1e-12)


def test_context_distillation(prompted_table):
    """The policy sees no prefix, begins without it and learns what it does."""
    target = po.Target(po.Prompted(prompted_table, "z"), [], ["x", "y"], 3)
    exact = po.exact(target)
    before = exact.evaluate(prompted_table)["kl_to_target"]
    fitted = po.fit(target, "rloo", steps=200, num_samples=32, learning_rate=0.1)
    after = exact.evaluate(fitted.policy)["kl_to_target"]
    assert np.all(before > 0.2)
    assert np.all(after < 0.05)
    assert np.allclose(exact.evaluate(target.prior)["kl_to_target"], 0.0)


def test_prefixes_before_conversations():
    asked = [{"role": "user", "content": "c"}]
    system = [{"role": "system", "content": "a"}]
    assert with_prefix("c", "a b ") == "a b c"
    assert with_prefix(asked, "a") == [*system, *asked]
    assert with_prefix(asked, system) == [*system, *asked]
    merged = [{"role": "system", "content": "b\n\na"}, *asked]
    assert with_prefix([*system, *asked], "b") == merged
    with pytest.raises(ConfigError, match="the prefix is a list of messages"):
        with_prefix("c", system)


def test_what_a_prompted_model_cannot_be(prompted_table):
    with pytest.raises(ConfigError, match="the prefix is empty"):
        po.Prompted(prompted_table, "")
    with pytest.raises(PromptError, match="the table has no prompt 'wx'"):
        po.Prompted(prompted_table, "w").sample(["x"], 1, 3, generator())


def test_a_prompted_causal_model(gpt2):
    lm = po.Prompted(gpt2, "c d ")
    drawn = lm.sample(["a b", "e"], 10, 3, generator())
    expected = [
        plain_log_prob(gpt2.model, gpt2.encode(f"c d {prompt}"), ids)
        for prompt, ids in zip(drawn.prompts, drawn.completion_ids, strict=True)
    ]
    torch.testing.assert_close(
        lm.log_prob(drawn), torch.tensor(expected).double(), rtol=0, atol=1e-5
    )
    assert drawn.prompt_ids == (gpt2.encode("a b"), gpt2.encode("e"))
    target = po.Target(lm, po.Expert(gpt2, -0.5), ["a b", "e"], 3)
    fitted = po.fit(target, "dpg", steps=2, num_samples=4, learning_rate=1e-3, policy="lora")
    assert len(fitted.history) == 2
