"""Reward models: training, saving, and as evidence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import transformers
from helpers import OracleCase, generator, reward, tiny_model, word_tokenizer
from peft import AutoPeftModelForSequenceClassification
from scipy import stats

import posteriori as po
from posteriori.core.settings.training import FitRewardConfig
from posteriori.errors import CheckpointError, ConfigError
from posteriori.models.sequence_classifier import SequenceScorer
from posteriori.reward_models.backbone import load_backbone
from posteriori.reward_models.labelled_pairs import (
    bucketed_batches,
    read_labelled_pairs,
    split_by_prompt,
)
from posteriori.reward_models.reward_trainer import (
    RewardTrainer,
    TokenPairs,
    bootstrap_weights,
    initial_heads,
)
from posteriori.reward_models.simulate_preferences import best_accuracy


@pytest.fixture(scope="module")
def case() -> OracleCase:
    return OracleCase("case_1")


@pytest.fixture(scope="module")
def target(case) -> po.Target:
    """Prompts end in a space, so that prompt and completion are words as one text, too."""
    prompts = [f"{prompt} " for prompt in case.prompts]
    return po.Target(case.prior(), po.Reward(reward, beta=0.5), prompts, 4)


@pytest.fixture(scope="module")
def pairs(target) -> list[dict]:
    return po.simulate_preferences(target, 240, scale=0.3, seed=1)


FALSE_ALARM = 1e-6
QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16, "seed": 0}


@pytest.fixture(scope="module")
def saved(case, pairs, tmp_path_factory):
    """A fitted ensemble and its directory."""
    place = tmp_path_factory.mktemp("reward") / "model"
    return po.fit_reward(
        case.path, pairs, output_dir=place, uncertainty="ensemble", members=4, **QUICK
    )


@pytest.fixture
def completions(target) -> po.Completions:
    return target.prior.sample(target.prompts, 8, 4, generator(3))


def logits_of(path, completions) -> list[float]:
    """One text at a time, by transformers alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return [
        logit_of(model, tokenizer, c + y)
        for c, y in zip(completions.prompts, completions.texts, strict=True)
    ]


def logit_of(model, tokenizer, text) -> float:
    with torch.no_grad():
        return float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0])


