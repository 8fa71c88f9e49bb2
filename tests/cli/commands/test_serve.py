"""`posteriori serve`: what it refuses before anything is loaded, and a server on a real socket."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading

import openai
import pytest

KEY = "a-key-of-this-test"


def serve(job, *arguments: str):
    return job.run("serve", str(job.config), "--quiet", *arguments)


@pytest.mark.usefixtures("nothing_loads")
def test_refused_before_anything_is_loaded(job, monkeypatch):
    monkeypatch.delenv("POSTERIORI_SERVE_KEYS", raising=False)
    open_to_all = serve(job, "--host", "0.0.0.0", "--port", "0")
    assert open_to_all.code == 2
    assert "no API key is asked for" in open_to_all.error
    assert "--keys FILE" in open_to_all.error
    assert "did you mean 'rejection'?" in serve(job, "--sampler", "rejektion").error
    assert "cannot be read" in serve(job, "--keys", str(job.folder / "none")).error
    job.write("keys", "short\n")
    told = serve(job, "--keys", str(job.folder / "keys")).error
    assert "8 or more" in told
    assert "short" not in told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "cannot listen" in serve(job, "--port", str(port)).error


def test_the_openai_client_and_a_graceful_end(job):
    job.write("keys", f"{KEY}\n")
    job.write("my_reward.py", SLOW_REWARD)
    command = [sys.executable, "-m", "posteriori", "serve", str(job.config)]
    command += ["--sampler", "smc", "--num-samples", "64", "--port", "0"]
    command += ["--keys", str(job.folder / "keys"), "--name", "warm"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=job.folder)
    try:
        lines = iter(server.stderr.readline, "")
        url = next(filter(None, (re.search(r"at (http://127\.0\.0\.1:\d+)", x) for x in lines)))
        client = openai.OpenAI(api_key=KEY, base_url=f"{url[1]}/v1", max_retries=0, timeout=60)
        assert [model.id for model in client.models.list()] == ["warm"]

        asked = {"model": "warm", "prompt": "a b", "seed": 1, "n": 3}
        answer = client.completions.create(**asked)
        texts = [choice.text for choice in answer.choices]
        assert len(texts) == 3
        assert answer.posteriori["guarantee"] == "asymptotic"
        assert answer.posteriori["sampler_guarantee"] == "properly_weighted"
        assert answer.posteriori["log_z"][0]["kind"] == "lower_bound"

        pieces = ["", "", ""]
        for chunk in client.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                pieces[choice.index] += choice.text
        assert pieces == texts

        with pytest.raises(openai.BadRequestError, match=r"temperature=0\.2"):
            client.completions.create(**asked, temperature=0.2)
        with pytest.raises(openai.BadRequestError, match="columns"):
            client.completions.create(**{**asked, "prompt": "d"})
        known = {**asked, "prompt": "d", "extra_body": {"columns": {"weight": 1}}}
        assert len(client.completions.create(**known).choices) == 3
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another-key").models.list()

        # What has begun is finished after SIGTERM.
        late = {}
        slow = {**asked, "extra_body": {"columns": {"weight": -1}}}

        def ask() -> None:
            late["texts"] = [choice.text for choice in client.completions.create(**slow).choices]

        asking = threading.Thread(target=ask)
        asking.start()
        assert any("slowly" in line for line in lines)
        server.send_signal(signal.SIGTERM)
        asking.join(30)
        assert len(late["texts"]) == 3
        assert server.wait(30) == 0
        assert KEY not in server.stderr.read()
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


SLOW_REWARD = """\
import sys, time


def score(completion_ids, weight, **kwargs):
    if -1 in weight:
        print("slowly", file=sys.stderr, flush=True)
        time.sleep(1.0)
    return [w * sum(t == 2 for t in y) for w, y in zip(weight, completion_ids)]
"""
