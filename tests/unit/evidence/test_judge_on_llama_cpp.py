"""Judge against a real OpenAI-compatible server: llama.cpp's own, holding SmolLM2."""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import posteriori as po

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
QUESTION = "Is this text about food?"
YES, NO = ["Yes", "yes"], ["No", "no"]
ENDS = [" great, I love the soup.", " on fire.", " a place to eat bread.", " my father's idea."]
SERVER = """
import sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.warmup = sys.argv[1], 2048, 2, False
server = xllamacpp.Server(p)
print("listening", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    pytest.importorskip("xllamacpp", reason="make test-slow installs it")
    sys.path.insert(0, str(ROOT / "scripts"))
    from fetch_smollm2 import fetch_gguf

    return fetch_gguf(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def url(gguf) -> Iterator[str]:
    command = [sys.executable, "-c", SERVER, str(gguf)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        said = (line.split() for line in server.stdout)
        yield next(words[1] for words in said if words[:1] == ["listening"]) + "/v1"
        server.kill()


@pytest.fixture(scope="module")
def smollm2(gguf):
    return po.load(gguf, dtype="float32")


def completions(lm):
    ids = [lm.tokenizer.encode(end, add_special_tokens=False) for end in ENDS]
    return lm.completions(["The restaurant is"] * len(ENDS), ids, 16)


def asked(url: str, text: str) -> dict[str, float]:
    """The first tokens of the answer, by a request of our own."""
    where = urlsplit(url)
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 1.0}
    body |= {"logprobs": True, "top_logprobs": 100}
    headers = {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(where.netloc, timeout=120)) as connection:
        connection.request("POST", f"{where.path}/chat/completions", json.dumps(body), headers)
        answer = json.loads(connection.getresponse().read())
    told = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {each["token"]: each["logprob"] for each in told}


def test_it_is_the_renormalised_probability_that_the_server_tells(url, smollm2):
    judge = po.Judge.endpoint(url, "smollm2", QUESTION, YES, NO, top_logprobs=100)
    drawn = completions(smollm2)
    found = judge.score(drawn, {}).log_evidence
    for prompt, text, log_e in zip(drawn.prompts, drawn.texts, found.tolist(), strict=True):
        told = asked(url, judge.text(prompt, text))
        yes, no = (
            sum(math.exp(log_p) for token, log_p in told.items() if token.strip() in answers)
            for answers in (YES, NO)
        )
        # The server may batch the two requests differently, in eight-bit activations.
        assert log_e == pytest.approx(math.log(yes / (yes + no)), abs=1e-2)
    assert judge.findings == ()


def test_it_agrees_with_the_same_model_run_here(url, smollm2):
    """llama.cpp multiplies four-bit weights by eight-bit activations, and transformers float32:
    0.02 of a probability near one half, and the sign of a preference where it is clear."""
    drawn = completions(smollm2)
    local = po.Judge(smollm2, QUESTION, YES, NO).score(drawn, {}).reward
    served = po.Judge.endpoint(url, "smollm2", QUESTION, YES, NO, top_logprobs=100)
    assert (served.score(drawn, {}).reward - local).abs().max() < 0.05


def test_the_other_route_is_understood(url, smollm2):
    """llama.cpp answers `completions` in the form of chats; the prompt goes without a template."""
    drawn = completions(smollm2)
    judge = po.Judge.endpoint(
        url, "smollm2", QUESTION, YES, NO, api="completions", top_logprobs=100
    )
    scores = judge.score(drawn, {})
    assert bool((scores.log_evidence < 0).all())
    assert len(scores.log_evidence.unique()) == len(ENDS)
