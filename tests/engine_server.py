"""A small server that speaks OpenAI's completions API, as vLLM's does and as others do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from engine_fakes import Fake
from peft import PeftModel

import posteriori as po
from posteriori.models.engines.backend import Request
from posteriori.models.weights.state import own_copy


@dataclass
class Style:
    """What kind of server it is.

    ids: whether it gives token ids, or texts; prompts: how it scores prompts, "prompt_logprobs",
    "echo" or ""; shows_end: whether the end of sequence is among a completion's tokens; chat_form:
    log-probs as llama.cpp's server has them.
    """

    ids: bool = True
    prompts: str = "prompt_logprobs"
    shows_end: bool = True
    chat_form: bool = False


@dataclass
class Served:
    """A server that runs; `asked` are the bodies of its requests."""

    url: str
    fake: Fake
    base: po.CausalLM
    style: Style
    asked: list[dict[str, Any]] = field(default_factory=list)
    fails: int = 0
    models: dict[str, Any] = field(default_factory=dict)

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        self.asked.append(body)
        if path.endswith("/load_lora_adapter"):
            with torch.random.fork_rng():
                model = PeftModel.from_pretrained(own_copy(self.base.model), body["lora_path"])
            self.fake.lm = self.models.get("posteriori", self.fake.lm)
            self.fake.load(po.CausalLM(model, self.base.tokenizer, adapter="default"))
            self.models["posteriori"] = self.fake.lm
            return "Success: LoRA adapter 'posteriori' added successfully."
        self.fake.lm = self.models[body["model"]]
        if body.get("prompt_logprobs") is not None or body.get("echo"):
            return {"choices": self._scored(body)}
        prompt = tuple(body["prompt"])
        request = Request(prompt, body["n"], body["max_tokens"], body["seed"], top=body["logprobs"])
        drawn = self.fake.draw([request])
        return {"choices": [self._choice(at, each) for at, each in enumerate(drawn)]}

    def _choice(self, at: int, drawn: Any) -> dict[str, Any]:
        ids, log_probs, tops = drawn
        ended = ids[-1] == 0
        if ended and not self.style.shows_end:
            ids, log_probs, tops = ids[:-1], log_probs[:-1], tops[:-1]
        rows = []
        for token, log_prob, top in zip(ids, log_probs, tops, strict=True):
            # Like vLLM: the drawn token comes along, if it is none of the most probable.
            rows.append({**top, token: log_prob})
        choice: dict[str, Any] = {
            "index": at,
            "text": " ".join(self.base.decode([ids])),
            "finish_reason": "stop" if ended else "length",
        }
        if self.style.chat_form:
            choice["logprobs"] = {
                "content": [
                    {
                        "id": token,
                        "token": self._name(token),
                        "logprob": log_prob,
                        "top_logprobs": [
                            {"id": t, "token": self._name(t), "logprob": v} for t, v in row.items()
                        ],
                    }
                    for token, log_prob, row in zip(ids, log_probs, rows, strict=True)
                ]
            }
            return choice
        choice["logprobs"] = {
            "tokens": [self._name(token) for token in ids],
            "token_logprobs": log_probs,
            "top_logprobs": [{self._name(t): v for t, v in row.items()} for row in rows],
        }
        if self.style.ids:
            choice["token_ids"] = ids
        return choice

    def _scored(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        prompts = body["prompt"]
        every = self.fake.score([tuple(ids[:1]) for ids in prompts], [ids[1:] for ids in prompts])
        for at, (ids, scores) in enumerate(zip(prompts, every, strict=True)):
            choice: dict[str, Any] = {"index": at, "text": "", "logprobs": None}
            if body.get("prompt_logprobs") is not None and self.style.prompts == "prompt_logprobs":
                rows = [
                    {str(t): {"logprob": v, "rank": 1}}
                    for t, v in zip(ids[1:], scores, strict=True)
                ]
                choice["prompt_logprobs"] = [None, *rows]
            if body.get("echo") and self.style.prompts == "echo":
                choice["logprobs"] = {
                    "tokens": [self._name(token) for token in ids],
                    "token_logprobs": [None, *scores],
                    "top_logprobs": None,
                }
            found.append(choice)
        # A server may answer them in any order.
        return found[::-1]

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self.style.ids else self.base.decode([[token]])[0]


@contextmanager
def serving(base: po.CausalLM, fake: Fake | None = None, style: Style | None = None) -> Iterator:
    """The model `base` behind a url of this machine."""
    made = fake or Fake()
    if made.lm is None:
        made.load(base)
    served = Served("", made, base, style or Style(), models={"small": made.lm})
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._reply(200, {"data": [{"id": "small"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                if served.fails:
                    served.fails -= 1
                    self._reply(503, {"error": "busy"})
                    return
                found = served.answer(self.path, body)
            self._reply(200, found)

        def _reply(self, status, value):
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
