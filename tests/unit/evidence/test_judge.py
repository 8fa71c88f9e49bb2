"""A language model as a judge: a local one against plain forward passes, and one behind a server on
loopback, which speaks OpenAI's format over the same model, against the local one."""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from helpers import generator, tiny_lm

import posteriori as po
from posteriori.errors import ConfigError, EvidenceCallError, EvidenceError, ModelError, PromptError

IDS = [[1, 0], [2, 2, 0], [0], [3, 1, 2]]
TEMPLATE = "{prompt} {completion} d"
CHAT = "{% for m in messages %}e {{ m['content'] }} {% endfor %}c"


@pytest.fixture
def judge_lm() -> po.CausalLM:
    return tiny_lm("llama", seed=3).in_float64()


@pytest.fixture
def completions(gpt2) -> po.Completions:
    return gpt2.completions(["a", "a", "c d", "c d"], IDS, 3)


@torch.no_grad()
def next_token(lm: po.CausalLM, text: str, *, chat: bool) -> torch.Tensor:
    """log p of the next token [V], by one plain pass."""
    if chat:
        message = [{"role": "user", "content": text}]
        ids = lm.tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_dict=True
        )["input_ids"]
    else:
        ids = lm.tokenizer(text)["input_ids"]
    return lm.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def expected(lm, completions, yes, no, *, chat=False) -> list[float]:
    rows = []
    for prompt, text in zip(completions.prompts, completions.texts, strict=True):
        told = TEMPLATE.format(prompt=prompt, completion=text)
        log_p = next_token(lm, told if chat else f"{told}\nAnswer:", chat=chat)
        log_yes = log_p[yes].logsumexp(-1)
        rows.append(float(log_yes - torch.logaddexp(log_yes, log_p[no].logsumexp(-1))))
    return rows


class TestLocal:
    @pytest.mark.parametrize("chat", [False, True])
    def test_is_the_renormalised_probability_of_yes(self, judge_lm, completions, chat):
        judge_lm.tokenizer.chat_template = CHAT if chat else None
        judge = po.Judge(judge_lm, "", "a", "b", TEMPLATE)
        scores = judge.score(completions, {})
        wanted = expected(judge_lm, completions, [1], [2], chat=chat)
        assert max(wanted) - min(wanted) > 0.01
        assert scores.log_evidence.tolist() == pytest.approx(wanted, abs=1e-6)
        assert torch.equal(scores.reward, scores.log_evidence.exp())

    def test_sums_over_spellings_and_leaves_out_what_they_share(self, judge_lm, completions):
        judge = po.Judge(judge_lm, "", ["a", "c", "d"], ["b", "d"], TEMPLATE)
        wanted = expected(judge_lm, completions, [1, 3], [2])
        assert judge.score(completions, {}).log_evidence.tolist() == pytest.approx(wanted, abs=1e-6)

    def test_asks_about_no_text_twice(self, judge_lm, completions):
        judge = po.Judge(judge_lm, "", "a", "b", TEMPLATE)
        twice = po.Completions.concat([completions, completions])
        first = judge.score(twice, {}).log_evidence
        assert torch.equal(judge.score(twice, {}).log_evidence, first)
        assert (judge.counts.calls, judge.counts.cache_hits) == (1, 4 + 8)

    def test_tells_prompt_question_and_answers(self, judge_lm):
        judge = po.Judge(judge_lm, "Is it polite?", "a", "b")
        told = "Text: Hi there\n\nQuestion: Is it polite? Answer with a or b."
        assert judge.text("Hi ", "there") == told
        chat = [{"role": "user", "content": "Hi"}]
        assert judge.text(chat, "there").startswith("Text: user: Hi\nassistant: there\n")

    def test_is_evidence_like_any_other(self, judge_lm, gpt2):
        """On a target: log Z by enumeration equals the sum over outcomes of prior x p(yes)."""
        judge = po.Judge(judge_lm, "", "a", "b", TEMPLATE)
        target = po.Target(gpt2, judge, ["a"], 2)
        exact = po.exact(target)
        outcomes = exact.outcomes[0]
        log_e = torch.tensor(expected(judge_lm, outcomes, [1], [2]))
        log_z = float((gpt2.log_prob(outcomes) + log_e).logsumexp(-1))
        assert float(exact.log_z[0]) == pytest.approx(log_z, abs=1e-5)
        assert target.max_log_evidence == 0.0
        assert len(po.fit(target, "rloo", steps=1, num_samples=4).history) == 1

    def test_comes_from_a_path_too(self, tmp_path, judge_lm, completions):
        judge_lm.save_pretrained(tmp_path)
        ours, theirs = (
            po.Judge(each, "", "a", "b", TEMPLATE).score(completions, {}).log_evidence
            for each in (tmp_path, judge_lm)
        )
        assert torch.allclose(ours, theirs, atol=1e-6)
        with pytest.raises(ModelError):
            po.Judge(tmp_path / "nothing", "")

    def test_the_bundled_model_tells_yes_from_no(self):
        prior = po.load("tiny")
        judge = po.Judge("tiny", "Is it good?")
        log_e = judge.score(prior.sample(["The food"], 3, 5, generator()), {}).log_evidence
        assert bool((log_e < 0).all())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("a", "a"), "with the same token"),
            (("Yes", "No"), "does not know them"),
            (("", "b"), "yes='' is no answer"),
            (("a", []), r"no=\[\] is no answer"),
            (("a", "b", "{prompt}"), r"no \{completion\}"),
            (("a", "b", "{completion} {text}"), "cannot be filled in: KeyError 'text'"),
        ],
    )
    def test_refuses_what_cannot_be_asked(self, judge_lm, arguments, message):
        with pytest.raises(ConfigError, match=message):
            po.Judge(judge_lm, "", *arguments)

    def test_needs_a_tokenizer(self, table):
        with pytest.raises(ConfigError, match="TabularLM has no tokenizer"):
            po.Judge(table, "")

    def test_says_when_a_text_is_too_long(self, judge_lm, completions):
        judge = po.Judge(judge_lm, "", "a", "b", "a " * 40 + "{completion}")
        with pytest.raises(PromptError, match="context holds 32"):
            judge.score(completions, {})


