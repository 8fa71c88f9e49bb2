"""One torch thread a worker, fixtures, and a guard on torch's global state."""

from __future__ import annotations

import os

# Before torch is imported, and inherited by the processes that tests start: two busy torch
# processes with as many threads as cores slow each other down a hundredfold.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}

import pytest
import torch
from helpers import CASES, PROMPTS, WORDS, OracleCase, tiny_lm

import posteriori as po

torch.set_num_threads(1)


def _global_state() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random state": torch.get_rng_state().numpy().tobytes(),
    }


def pytest_configure(config):
    config.addinivalue_line("markers", "moves_rng: this test is meant to move torch's global RNG")
    config.addinivalue_line("markers", "long: of tens of seconds, begun before all others")


def pytest_collection_modifyitems(items):
    """Long tests come first: at the end one worker would wait for another's."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With POSTERIORI_TOOLS=required a skipped test fails, with =browser one of `tests/browser`.

    A test that is skipped wants a tool: a browser, a shell, an optional package. Where all of them
    are said to be installed, what is missing would go unseen.
    """
    report = yield
    wanted = os.environ.get("POSTERIORI_TOOLS", "")
    if wanted not in ("", "browser", "required"):
        raise pytest.UsageError(f"POSTERIORI_TOOLS={wanted!r}: write required, or browser")
    concerned = wanted == "required" or (wanted and "browser" in item.path.parts)
    if report.skipped and not hasattr(report, "wasxfail") and concerned:
        report.outcome = "failed"
        report.longrepr = f"skipped, and POSTERIORI_TOOLS={wanted}: {report.longrepr[-1]}"
    return report


@pytest.fixture(autouse=True)
def leaves_torch_as_it_was(request):
    """Fails a test after which torch's global state is another: the library must not touch it."""
    before = _global_state()
    yield
    after = _global_state()
    if request.node.get_closest_marker("moves_rng"):
        del before["random state"]
    changed = [name for name, value in before.items() if value != after[name]]
    assert not changed, f"the test changed torch's global {', '.join(changed)}"


@pytest.fixture(params=CASES)
def case(request) -> OracleCase:
    """Each of the oracle's cases."""
    return OracleCase(request.param)


@pytest.fixture
def case_1() -> OracleCase:
    return OracleCase("case_1")


@pytest.fixture
def table() -> po.TabularLM:
    """A random table: four tokens, three steps, two prompts."""
    return po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)


@pytest.fixture
def gpt2() -> po.CausalLM:
    return tiny_lm("gpt2")


@pytest.fixture
def prompts() -> list[str]:
    """Three prompts of different lengths."""
    return list(PROMPTS)
