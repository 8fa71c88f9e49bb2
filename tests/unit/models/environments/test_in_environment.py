"""Episodes against their enumeration, with and without chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from coin import DEPTH, WORDS, Luck, coin, every_episode, luck_of, mirror
from helpers import EOS, generator, plain_log_prob, tiny_lm
from scipy.stats import chi2

import posteriori as po
from posteriori.errors import EnvironmentCallError, ModelError, ObjectiveError, SpaceTooLargeError

PROMPT = "a"


@pytest.fixture(scope="module")
def lm() -> po.CausalLM:
    return tiny_lm("llama")


def keys(completions: po.Completions) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in completions.completion_ids]


def fits(counts: torch.Tensor, probability: torch.Tensor) -> float:
    """p-value of Pearson's chi-squared; outcomes of fewer than ten expected draws are one cell."""
    expected = probability * counts.sum()
    rare = expected < 10
    groups = [(counts[~rare], expected[~rare])]
    if float(expected[rare].sum()) > 10:
        groups.append((counts[rare].sum()[None], expected[rare].sum()[None]))
    seen, wanted = (torch.cat([group[at] for group in groups]) for at in (0, 1))
    return float(chi2.sf(float(((seen - wanted) ** 2 / wanted).sum()), len(seen) - 1))


def counted(drawn: po.Completions, every: po.Completions) -> torch.Tensor:
    place = {key: at for at, key in enumerate(keys(every))}
    rows = torch.tensor([place[key] for key in keys(drawn)])
    return torch.bincount(rows, minlength=len(place)).double()