class Server:
    """OpenAI's two routes over a local model; `trouble` may answer a request instead."""

    def __init__(self, lm: po.CausalLM) -> None:
        self.lm, self.requests, self.keys = lm, [], []
        self.trouble = lambda _: None
        self.lock = threading.Lock()

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        chat = path.endswith("/chat/completions")
        text = body["messages"][0]["content"] if chat else body["prompt"]
        with self.lock:
            log_p = next_token(self.lm, text, chat=chat)
        top = log_p.topk(min(body["top_logprobs" if chat else "logprobs"], len(log_p)))
        rows = [
            (self.lm.tokenizer.convert_ids_to_tokens(i), p)
            for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        if chat:
            told = [{"token": token, "logprob": p} for token, p in rows]
            logprobs = {"content": [{"token": rows[0][0], "top_logprobs": told}]}
        else:
            logprobs = {"tokens": [rows[0][0]], "top_logprobs": [dict(rows)]}
        return 200, {"choices": [{"index": 0, "logprobs": logprobs}]}


@contextmanager
def serving(server: Server):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            server.keys.append(self.headers.get("Authorization"))
            status, answer = server.trouble(body) or server.answer(self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_):
            """A client that gave up is no news."""

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()
        thread.join()


@pytest.fixture
def server(judge_lm):
    judge_lm.tokenizer.chat_template = CHAT
    return Server(judge_lm)


@pytest.fixture
def url(server):
    with serving(server) as where:
        yield where


def remote(url, yes="a", no="b", **settings) -> po.Judge:
    return po.Judge.endpoint(
        url, "tiny", "", yes, no, TEMPLATE, **({"retries": 2, "backoff": 0.0} | settings)
    )


class TestEndpoint:
    @pytest.mark.parametrize("api", ["chat", "completions"])
    @pytest.mark.parametrize(("yes", "no"), [("a", "b"), (["a", "c"], ["b"])])
    def test_agrees_with_the_local_judge(self, server, url, completions, api, yes, no):
        ours = remote(url, yes, no, api=api).score(completions, {}).log_evidence
        if api == "completions":
            server.lm.tokenizer.chat_template = None
        theirs = po.Judge(server.lm, "", yes, no, TEMPLATE).score(completions, {}).log_evidence
        assert torch.allclose(ours, theirs, atol=1e-6, rtol=0)
        assert len(server.requests) == len(completions)
        assert all(request["max_tokens"] == 1 for request in server.requests)

    def test_asks_about_no_text_twice(self, server, url, completions):
        judge = remote(url)
        first = judge.score(completions, {}).log_evidence
        assert torch.equal(judge.score(completions, {}).log_evidence, first)
        assert len(server.requests) == len(completions)

    def test_asks_side_by_side(self, server, url, completions):
        """Four answers of 0.2 s: 0.8 s one after another, 0.2 s beside each other."""
        server.trouble = lambda _: time.sleep(0.2)
        start = time.perf_counter()
        remote(url, workers=4).score(completions, {})
        assert time.perf_counter() - start < 0.7

    def test_sends_the_key_that_it_is_told_and_no_other(
        self, server, url, completions, monkeypatch
    ):
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        remote(url).score(completions, {})
        assert set(server.keys) == {None}
        server.keys.clear()
        remote(url, api_key_env="OPENAI_API_KEY").score(completions, {})
        assert set(server.keys) == {"Bearer secret"}
        with pytest.raises(ConfigError, match="the environment has no MY_KEY"):
            remote(url, api_key_env="MY_KEY")

    def test_tries_again_when_the_server_is_busy(self, server, url, completions):
        statuses = iter([503, 429])
        server.trouble = lambda _: next(((each, {}) for each in statuses), None)
        wanted = expected(server.lm, completions, [1], [2], chat=True)
        log_e = remote(url, workers=1).score(completions, {}).log_evidence
        assert log_e.tolist() == pytest.approx(wanted, abs=1e-6)
        assert len(server.requests) == len(completions) + 2

    @pytest.mark.parametrize(
        ("trouble", "kind", "message"),
        [
            ((503, {"error": "loading"}), EvidenceCallError, r"in 3 tries.*503.*loading"),
            ((401, {"error": "bad key"}), EvidenceError, r"refused the request: 401.*bad key"),
            ((200, b"<html>"), EvidenceError, "is no JSON"),
            ((200, {"choices": [{"logprobs": None}]}), EvidenceError, r"no log-probs.*logits_all"),
            ((200, {"error": "?"}), EvidenceError, "no log-probs"),
        ],
    )
    def test_says_what_is_wrong_with_the_server(
        self, server, url, completions, trouble, kind, message
    ):
        server.trouble = lambda _: trouble
        with pytest.raises(kind, match=message):
            remote(url).score(completions, {})

    def test_gives_up_on_a_server_that_hangs(self, server, url, completions):
        server.trouble = lambda _: time.sleep(5)
        start = time.perf_counter()
        with pytest.raises(EvidenceCallError, match=r"did not answer in 1 tries.*TimeoutError"):
            remote(url, timeout=0.2, retries=0).score(completions, {})
        assert time.perf_counter() - start < 4

    def test_says_when_nobody_listens(self, completions, server):
        with serving(server) as where:
            gone = where
        with pytest.raises(EvidenceCallError, match=r"did not answer.*is the server running"):
            remote(gone).score(completions, {})

    def test_says_when_neither_answer_is_told(self, url, completions):
        with pytest.raises(EvidenceError, match=r"neither \['Yes'\] nor \['No'\] is among the"):
            remote(url, "Yes", "No").score(completions, {})

    def test_counts_an_answer_that_is_not_told_at_the_most_it_can_be(
        self, server, url, completions
    ):
        some = completions.select([0])
        top = [("b", math.log(0.7)), ("c", math.log(0.2))]
        told = [{"token": token, "logprob": log_p} for token, log_p in top]
        answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": told}]}}]}
        server.trouble = lambda _: (200, answer)
        judge = remote(url)
        assert judge.findings == ()
        p = float(judge.score(some, {}).reward)
        assert p == pytest.approx(0.1 / 0.8, rel=1e-9)
        assert "For 1 of 1 completions" in judge.findings[0].message

    def test_takes_the_longest_beginning_of_an_answer(self, server, url, completions):
        """Tokens with the marks that vocabularies write for spaces, and pieces of words."""
        top = {"\u0120Harm": 0.4, "H": 0.1, "\u2581Safe": 0.2, "Safe": 0.1, "": 0.1}
        told = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
        answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": told}]}}]}
        server.trouble = lambda _: (200, answer)
        p = remote(url, "Harmful", "Safe").score(completions.select([0]), {}).reward
        assert float(p) == pytest.approx(0.4 / 0.7, rel=1e-9)

    def test_refuses_settings_that_make_no_sense(self, url):
        with pytest.raises(ConfigError, match="is no address of a server"):
            remote("localhost:8000/v1")
        with pytest.raises(ConfigError, match="did you mean 'timeout'"):
            remote(url, time_out=3.0)
