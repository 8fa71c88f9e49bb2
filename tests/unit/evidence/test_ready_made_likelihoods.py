"""Ready-made likelihoods: what they return against the same thing computed one by one."""

from __future__ import annotations

import json
import math

import joblib
import pytest
import torch
import transformers
from helpers import tiny_bert

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError, ModelError, UnknownNameError

IDS = [[1, 0], [2, 2, 0], [0], [3, 1, 2]]
TEXTS = ["a", "b b", "", "c a b"]
LABELS = {0: "angry", 1: "calm", 2: "other"}


@pytest.fixture
def completions(gpt2) -> po.Completions:
    return gpt2.completions(["a ", "a ", "c d ", "c d "], IDS, 3)


def probabilities(likelihood, completions) -> list[float]:
    scores = likelihood.score(completions, {})
    assert torch.equal(scores.log_evidence, scores.reward.log())
    return scores.reward.tolist()


class TestClassifiers:
    @pytest.fixture(params=["single_label_classification", "multi_label_classification", None])
    def folder(self, request, tmp_path):
        return tiny_bert(
            "AutoModelForSequenceClassification",
            tmp_path,
            num_labels=3,
            id2label=LABELS,
            label2id={name: at for at, name in LABELS.items()},
            problem_type=request.param,
            max_position_embeddings=16,
        )

    @torch.no_grad()
    def one_by_one(self, folder, texts) -> torch.Tensor:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
        several = model.config.problem_type == "multi_label_classification"
        stacked = torch.stack(logits).double()
        return stacked.sigmoid() if several else stacked.softmax(-1)

    @pytest.mark.parametrize("label", ["calm", 1])
    def test_give_a_labels_probability(self, folder, completions, label):
        likelihood = po.likelihoods.classifier(folder, label, batch_size=3)
        texts = [p + c for p, c in zip(completions.prompts, TEXTS, strict=True)]
        expected = self.one_by_one(folder, texts)[:, 1].tolist()
        assert max(expected) - min(expected) > 0.01
        assert probabilities(likelihood, completions) == pytest.approx(expected, abs=1e-6)

    def test_read_the_completion_alone_when_told(self, folder, completions):
        some = completions.select([0, 1, 3])
        likelihood = po.likelihoods.classifier(folder, "calm", read="completion")
        expected = self.one_by_one(folder, some.texts)[:, 1].tolist()
        assert probabilities(likelihood, some) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("label", ["calms", 3, -1, True])
    def test_know_their_labels(self, folder, label):
        message = "did you mean 'calm'" if label == "calms" else "known: angry, calm, other"
        with pytest.raises(UnknownNameError, match=message):
            po.likelihoods.classifier(folder, label)

    def test_are_no_regressions(self, tmp_path):
        tiny_bert(
            "AutoModelForSequenceClassification", tmp_path, num_labels=1, max_position_embeddings=16
        )
        with pytest.raises(ModelError, match=r"single score.*Reward\(model, beta\)"):
            po.likelihoods.classifier(tmp_path, 0)

    def test_have_to_be_there(self, tmp_path):
        with pytest.raises(ModelError, match=r"likelihoods.classifier: cannot load"):
            po.likelihoods.classifier(tmp_path / "nothing", 0)


class TestPipelines:
    @pytest.fixture
    def pipeline(self):
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        made = make_pipeline(CountVectorizer(token_pattern=r"\w"), LogisticRegression())
        return made.fit(["a", "a a", "b", "b c"], ["good", "good", "bad", "bad"])

    def test_are_asked_once_for_all_texts(self, pipeline, completions, tmp_path, monkeypatch):
        expected = pipeline.predict_proba(TEXTS)[:, list(pipeline.classes_).index("good")].tolist()
        calls = []
        asked = pipeline.predict_proba
        monkeypatch.setattr(
            type(pipeline), "predict_proba", lambda _, texts: calls.append(texts) or asked(texts)
        )
        likelihood = po.likelihoods.sklearn(pipeline, "good", read="completion")
        assert probabilities(likelihood, completions) == pytest.approx(expected, rel=1e-12)
        assert calls == [TEXTS]

    def test_come_from_a_file_too(self, pipeline, completions, tmp_path):
        joblib.dump(pipeline, tmp_path / "good.joblib")
        ours, theirs = (
            probabilities(po.likelihoods.sklearn(each, "good"), completions)
            for each in (tmp_path / "good.joblib", pipeline)
        )
        assert ours == theirs

    def test_are_refused_where_they_have_no_such_probability(self, pipeline, tmp_path):
        from sklearn.svm import LinearSVC

        with pytest.raises(UnknownNameError, match="did you mean 'good'"):
            po.likelihoods.sklearn(pipeline, "goods")
        with pytest.raises(ConfigError, match=r"has no predict_proba.*CalibratedClassifierCV"):
            po.likelihoods.sklearn(LinearSVC(), "good")
        with pytest.raises(ModelError, match="there is no file"):
            po.likelihoods.sklearn(tmp_path / "nothing.joblib", "good")
        (tmp_path / "text.joblib").write_text("hello")
        with pytest.raises(ModelError, match="cannot be loaded"):
            po.likelihoods.sklearn(tmp_path / "text.joblib", "good")