def test_probabilities_of_all_episodes_sum_to_one(lm):
    episodes, log_env = every_episode(lm, PROMPT)
    log_prob = po.InEnvironment(lm, coin, max_turns=2).log_prob(episodes)
    assert float((log_prob + log_env).exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_log_prob_is_of_the_models_own_tokens(lm):
    episodes, _ = every_episode(lm, PROMPT)
    some = episodes.select(slice(0, len(episodes), 37))
    found = po.InEnvironment(lm, coin, max_turns=2).token_log_prob(some)
    assert not bool(found[~some.own_mask_NL[:, : found.shape[1]]].any())
    for row, ids in enumerate(some.completion_ids):
        whole = [
            plain_log_prob(lm.model, [*some.prompt_ids[0], *ids[:t]], ids[t : t + 1])
            for t in range(len(ids))
        ]
        own = some.own_NL[row, : len(ids)].tolist()
        wanted = sum(value for value, is_own in zip(whole, own, strict=True) if is_own)
        assert float(found[row].sum()) == pytest.approx(wanted, abs=1e-5)


def test_draws_have_the_law_of_the_episodes(lm):
    """Chi-squared of 20,000 draws; false alarms: 1e-6."""
    episodes, log_env = every_episode(lm, PROMPT)
    played = po.InEnvironment(lm, coin, max_turns=2)
    drawn = played.sample([PROMPT], 20_000, DEPTH, generator(3))
    probability = (played.log_prob(episodes) + log_env).exp()
    assert fits(counted(drawn, episodes), probability) > 1e-6
    assert drawn.token_log_prob_NL is not None
    again = played.token_log_prob(drawn)
    assert torch.allclose(drawn.token_log_prob_NL, again, atol=1e-5)


def test_draws_are_the_seeds(lm):
    played = po.InEnvironment(lm, coin, max_turns=2)
    one, other = (played.sample([PROMPT], 50, DEPTH, generator(7)) for _ in range(2))
    assert keys(one) == keys(other)
    assert one.replies == other.replies


def test_log_z_is_that_of_the_enumeration(lm):
    """Importance with 20,000 draws, within 5 standard errors: 6e-7."""
    played = po.InEnvironment(lm, coin, max_turns=2)
    episodes, log_env = every_episode(lm, PROMPT)
    exact = (played.log_prob(episodes) + log_env + luck_of(episodes)).logsumexp(0)
    target = po.Target(played, Luck(), [PROMPT], DEPTH)
    log_z = po.sample(target, "importance", 20_000, seed=1).log_z
    assert abs(log_z.value - float(exact)) < 5 * log_z.standard_error


def test_a_deterministic_environment_draws_from_the_middle(lm):
    """Prior draws whose suffixes are drawn anew are prior draws. False alarms: 1e-6."""
    played = po.InEnvironment(lm, mirror, max_turns=2, deterministic=True)
    episodes, log_env = every_episode(lm, PROMPT, chance=False)
    drawn = played.sample([PROMPT], 20_000, DEPTH, generator(5))
    start = (torch.rand(len(drawn), generator=generator(6)) * drawn.lengths_N).long()
    moved = played.resample_suffix(drawn, start, generator(8))
    for before, after, at in zip(keys(drawn), keys(moved), start.tolist(), strict=True):
        assert before[:at] == after[:at]
    assert keys(moved) != keys(drawn)
    probability = (played.log_prob(episodes) + log_env).exp()
    assert fits(counted(moved, episodes), probability) > 1e-6
    assert torch.allclose(moved.token_log_prob_NL, played.token_log_prob(moved), atol=1e-5)


def test_chains_over_episodes_reach_the_posterior(lm):
    """mh with 400 chains of 60 moves: the share of winners within 5 standard errors (6e-7)."""
    played = po.InEnvironment(lm, mirror, max_turns=2, deterministic=True)
    episodes, log_env = every_episode(lm, PROMPT, chance=False)
    log_posterior = (played.log_prob(episodes) + log_env + luck_of(episodes)).log_softmax(0)
    wins = luck_of(episodes) > 0
    exact = float(log_posterior[wins].exp().sum())
    target = po.Target(played, Luck(), [PROMPT], DEPTH)
    draws = po.sample(target, "mh", 400, seed=2, chains=400, burn_in=60)
    share = float((luck_of(draws.completions) > 0).double().mean())
    assert abs(share - exact) < 5 * (exact * (1 - exact) / 400) ** 0.5


def test_completions_select_and_concat_keep_the_episodes(lm):
    drawn = po.InEnvironment(lm, coin, max_turns=2).sample([PROMPT], 30, DEPTH, generator(1))
    parts = [drawn.select([3, 1]), drawn.select(slice(5, 9)), drawn.select(torch.arange(30) > 27)]
    whole = po.Completions.concat(parts)
    rows = [3, 1, 5, 6, 7, 8, 28, 29]
    assert whole.replies == tuple(drawn.replies[row] for row in rows)
    assert torch.equal(whole.own_mask_NL, drawn.own_mask_NL[rows][:, : whole.own_mask_NL.shape[1]])
    for turns, said, own, length in zip(
        drawn.turns, drawn.replies, drawn.own_NL.tolist(), drawn.lengths_N.tolist(), strict=True
    ):
        assert len(turns) == len(said) + own[length - 1]


def test_training_goes_on_after_a_stop_bit_for_bit(lm, tmp_path):
    target = po.Target(po.InEnvironment(lm, coin, max_turns=2), Luck(), [PROMPT], DEPTH)
    settings = {"num_samples": 8, "replay": 2, "checkpoint_every": 1, "seed": 3}
    whole = po.fit(target, "vargrad", steps=4, output_dir=tmp_path / "a", **settings)

    def stop(record):
        if record["step"] == 1:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        po.fit(target, "vargrad", steps=4, output_dir=tmp_path / "b", on_step=stop, **settings)
    resumed = po.fit(target, "vargrad", steps=4, output_dir=tmp_path / "b", resume=True, **settings)
    for name, value in whole.policy.trained_state().items():
        assert torch.equal(value, resumed.policy.trained_state()[name]), name
    assert isinstance(whole.policy, po.InEnvironment)


@pytest.mark.parametrize("objective", ["rloo", "grpo", "ppo", "tb", "vargrad", "dpg", "rwr"])
def test_objectives_take_a_step(lm, objective):
    target = po.Target(po.InEnvironment(lm, coin, max_turns=2), Luck(), [PROMPT], DEPTH)
    fitted = po.fit(target, objective, steps=1, num_samples=16, seed=0)
    assert fitted.history[0]["kl_to_prior"] == pytest.approx(0.0, abs=1e-5)


def test_the_default_objective_is_one_that_can(lm):
    target = po.Target(po.InEnvironment(lm, coin, max_turns=2), Luck(), [PROMPT], DEPTH)
    assert po.fit(target, steps=1, num_samples=8).objective == "rloo"


@pytest.mark.parametrize("objective", ["soft_q", "subtb"])
def test_objectives_that_read_next_tokens_refuse_it(lm, objective):
    target = po.Target(po.InEnvironment(lm, coin), Luck(), [PROMPT], DEPTH)
    with pytest.raises(ObjectiveError, match="what tokens may come next"):
        po.fit(target, objective, steps=1, num_samples=8)


def test_enumeration_refuses_it(lm):
    with pytest.raises(SpaceTooLargeError, match="environment"):
        po.exact(po.Target(po.InEnvironment(lm, coin), Luck(), [PROMPT], DEPTH))


def test_moves_of_suffixes_refuse_chance(lm):
    target = po.Target(po.InEnvironment(lm, coin), Luck(), [PROMPT], DEPTH)
    with pytest.raises(ModelError, match="replies are random"):
        po.sample(target, "mh", 4, seed=0)


def test_a_bare_policy_is_refused(lm):
    target = po.Target(po.InEnvironment(lm, coin), Luck(), [PROMPT], DEPTH)
    with pytest.raises(ModelError, match="answered by an environment"):
        po.evaluate(target, lm, 10)


def test_completions_of_no_environment_are_refused(lm):
    bare = lm.sample([PROMPT], 2, DEPTH, generator())
    with pytest.raises(ModelError, match="which of their tokens"):
        po.InEnvironment(lm, coin).log_prob(bare)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda episodes: 1 / 0, "ZeroDivisionError"),
        (lambda episodes: [None], "for 12 episodes"),
        (lambda episodes: "yes", "str"),
        (lambda episodes: [3.5] * len(episodes), "no list of token ids"),
    ],
)
def test_what_goes_wrong_in_an_environment_is_said(lm, answer, why):
    ended = replace(lm.completions([PROMPT] * 12, [[EOS]] * 12, DEPTH))
    assert len(ended) == 12
    played = po.InEnvironment(_Ends(lm), answer)
    with pytest.raises(EnvironmentCallError, match=why):
        played.sample([PROMPT], 12, DEPTH, generator())


class _Ends:
    """A model all of whose first turns are over at once."""

    def __init__(self, lm: po.CausalLM) -> None:
        self._lm = lm

    def __getattr__(self, name: str):
        return getattr(self._lm, name)

    def sample(self, prompts, num_samples, max_new_tokens, generator=None):
        rows = [prompts[0]] * num_samples
        made = self._lm.completions(rows, [[EOS]] * num_samples, max_new_tokens)
        return replace(made, token_log_prob_NL=self._lm.token_log_prob(made))


@pytest.mark.parametrize("ids", [[], [WORDS + 50], [-1]])
def test_replies_that_are_no_tokens_are_refused(lm, ids):
    with pytest.raises(po.PosterioriError, match="InEnvironment"):
        po.InEnvironment(_Ends(lm), lambda episodes: [ids] * len(episodes)).sample(
            [PROMPT], 2, DEPTH, generator()
        )
