"""llama.cpp for real: `make test-engines`, in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_gguf import write_tiny_gguf

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import EngineError

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.engines, pytest.mark.filterwarnings("ignore")]

PROMPTS = ["a b", "c", "d e a c"]
LENGTH = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def many_a(completions: list[str], **_: object) -> list[float]:
    return [float(len(set(text) & set("aeiou"))) for text in completions]


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "8 bits"])
def file(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return write_tiny_gguf(folder / "tiny.gguf", quantised=request.param, scale=0.3)


@pytest.fixture
def target(file) -> po.Target:
    return po.Target(po.load(file), po.Reward(many_a, beta=1.0), PROMPTS, LENGTH)


@pytest.fixture
def engine(target, file):
    with po.Engine(target.prior, "llama.cpp", gguf=str(file), slots=4) as started:
        yield started


def run(target: po.Target, engine: po.Engine, policy: str, **given) -> po.Fit:
    settings = {"steps": 4, "num_samples": 8, "policy": policy, "seed": 0, "sampler": engine}
    return po.fit(target, "rloo", **settings, **given)


def error_of(engine: po.Engine, lm: po.CausalLM) -> float:
    """Of the log-probs of fresh draws, nats per token."""
    drawn = engine.standing_for(lm).sample(PROMPTS, 20, LENGTH, seeded())
    own_NL = lm.token_log_prob(drawn).detach()
    difference = (drawn.token_log_prob_NL - own_NL)[drawn.mask_NL]
    return float(difference.square().mean().sqrt())


def test_its_log_probs_are_the_model_s(engine, target):
    assert error_of(engine, target.prior) < engine._session._backend.tolerance / 3


def test_draws_and_scores_agree(engine):
    """The log-probs that come with draws are those of the same texts, token by token. Eight bits
    round otherwise for many rows than for one."""
    drawn = engine.sample(PROMPTS, 6, LENGTH, seeded())
    again_NL = engine._session.score(engine.lm, drawn)
    apart_M = (again_NL - drawn.token_log_prob_NL)[drawn.mask_NL]
    assert float(apart_M.square().mean().sqrt()) < engine._session._backend.tolerance / 3


def test_more_samples_than_slots_are_all_different_draws(engine):
    drawn = engine.sample(PROMPTS[:1], 40, LENGTH, seeded())
    assert len({tuple(ids) for ids in drawn.completion_ids}) == 40


def test_an_adapter_reaches_it(engine, target):
    """One that changes log-probs by far more than both sides differ, on every linear layer."""
    engine.sample(PROMPTS, 8, LENGTH, seeded())
    policy = target.prior.as_policy("lora", LoraSettings(rank=4, target_modules="all-linear"), 0)
    with torch.no_grad():
        for name, tensor in policy.model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0.0, 0.1, generator=seeded(1))
    assert error_of(engine, policy) < engine._session._backend.tolerance / 3
    drawn = target.prior.sample(PROMPTS, 20, LENGTH, seeded())
    moved_N = policy.log_prob(drawn).detach() - drawn.log_prob_N
    assert float(moved_N.abs().mean()) > 0.3


def test_every_update_is_taken(engine, target):
    fitted = run(target, engine, "lora", learning_rate=3e-3)
    assert engine._session.updates == 4
    assert engine._session.reloads == 0
    for record in fitted.history:
        assert record["engine_ess"] > 0.9


def test_weights_that_a_file_does_not_have_are_refused(engine, target):
    with pytest.raises(EngineError, match="have changed"):
        run(target, engine, "full", learning_rate=1e-2)


def test_another_file_is_refused(target, tmp_path):
    other = write_tiny_gguf(tmp_path / "other.gguf", quantised=False, scale=0.5)
    with (
        po.Engine(target.prior, "llama.cpp", gguf=str(other)) as engine,
        pytest.raises(EngineError, match="after loading them twice"),
    ):
        engine.sample(PROMPTS, 8, LENGTH, seeded())


def test_what_is_no_gguf_file_is_refused(target, tmp_path):
    for name, content in (("text.gguf", b"no model"), ("empty.gguf", b"")):
        (tmp_path / name).write_bytes(content)
        engine = po.Engine(target.prior, "llama.cpp", gguf=str(tmp_path / name))
        with pytest.raises(EngineError, match="no GGUF file"):
            engine.sample(PROMPTS, 1, LENGTH, seeded())
    engine = po.Engine(target.prior, "llama.cpp", gguf=str(tmp_path / "absent.gguf"))
    with pytest.raises(EngineError, match="there is no file"):
        engine.sample(PROMPTS, 1, LENGTH, seeded())