class TestWords:
    def test_are_a_noisy_or(self, completions):
        p = {"a": 0.25, "B": 0.5}
        none = po.likelihoods.words(p)
        assert probabilities(none, completions) == pytest.approx(
            [0.75, 0.5 * 0.5, 1.0, 0.75 * 0.5], rel=1e-12
        )
        some = po.likelihoods.words(p, observed="some")
        assert probabilities(some, completions) == pytest.approx(
            [0.25, 0.75, 0.0, 1 - 0.75 * 0.5], rel=1e-12
        )
        assert probabilities(po.likelihoods.words(p, case_sensitive=True), completions) == [
            pytest.approx(each) for each in (0.75, 1.0, 1.0, 0.75)
        ]

    def test_that_are_always_noticed_rule_out(self, completions):
        likelihood = po.likelihoods.words({"b": 1.0})
        assert probabilities(likelihood, completions) == [1.0, 0.0, 1.0, 0.0]

    @pytest.mark.parametrize(
        ("words", "message"),
        [({}, "there are no words"), ({"a": 1.5}, "is 1.5"), ({"": 0.5}, "is no word")],
    )
    def test_that_make_no_sense_are_refused(self, words, message):
        with pytest.raises(ConfigError, match=message):
            po.likelihoods.words(words)


class TestSimilarity:
    @torch.no_grad()
    def one_by_one(self, folder, texts) -> torch.Tensor:
        model = transformers.AutoModel.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        means = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            for text in texts
        ]
        return torch.nn.functional.normalize(torch.stack(means).double(), dim=-1)

    def test_is_a_logistic_function_of_the_nearest_cosine(self, tmp_path, completions):
        folder = tiny_bert("AutoModel", tmp_path, max_position_embeddings=16)
        some = completions.select([0, 1, 3])
        likelihood = po.likelihoods.similarity(
            ["d e", "b"], folder, threshold=0.2, temperature=0.5, batch_size=2
        )
        cosine = self.one_by_one(folder, some.texts) @ self.one_by_one(folder, ["d e", "b"]).T
        expected = [1 / (1 + math.exp(-(c - 0.2) / 0.5)) for c in cosine.amax(-1).tolist()]
        assert max(expected) - min(expected) > 0.01
        assert probabilities(likelihood, some) == pytest.approx(expected, abs=1e-5)

    def test_takes_any_function_of_texts(self, completions):
        def embed(texts):
            return [[text.count("a"), text.count("b") + 1e-9] for text in texts]

        p = probabilities(po.likelihoods.similarity("a", embed), completions.select([0, 1]))
        sure, opposite = 1 / (1 + math.exp(-5)), 1 / (1 + math.exp(5))
        assert p == pytest.approx([sure, opposite], abs=1e-6)

    def test_refuses_what_makes_no_sense(self, tmp_path):
        folder = tiny_bert("AutoModel", tmp_path, max_position_embeddings=16)
        with pytest.raises(ConfigError, match="no text to compare with"):
            po.likelihoods.similarity([], folder)
        with pytest.raises(ConfigError, match="temperature positive"):
            po.likelihoods.similarity("a", folder, temperature=0.0)
        with pytest.raises(EvidenceError, match=r"has the shape \(3,\)"):
            po.likelihoods.similarity("a", lambda texts: [1.0, 2.0, 3.0])
        with pytest.raises(ModelError, match="cannot load an encoder"):
            po.likelihoods.similarity("a", tmp_path / "nothing")
        (tmp_path / "1_Pooling").mkdir()
        pooling = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        with pytest.raises(ModelError, match="does not pool by the mean"):
            po.likelihoods.similarity("a", folder)


def test_are_a_target_with_an_exact_bound(table):
    """Rejection from the prior is exact, because a probability is at most 1."""
    target = po.Target(table, po.likelihoods.words({"a": 0.9}), table.prompts, 3)
    assert target.max_log_evidence == 0.0
    assert po.sample(target, "rejection", 10, seed=0).guarantee == "exact"


def test_read_conversations(gpt2):
    gpt2.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    completions = gpt2.completions([[{"role": "user", "content": "a a"}]], [[2, 2, 0]], 3)
    likelihood = po.likelihoods.words({"a": 0.5, "b": 0.5}, read="both")
    assert probabilities(likelihood, completions) == pytest.approx([0.5**4])
    with pytest.raises(ConfigError, match="neither 'both' nor 'completion'"):
        po.likelihoods.words({"a": 0.5}, read="all")
