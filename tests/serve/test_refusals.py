"""What a request may not say, and who may send one."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from served import client, get, post, serving, small_target

from posteriori.errors import ConfigError
from posteriori.serve.keys import Keys, is_loopback, read_keys

BODY = {"model": "small", "prompt": "x"}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"1": 3}}, "logit_bias"),
        ({"echo": True}, "echo"),
        ({"best_of": 5}, "best_of"),
        ({"suffix": "b"}, "suffix"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_k": 5}, "top_k"),
        ({"tools": []}, "tools"),
        ({"temprature": 1}, "temprature"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["x"] * 33}, "prompt"),
        ({"prompt": "unknown to the table"}, "prompt"),
        ({"columns": {"no": 1}}, "columns"),
    ],
)
def test_a_parameter_is_refused_by_its_name(small, more, param):
    refused = post(small, {**BODY, **more})
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param in error["message"] or param == "prompt"
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 1, "top_p": 1.0, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"logit_bias": {}, "echo": False, "best_of": 1, "suffix": None, "user": "me"},
        {"stop": None, "stream": False, "n": None, "max_tokens": None, "logprobs": None},
    ],
)
def test_what_changes_nothing_is_let_through(small, more):
    plain = post(small, {**BODY, "seed": 3}).json()["choices"]
    assert post(small, {**BODY, "seed": 3, **more}).json()["choices"] == plain


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"top_logprobs": 2, "logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_chat_refuses_by_name_too(small, more, param):
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}], **more}
    refused = post(small, body, "/v1/chat/completions")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_another_model(small):
    refused = post(small, {**BODY, "model": "gpt-4"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"
    assert "'small'" in refused.json()["error"]["message"]


def malformed(seed: int) -> list[bytes]:
    """200 bodies that are wrong: broken text, wrong types, odd numbers, deep nesting."""
    noise = random.Random(seed)
    whole = json.dumps({**BODY, "n": 2, "stop": ["a"], "messages": [{"role": "user"}]}).encode()
    odd = [
        *(None, True, -1, 0, 10**30, 1e308, "", "\ud800", "x" * 300, [], [[]], {}, {"a": {}}),
        *([None], ["x", 1], [{"role": 1}], {"include_usage": 3}, "\x00", "\u202e"),
    ]
    found = [b"", b"{", b"[]", b"null", b'"x"', b"1", b"\xff\xfe", b"NaN", b'{"n": NaN}']
    found += [b"[" * 50_000, b'{"a":' * 20_000, b'{"prompt": "\\ud800", "model": "small"}']
    found += [b'{"n": 1' + b"0" * 5000 + b"}", b"\x00" * 100, whole + b"}", whole[1:]]
    names = ("model", "prompt", "n", "seed", "max_tokens", "stop", "stream", "stream_options")
    names += ("logprobs", "columns", "user", "echo", "best_of", "temperature", "logit_bias", "?")
    while len(found) < 200:
        kind = noise.randrange(3)
        if kind == 0:
            found.append(whole[: noise.randrange(len(whole))])
        elif kind == 1:
            spoilt = bytearray(whole)
            for _ in range(noise.randrange(1, 9)):
                spoilt[noise.randrange(len(spoilt))] = noise.randrange(256)
            found.append(bytes(spoilt))
        else:
            body = {**BODY, **{noise.choice(names): noise.choice(odd) for _ in range(3)}}
            found.append(json.dumps(body).encode())
    return found


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/draws"])
def test_malformed_requests_are_never_a_fault_of_the_server(small, path):
    async def story():
        async with client(small) as asking:
            kind = {"Content-Type": "application/json"}
            return [await asking.post(path, content=body, headers=kind) for body in malformed(1)]

    answers = asyncio.run(story())
    assert len(answers) == 200
    codes = {answer.status_code for answer in answers}
    assert codes <= {200, 400, 404}, codes
    assert sum(answer.status_code == 200 for answer in answers) < 40
    for answer in answers:
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
            assert len(answer.json()["error"]["message"]) < 700
    assert get(small, "/health").status_code == 200


def test_other_paths_methods_and_kinds_of_body(small):
    assert get(small, "/nothing").json()["error"]["type"] == "not_found_error"
    assert get(small, "/v1/completions").status_code == 405
    assert get(small, "/openapi.json").status_code == 404

    async def as_text():
        async with client(small) as asking:
            return await asking.post("/v1/completions", content=json.dumps(BODY))

    assert asyncio.run(as_text()).status_code == 415


def test_columns_of_the_run_file_and_of_the_request():
    import posteriori as po

    def wants(completions, word, **kwargs):
        return [float(text.split().count(w)) for text, w in zip(completions, word, strict=True)]

    target = po.Target(
        small_target().prior,
        po.Reward(wants, beta=0.7, max_reward=3.0),
        ["x"],
        3,
        columns={"word": ["b"]},
    )
    with serving(target) as served:
        body = {**BODY, "n": 40, "seed": 1}
        of_file = post(served, body)
        assert of_file.status_code == 200, of_file.text
        same = post(served, {**body, "columns": {"word": "b"}}).json()["choices"]
        other = post(served, {**body, "columns": {"word": "c"}}).json()["choices"]
        unknown = post(served, {**body, "prompt": "y"})
    assert of_file.json()["choices"] == same
    assert sum(c["text"].count("b") for c in same) > 2 * sum(c["text"].count("b") for c in other)
    assert unknown.status_code == 400
    assert unknown.json()["error"]["param"] == "columns"


KEY = "a-key-of-this-test"


def test_keys(capfd):
    with serving(keys=Keys(["another-key", KEY])) as served:
        for wrong in (None, "", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", f"Bearer {KEY[:-1]}"):
            headers = {} if wrong is None else {"Authorization": wrong}
            for path in ("/v1/completions", "/draws", "/v1/chat/completions"):
                refused = post(served, BODY, path, **headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.json()["error"]["code"] == "invalid_api_key"
                assert KEY not in refused.text
            assert get(served, "/v1/models", **headers).status_code == 401
            assert get(served, "/metrics", **headers).status_code == 401
        assert post(served, BODY, Authorization=f"Bearer {KEY}").status_code == 200
        assert get(served, "/metrics", Authorization=f"bearer {KEY}").status_code == 200
        assert get(served, "/health").status_code == 200
        assert get(served, "/").status_code == 200
        assert KEY not in get(served, "/").text
    assert KEY not in repr(Keys([KEY]))
    assert KEY not in "".join(capfd.readouterr())


def test_keys_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("POSTERIORI_SERVE_KEYS", raising=False)
    assert not read_keys(None)
    monkeypatch.setenv("POSTERIORI_SERVE_KEYS", f"  {KEY}\nanother-key ")
    assert read_keys(None).let_in(f"Bearer {KEY}".encode())
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{KEY}\n")
    assert read_keys(file).let_in(f"Bearer {KEY}".encode())
    assert not read_keys(file).let_in(b"Bearer another-key")
    for text in ("", "# only this\n", "short\n", "has a space in it\n"):
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            read_keys(file)
        assert not text.strip() or text.startswith("#") or text.strip() not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_a_server_on_this_machine_has_its_own_names():
    hosts = frozenset(("localhost", "127.0.0.1", "::1"))
    with serving(hosts=hosts) as served:
        assert post(served, BODY, Host="localhost:8000").status_code == 200
        assert get(served, "/health", Host="[::1]:8000").status_code == 200
        stranger = post(served, BODY, Host="evil.example")
    assert stranger.status_code == 403
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")


def test_the_page_asks_only_its_own_server(small):
    answer = get(small, "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http:" not in answer.text.replace("http-equiv", "")
    assert "https:" not in answer.text
    found = post(small, {"prompt": "x", "n": 5, "seed": 1}, "/draws").json()
    assert (len(found["draws"]), len(found["prior"])) == (5, 5)
    assert sum(each["weight"] for each in found["prior"]) == pytest.approx(1.0)
    assert found == post(small, {"prompt": "x", "n": 5, "seed": 1}, "/draws").json()