class TestSaving:
    def test_loads_in_plain_transformers_and_in_a_reward(self, saved, completions):
        expected = logits_of(saved.output_dir, completions)
        own = saved.model.reward(completions.prompts, completions.texts)
        assert own.tolist() == pytest.approx(expected, abs=1e-5)
        assert np.std(expected) > 0.05
        plain = po.Reward(saved.output_dir, beta=0.5).score(completions, {})
        mean = po.Preferences(saved.output_dir, 0.5).score(completions, {})
        assert plain.reward.tolist() == pytest.approx(expected, abs=1e-5)
        assert torch.allclose(plain.log_evidence, mean.log_evidence, atol=1e-5)

    @pytest.mark.parametrize("kind", ["mean", "marginal", "lower"])
    def test_keeps_the_uncertainty_and_the_temperature(self, saved, completions, kind):
        before = po.Preferences(saved, 0.5, kind).score(completions, {})
        loaded = po.RewardModel.load(saved.output_dir)
        after = po.Preferences(loaded, 0.5, kind).score(completions, {})
        assert torch.allclose(before.log_evidence, after.log_evidence, atol=1e-5)
        assert loaded.temperature == saved.held_out.temperature
        calibrated = po.Preferences(loaded, 0.5, kind, calibrated=True).score(completions, {})
        scaled = po.Preferences(loaded, 0.5 * loaded.temperature, kind).score(completions, {})
        assert torch.allclose(calibrated.log_evidence, scaled.log_evidence)

    def test_leaves_metrics_and_figures_and_no_checkpoint(self, saved):
        about = json.loads((saved.output_dir / "reward.json").read_text())
        lines = (saved.output_dir / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(len(saved.history)))
        assert about["finished"]
        assert about["held_out"]["ece"] == saved.held_out.ece
        assert not (saved.output_dir / "checkpoint").exists()
        with pytest.raises(CheckpointError, match="is not empty"):
            po.fit_reward(
                "tiny",
                [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2,
                held_out_pairs=[{"prompt": "a", "chosen": "b", "rejected": "c"}],
                output_dir=saved.output_dir,
            )

    @pytest.mark.parametrize("merge", [True, False])
    def test_of_an_adapter_merges_it_or_leaves_it(self, case, pairs, completions, tmp_path, merge):
        place = tmp_path / "model"
        fit = po.fit_reward(case.path, pairs, output_dir=place, tuning="lora", merge=merge, **QUICK)
        own = fit.model.reward(completions.prompts, completions.texts)
        if merge:
            assert logits_of(place, completions) == pytest.approx(own.tolist(), abs=1e-5)
            return
        assert (place / "adapter_model.safetensors").exists()
        with torch.random.fork_rng():
            model = AutoPeftModelForSequenceClassification.from_pretrained(place, num_labels=1)
        model.config.pad_token_id = 0
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        texts = [c + y for c, y in zip(completions.prompts, completions.texts, strict=True)]
        found = [logit_of(model.eval(), tokenizer, text) for text in texts]
        assert found == pytest.approx(own.tolist(), abs=1e-5)


class TestTraining:
    def test_a_step_follows_the_hand_gradient_of_every_head(self, case, pairs):
        """d loss / d w_k = mean over pairs and heads of weight_nk (sigmoid(z) - 1) d_n, with the
        bootstrap's weights and one forward pass; the optimiser is plain descent at rate 1."""
        settings = FitRewardConfig(seed=3, max_grad_norm=1e9)
        backbone = load_backbone(case.path, None, 0).requires_grad_(False)
        data = TokenPairs(backbone, read_labelled_pairs(pairs[:12]))
        heads = initial_heads(backbone, 3, seed=3)
        trainer = RewardTrainer(backbone, heads, data, data, settings, print, print)
        rows = [0, 3, 4, 7]
        trainer._update(torch.optim.SGD([trainer.heads_KD], lr=1.0), rows, 0)
        chosen, rejected = data.features(backbone, 4)
        d = (chosen - rejected)[rows]
        weights = bootstrap_weights(12, 3, seed=3)[rows]
        assert len({tuple(row) for row in weights.T.tolist()}) == 3
        pull = weights * torch.sigmoid(-(d @ heads.double().T))
        moved = trainer.heads_KD.detach().double() - heads.double()
        assert torch.allclose(moved, pull.T @ d / (4 * 3), atol=1e-6)
        unweighted = torch.sigmoid(-(d @ heads.double().T)).T @ d / (4 * 3)
        assert not torch.allclose(moved, unweighted, atol=1e-3)

    def test_sees_a_label_and_the_pair_the_other_way_round_as_the_same(self, case, pairs):
        """P(chosen) = 0.3 is P(rejected) = 0.7, with and without label noise."""
        for noise in (0.0, 0.1):
            heads = []
            for label, one, other in ((0.3, "chosen", "rejected"), (0.7, "rejected", "chosen")):
                rows = [
                    {"prompt": r["prompt"], "chosen": r[one], "rejected": r[other], "label": label}
                    for r in pairs
                ]
                fit = po.fit_reward(
                    case.path, rows, tuning="head", prior_precision=1.0, label_noise=noise
                )
                heads.append(fit.model.posterior.mean_D)
            assert torch.allclose(heads[0], heads[1], atol=1e-6)
            assert float(heads[0].norm()) > 0.01

    def test_is_reproducible_bit_for_bit(self, case, pairs, saved):
        again = po.fit_reward(case.path, pairs, uncertainty="ensemble", members=4, **QUICK)
        assert again.history == saved.history
        assert torch.equal(again.model.posterior.deviation_KD, saved.model.posterior.deviation_KD)
        other = po.fit_reward(
            case.path, pairs, uncertainty="ensemble", members=4, **{**QUICK, "seed": 1}
        )
        assert other.history != saved.history

    @pytest.mark.long
    def test_comes_near_the_best_that_label_noise_allows(self, case, target):
        """Of 1000 fresh pairs whoever knows the utility tells a share `best`; their accuracy is
        binomial, so `best` less 4.75 standard errors is its 1e-6 quantile. The model's is above
        chance by more than that, and below the best by less than a tenth."""
        train = po.simulate_preferences(target, 1500, scale=0.3, seed=2)
        fresh = po.simulate_preferences(target, 1000, scale=0.3, seed=3)
        settings = {**QUICK, "epochs": 6, "learning_rate": 5e-3}
        fit = po.fit_reward(case.path, train, held_out_pairs=fresh, **settings)
        best, found = best_accuracy(fresh, scale=0.3), fit.held_out.accuracy.value
        error = stats.norm.isf(FALSE_ALARM) * math.sqrt(0.25 / 1000)
        assert best - 0.1 > 0.5 + error
        assert best - 0.1 < found < best + error

    def test_keeps_the_weights_of_the_lowest_held_out_loss(self, case, pairs):
        fit = po.fit_reward(case.path, pairs, **{**QUICK, "learning_rate": 3e-2, "epochs": 6})
        losses = [record["held_out_loss"] for record in fit.history if "held_out_loss" in record]
        assert fit.held_out.log_loss.value == pytest.approx(min(losses), abs=1e-6)
        assert losses[-1] > min(losses)

    def test_stops_once_the_held_out_loss_has_stopped_falling(self, case, pairs):
        fit = po.fit_reward(
            case.path, pairs, patience=2, evaluate_every=1, epochs=50, learning_rate=3e-2, seed=0
        )
        losses = [record["held_out_loss"] for record in fit.history]
        assert len(losses) < 50 * len(pairs) // 16
        assert min(losses) == losses[-3]

    def test_margins_ask_for_larger_differences(self, case, pairs):
        spread = []
        for margin in (0.0, 2.0):
            rows = [{**row, "margin": margin} for row in pairs]
            fit = po.fit_reward(case.path, rows, tuning="head", prior_precision=0.1, seed=0)
            spread.append(float(fit.model.posterior.mean_D.norm()))
        assert spread[1] > spread[0]

    def test_of_the_head_alone_leaves_the_backbone_and_is_the_mode(self, case, pairs):
        fit = po.fit_reward(case.path, pairs, tuning="head", prior_precision=0.5, seed=0)
        before = transformers.AutoModelForCausalLM.from_pretrained(case.path)
        wte = fit.model.backbone.model.transformer.wte.weight
        assert torch.equal(wte, before.transformer.wte.weight)
        assert fit.history == []
        train, _ = split_by_prompt(read_labelled_pairs(pairs), 0.1, 0)
        chosen = fit.model.features([p.prompt for p in train], [p.chosen for p in train])
        other = fit.model.features([p.prompt for p in train], [p.rejected for p in train])
        mode = fit.model.posterior.mean_D
        misses = torch.sigmoid(-(chosen - other) @ mode)
        assert torch.allclose((chosen - other).T @ misses, 0.5 * mode, atol=1e-5)

    def test_takes_encoders_whose_head_has_a_bias(self, tmp_path, pairs, completions):
        config = transformers.BertConfig(
            vocab_size=6,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            pad_token_id=0,
            max_position_embeddings=32,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            transformers.BertModel(config).save_pretrained(tmp_path / "bert")
        word_tokenizer().save_pretrained(tmp_path / "bert")
        fit = po.fit_reward(
            tmp_path / "bert", pairs, output_dir=tmp_path / "out", uncertainty="laplace", **QUICK
        )
        own = fit.model.reward(completions.prompts, completions.texts)
        assert logits_of(tmp_path / "out", completions) == pytest.approx(own.tolist(), rel=1e-5)

    def test_reads_conversations_through_the_chat_template(self, tmp_path):
        tokenizer = word_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
        tiny_model().save_pretrained(tmp_path / "lm")
        tokenizer.save_pretrained(tmp_path / "lm")
        rows = [
            {
                "prompt": [{"role": "user", "content": word}],
                "chosen": [{"role": "assistant", "content": "b"}],
                "rejected": [{"role": "assistant", "content": "d e"}],
            }
            for word in "abcde" * 4
        ]
        fit = po.fit_reward(tmp_path / "lm", rows, output_dir=tmp_path / "out", epochs=1)
        scorer = SequenceScorer(tmp_path / "out")
        told = scorer([rows[0]["prompt"]], [rows[0]["chosen"]])
        own = fit.model.reward([rows[0]["prompt"]], ["b"])
        assert own.tolist() == pytest.approx(told, abs=1e-5)

    @pytest.mark.parametrize(
        "settings",
        [
            {"members": 3},
            {"prior_precision": 1.0},
            {"merge": False},
            {"label_noise": 0.5},
            {"epochs": 0},
            {"uncertainty": "some"},
            {"epoch": 2},
        ],
    )
    def test_refuses_settings_that_cannot_be_or_have_no_effect(self, pairs, settings):
        with pytest.raises(ConfigError) as caught:
            po.fit_reward("tiny", pairs, **settings)
        assert next(iter(settings)) in str(caught.value)


class TestPreferences:
    def test_refuse_what_the_model_does_not_know(self, case, pairs):
        fit = po.fit_reward(case.path, pairs, tuning="head", prior_precision=1.0, seed=0)
        with pytest.raises(ConfigError, match="no uncertainty, which 'lower' needs"):
            po.Preferences(fit, 1.0, "lower")
        with pytest.raises(ConfigError, match="did you mean 'lower'"):
            po.Preferences(fit, 1.0, "lover")
        with pytest.raises(ConfigError, match="beta"):
            po.Preferences(fit, 0.0)
        with pytest.raises(ConfigError, match="kappa"):
            po.Preferences(fit, 1.0, kappa=-1.0)
        with pytest.raises(ConfigError, match="float is no reward model"):
            po.Preferences(3.0, 1.0)

    def test_are_a_target_and_p_star_does_not_see_a_constant(self, saved, target):
        """Adding a constant to every head's reward moves no posterior."""
        exact = po.exact(po.Target(target.prior, po.Preferences(saved, 0.5), target.prompts, 4))
        assert exact.evaluate_target()["kl_to_target"] == pytest.approx([0, 0, 0], abs=1e-9)
        shifted = [e + 3.7 for e in exact.log_evidence]
        for log_prior, log_e, log_star in zip(
            exact.log_prior, shifted, exact.log_posterior, strict=True
        ):
            assert torch.allclose((log_prior + log_e).log_softmax(0), log_star, atol=1e-9)

    def test_count_the_spread_from_references_of_the_prompt(self, saved, target, completions):
        """At the reference itself, whatever it is, all members agree."""
        rows = torch.arange(0, len(completions), 8)
        one_each = completions.select(rows)
        evidence = po.Preferences(saved, 0.5, "lower", kappa=3.0, references=one_each)
        mean = po.Preferences(saved, 0.5).score(completions, {}).log_evidence
        lower = evidence.score(completions, {}).log_evidence
        assert torch.allclose(lower[rows], mean[rows], atol=1e-9)
        assert bool((lower < mean + 1e-9).all())
        assert float((mean - lower).max()) > 0.01

    def test_scores_do_not_depend_on_the_batch(self, saved, completions):
        evidence = po.Preferences(saved, 0.5, "lower")
        whole = evidence.score(completions, {}).log_evidence
        one = torch.cat(
            [evidence.score(completions.select([i]), {}).log_evidence for i in range(24)]
        )
        assert torch.allclose(whole, one, atol=1e-5)


def test_held_out_prompts_are_not_trained_on():
    rows = [{"prompt": str(i % 7), "chosen": "a", "rejected": f"b {i}"} for i in range(70)]
    pairs = read_labelled_pairs(rows)
    for seed in range(5):
        train, out = split_by_prompt(pairs, 0.2, seed)
        assert len(train) + len(out) == 70
        assert len(out) == 20
        assert not {p.prompt for p in train} & {p.prompt for p in out}
    assert split_by_prompt(pairs, 0.2, 0) != split_by_prompt(pairs, 0.2, 1)
    assert split_by_prompt(pairs, 0.99, 0)[0]


def test_batches_hold_every_row_once_and_texts_of_similar_length():
    lengths = torch.randint(1, 100, (1000,), generator=generator(0)).tolist()
    batches = bucketed_batches(lengths, 8, seed=0, epoch=0)
    assert sorted(row for rows in batches for row in rows) == list(range(1000))

    def padding(parts) -> int:
        return sum(max(lengths[r] for r in p) * len(p) - sum(lengths[r] for r in p) for p in parts)

    shuffled = torch.randperm(1000, generator=generator(1)).split(8)
    assert padding(batches) < 0.1 * padding([part.tolist() for part in shuffled])
    assert batches != bucketed_batches(lengths, 8, seed=0, epoch=1)
    assert batches == bucketed_batches(lengths, 8, seed=0, epoch=0)
