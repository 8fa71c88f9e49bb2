"""A judge's server and a schema that mean no good."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time

import pytest
from helpers import tiny_lm

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError

KEY = "sk-SECRET-123456"
GOOD = {"top_logprobs": [{"token": "Yes", "logprob": -0.5}, {"token": "No", "logprob": -1.0}]}


class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.keys.append(self.headers.get("Authorization"))
        with contextlib.suppress(OSError):
            self.server.answer(self)

    def send(self, code, body, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    yield from served()


@pytest.fixture
def other_host():
    yield from served()


def served():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.keys, made.answer = [], lambda request: request.send(200, b"{}")
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(server, monkeypatch, **settings):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = {"api_key_env": "JUDGE_KEY", "timeout": 0.5, "retries": 0} | settings
    judge = po.Judge.endpoint(url, "m", "Polite?", **settings)
    lm = tiny_lm("llama")
    return judge.score(lm.completions(["a"], [[1, 0]], 2), {})


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_key_follows_no_redirect(server, other_host, monkeypatch, code):
    to = f"http://localhost:{other_host.server_port}/v1/chat/completions"
    server.answer = lambda request: request.send(code, b"", Location=to)
    with pytest.raises(EvidenceError, match=f"refused the request: {code}"):
        ask(server, monkeypatch)
    assert server.keys == [f"Bearer {KEY}"]
    assert other_host.keys == []


@pytest.mark.parametrize("code", [200, 400, 401, 500])
@pytest.mark.parametrize("shift", [0, 385])
def test_no_error_shows_the_key(server, monkeypatch, code, shift):
    body = json.dumps({"error": " " * shift + KEY}).encode()
    server.answer = lambda request: request.send(code, body)
    with pytest.raises(EvidenceError) as caught:
        ask(server, monkeypatch)
    assert KEY[:6] not in str(caught.value)


def test_an_answer_has_to_be_whole_in_time(server, monkeypatch):
    def drip(request):
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b" ")
            time.sleep(0.1)

    server.answer = drip
    start = time.monotonic()
    with pytest.raises(EvidenceError, match="no whole answer in"):
        ask(server, monkeypatch)
    assert time.monotonic() - start < 5


def test_an_answer_without_end_is_refused(server, monkeypatch):
    def huge(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(40):
            request.wfile.write(b" " * 2**20)

    server.answer = huge
    with pytest.raises(EvidenceError, match="more than 16 MiB"):
        ask(server, monkeypatch, timeout=20.0)


@pytest.mark.parametrize("log_p", ["NaN", "50.0", '"x"'])
def test_what_is_no_log_prob_is_refused(server, monkeypatch, log_p):
    told = json.dumps({"choices": [{"logprobs": {"content": [GOOD]}}]}).replace("-0.5", log_p)
    server.answer = lambda request: request.send(200, told.encode())
    with pytest.raises(EvidenceError, match="has no log-probs"):
        ask(server, monkeypatch)


@pytest.mark.parametrize(
    "url", [f"http://user:{KEY}@h/v1", "http://[::1", "http://h:99999/", "file:///x", "http://a b"]
)
def test_an_address_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(ConfigError) as caught:
        po.Judge.endpoint(url, "m", "Polite?")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r", "\u0416"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(server, monkeypatch, end):
    monkeypatch.setenv("KEY_2", KEY + end)
    with pytest.raises(ConfigError, match="the key in KEY_2") as caught:
        ask(server, monkeypatch, api_key_env="KEY_2")
    assert KEY not in str(caught.value)


def allows(schema, text):
    table = po.TabularLM.random(["<eos>", text], 1, ["p"], seed=0)
    target = po.Target(table, po.constraints.json_schema(schema), ["p"], 1)
    return target.score(table.completions(["p"], [[1]], 1)).reward.tolist() == [1.0]


def test_a_schema_fetches_nothing(server):
    schema = {"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}
    with pytest.raises(ConfigError, match="nothing is fetched"):
        allows(schema, '"x"')
    assert server.keys == []


@pytest.mark.parametrize("ref", ["#/$defs/none", "other.json", "#"])
def test_a_reference_that_leads_nowhere_is_an_error(ref):
    with pytest.raises(EvidenceError, match="the schema refers to"):
        allows({"$ref": ref}, '"x"')


def test_a_pattern_is_stopped_or_fast():
    trap = {"type": "string", "pattern": "^((a|b)*(a|ab)*)*$"}
    start = time.monotonic()
    with contextlib.suppress(EvidenceError):
        assert not allows(trap, '"' + "ab" * 30 + 'c"')
    assert time.monotonic() - start < 10


def test_patterns_mean_what_they_did():
    assert allows({"type": "string", "pattern": "b+"}, '"abc"')
    assert not allows({"type": "string", "pattern": "^b+"}, '"abc"')
    named = {"patternProperties": {"^n": {"type": "number"}}}
    assert allows(named, '{"n": 1, "m": "x"}')
    assert not allows(named, '{"n": "x"}')
