"""A judge's server that means no good."""

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


PLACES = {
    "another host": "http://localhost:{other}/v1/chat/completions",
    "another port": "http://127.0.0.1:{other}/v1/chat/completions",
    "no scheme": "//localhost:{other}/v1",
    "another path": "/elsewhere",
    "itself": "/v1/chat/completions",
    "https": "https://127.0.0.1:{own}/v1",
    "a file": "file:///etc/passwd",
    "ftp": "ftp://localhost:{other}/",
    "data": "data:application/json,{{}}",
    "a name and password": "http://user:secret@localhost:{other}/",
    "no address": "http://[::1",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", [300, 301, 302, 303, 307, 308])
def test_the_key_follows_no_redirect(server, other_host, monkeypatch, code, place):
    to = PLACES[place].format(own=server.server_port, other=other_host.server_port)
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


DRIPS = {
    "its body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "its headers": b"HTTP/1.1 200 OK\r\nX: ",
    "its status": b"HTTP/1.1 2",
    "the size of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "what it says of an error": b"HTTP/1.1 500 no\r\nContent-Length: 100\r\n\r\n",
    "that it will answer": b"",
}


@pytest.mark.parametrize("what", DRIPS)
def test_an_answer_has_to_be_whole_in_time(server, monkeypatch, what):
    """Byte after byte, each long before the time-out of a socket."""
    piece = b"HTTP/1.1 100 Continue\r\n\r\n" if what == "that it will answer" else b"0"

    def drip(request):
        request.wfile.write(DRIPS[what])
        for _ in range(40):
            request.wfile.write(piece)
            time.sleep(0.1)

    server.answer = drip
    start = time.monotonic()
    wanted = "did not answer" if what == "what it says of an error" else "no whole answer in 0.3"
    with pytest.raises(EvidenceError, match=wanted):
        ask(server, monkeypatch, timeout=0.3)
    assert time.monotonic() - start < 2


def test_an_answer_in_pieces_is_read(server, monkeypatch):
    told = json.dumps({"choices": [{"logprobs": {"content": [GOOD]}}]}).encode()

    def in_pieces(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(told), 20):
            part = told[at : at + 20]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            time.sleep(0.005)
        request.wfile.write(b"0\r\n\r\n")

    server.answer = in_pieces
    assert ask(server, monkeypatch, timeout=5.0).log_evidence.isfinite().all()


def test_an_answer_without_end_is_refused(server, monkeypatch):
    def huge(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(40):
            request.wfile.write(b" " * 2**20)

    server.answer = huge
    with pytest.raises(EvidenceError, match="more than 16 MiB"):
        ask(server, monkeypatch, timeout=20.0)


BOMBS = {
    "brackets": b"[" * 100_000 + b"]" * 100_000,
    "keys": b'{"choices": ' * 10_000 + b"1" + b"}" * 10_000,
    "digits": b'{"choices": ' + b"9" * 1_000_000 + b"}",
    "no text": b"\x1f\x8b\x08" + b"\0" * 1000,
    "half a text": b'{"choices": [',
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_answer_that_is_no_json_is_one_line(server, monkeypatch, name):
    server.answer = lambda request: request.send(200, BOMBS[name])
    with pytest.raises(EvidenceError, match="answered with what is no JSON"):
        ask(server, monkeypatch, timeout=20.0)


def logprobs(**changed):
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": [changed]}]}}]}


STRANGE = {
    "a list": [],
    "a text": "choices",
    "null": None,
    "no choices": {"choices": []},
    "choices of nothing": {"choices": [None]},
    "no logprobs": {"choices": [{"logprobs": None}]},
    "logprobs of a text": {"choices": [{"logprobs": "content"}]},
    "content of nothing": {"choices": [{"logprobs": {"content": [None]}}]},
    "of the other route": {"choices": [{"logprobs": {"top_logprobs": [None]}}]},
    "a list there": {"choices": [{"logprobs": {"top_logprobs": [[1]]}}]},
    "a token that is a number": logprobs(token=5, logprob=-1.0),
    "a token that is a list": logprobs(token=["Yes"], logprob=-1.0),
    "a number beyond all": logprobs(token="Yes", logprob=-(10**400)),
    "infinity": logprobs(token="Yes", logprob=float("inf")),
    "no number": logprobs(token="Yes", logprob=None),
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_answer_of_another_form_is_one_line(server, monkeypatch, name):
    server.answer = lambda request: request.send(200, json.dumps(STRANGE[name]).encode())
    with pytest.raises(EvidenceError, match="has no log-probs"):
        ask(server, monkeypatch)


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


def test_a_schema_fetches_nothing(server):
    schema = {"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}
    with pytest.raises(ConfigError, match="nothing is fetched"):
        po.constraints.json_schema(schema)
    assert server.keys == []
