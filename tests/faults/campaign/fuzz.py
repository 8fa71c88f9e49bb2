"""Configs, files and command lines that are wrong at random: one line each, and no traceback."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import posteriori as po
from posteriori.cli.main import run
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import PosterioriError
from posteriori.evidence.text.json_text import JsonText
from posteriori.reward_models.labelled_pairs import read_labelled_pairs
from posteriori.runs.directory import read_metrics
from posteriori.samplers.smc.twist_head import TwistHead

from .children import ORACLE, PAIRS, target

CONFIG = """\
output_dir = "runs/one"
prompts = "prompts.jsonl"
max_new_tokens = 3
[prior]
path = "model"
dtype = "float32"
memory_gib = 1.0
[[evidence]]
kind = "reward"
function = "my_reward.py:score"
beta = 0.5
[fit]
objective = "rloo"
steps = 2
num_samples = 4
learning_rate = 1e-2
policy = "lora"
lora = {rank = 2, alpha = 4.0}
[sample]
sampler = "importance"
num_samples = 8
[twist]
steps = 1
[evaluate]
num_samples = 10
"""
_ODD = (
    *("0", "-1", "1e308", "1e-320", "inf", "nan", "true", '""', "[]", "{}", "1" * 5000),
    *(
        '"x"',
        '"a\\u0000b"',
        '"\\u001b[31m"',
        '"🎲"',
        '"../.."',
        '"/proc/x"',
        "2026-01-01",
        "07:32:00",
    ),
    *('"(("', '"meta"', '"cuda:77"', "[[1]]", "[" * 2000 + "]" * 2000, f'"{"n" * 5000}"', "0x7f"),
    *("1000000000000000000000", "{a = {b = 1}}", '["a", 1]', "'''x\ny'''", "[1, [2, {c = 3}]]"),
)
_ODD_WORDS = (
    *(
        "",
        " ",
        "\0",
        "\x1b[2J",
        "🎲",
        "-",
        "--",
        "--help-me",
        "=",
        "a=",
        "=b",
        "..",
        "/",
        "/proc/x",
    ),
    *("nan", "1e400", "-5", "9" * 400, "n" * 3000, "fit.steps=0", "evidence.7.beta=1", "a.b.c=1"),
    *(
        "evidence.0=3",
        "prior=7",
        "fit.lora.rank=-1",
        "sample.settings={x=1}",
        "out.jsonl",
        "t.safetensors",
    ),
)
_OPTIONS = (
    *("--set", "-o", "--num-samples", "--seed", "--sampler", "--proposal", "--steps", "--kl"),
    *("--model", "--pairs", "--resume", "--json"),
)
SCHEMA = b"""{"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "string", "pattern": "a+b"},
{"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 3}, {"multipleOf": 0.5},
{"properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"], "type": "object"}]}}}"""
_JSON_TEXTS = ('"aab"', "[[[]]]", "1e999", "9" * 500, '{"x": {"x": "ab"}}', "[" * 300, "nul")
_LONGEST = 60


def _checked_against(schema: Path) -> None:
    json_text = JsonText(schema)
    for text in _JSON_TEXTS:
        json_text.allows(text)
        json_text.may_begin(text)


class Hung(BaseException):
    pass


def _alarm(*_: Any) -> None:
    raise Hung


def _damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(5)
        if how == 0:
            del changed[at:]
        elif how == 1:
            changed[at:at] = rng.randbytes(rng.randint(1, 20))
        elif how == 2 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 3:
            changed[at : at + rng.randint(1, 30)] = b""
        else:
            changed[at:at] = rng.choice(
                (b"NaN", b"{", b"]", b"\xff", b"\0", b'"a":1,', b"1e999", b"\n\n")
            )
        if not changed:
            changed = bytearray(b"\0")
    return bytes(changed)


def _odd_config(rng: random.Random) -> str:
    if rng.random() < 0.15:
        return _damaged(CONFIG.encode(), rng).decode("utf-8", "replace")
    lines = CONFIG.splitlines()
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        key, equals, _old = lines[at].partition(" = ")
        how = rng.random()
        if equals and how < 0.75:
            lines[at] = f"{key} = {rng.choice(_ODD)}"
        elif how < 0.85:
            del lines[at]
        elif equals and how < 0.95:
            lines[at] = f"{key}{rng.choice('xé_')} = {_old}"
        else:
            lines.insert(
                at, rng.choice(("[fit]", "[[evidence]]", "x = 1", "[prior.path]", "a.b = 2"))
            )
    return "\n".join(lines) + "\n"


def _command(rng: random.Random, folder: Path) -> list[str]:
    verb = rng.choice(("fit", "sample", "twist", "frontier", "evaluate", "report", "reward", "ls",
                       "simulate-preferences", "nonsense"))  # fmt: skip
    words = [verb]
    if rng.random() < 0.8:
        words.append(str(folder / "run.toml") if rng.random() < 0.7 else rng.choice(_ODD_WORDS))
    for _ in range(rng.randint(1, 3)):
        words.append(rng.choice(_OPTIONS))
        if rng.random() < 0.9:
            word = rng.choice(_ODD_WORDS)
            words.append(str(folder / word) if word.startswith(("out.", "t.")) else word)
    return [*words, "--dry-run"] if verb == "fit" else words


class Fuzz:
    """`failures` are what came of it otherwise than as it should, in words."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.failures: list[str] = []
        folder.mkdir()
        (folder / "model").symlink_to(ORACLE / "model")
        score = "def score(completion_ids, **_):\n    return [0.0 for _ in completion_ids]\n"
        (folder / "my_reward.py").write_text(score)
        (folder / "prompts.jsonl").write_text('{"prompt": "a b"}\n{"prompt": "c"}\n')
        (folder / "run.toml").write_text(CONFIG)
        self.twist = folder / "kept.safetensors"
        po.fit_twist(target(), steps=1, num_samples=4).twist.save(self.twist)
        self.model = folder / "whole"
        shutil.copytree(ORACLE / "model", self.model)
        self.adapter = folder / "adapter"
        policy = po.load(ORACLE / "model").as_policy("lora", LoraSettings(rank=2), 0)
        policy.save_pretrained(self.adapter)

    def config(self) -> None:
        text = _odd_config(self.rng)
        (self.folder / "odd.toml").write_text(text, encoding="utf-8")
        self._run(["fit", str(self.folder / "odd.toml"), "--dry-run"], text)

    def command(self) -> None:
        words = _command(self.rng, self.folder)
        self._run(words, repr(words))

    def file(self) -> None:
        kind = self.rng.choice(
            ("prompts", "pairs", "twist", "model", "metrics", "schema", "adapter")
        )
        if kind == "prompts":
            name = self.rng.choice(("odd.jsonl", "odd.csv", "odd.txt"))
            text = {"odd.jsonl": '{"prompt": "a b", "w": 1}\n{"prompt": "c", "w": 2}\n',
                    "odd.csv": "prompt,w\na b,1\nc,2\n", "odd.txt": "a b\nc\n"}[name]  # fmt: skip
            (self.folder / name).write_bytes(_damaged(text.encode(), self.rng))
            words = ["fit", str(self.folder / "run.toml"), "--set", f"prompts={name}", "--dry-run"]
            self._run(words, repr((self.folder / name).read_bytes()))
            return
        place = self.folder / f"odd.{kind}"
        if kind == "pairs":
            import json

            place = self.folder / "odd.pairs.jsonl"
            lines = "".join(json.dumps(each) + "\n" for each in PAIRS[:3])
            place.write_bytes(_damaged(lines.encode(), self.rng))
            self._try(lambda: read_labelled_pairs(place), repr(place.read_bytes()))
        elif kind == "twist":
            place = self.folder / "odd.safetensors"
            place.write_bytes(_damaged(self.twist.read_bytes(), self.rng))
            self._try(lambda: TwistHead.load(place), "a twist")
        elif kind == "schema":
            place.write_bytes(_damaged(SCHEMA, self.rng))
            self._try(lambda: _checked_against(place), repr(place.read_bytes()))
        elif kind == "adapter":
            files = ("adapter_config.json", "base_fingerprint.json", "adapter_model.safetensors")
            file = self.adapter / self.rng.choice(files)
            before = file.read_bytes()
            file.write_bytes(_damaged(before, self.rng))
            self._try(lambda: po.load(self.adapter), file.name)
            file.write_bytes(before)
        elif kind == "metrics":
            place.write_bytes(
                _damaged(b'{"step": 0, "loss": 1.0}\n{"step": 1, "loss": 2.0}\n', self.rng)
            )
            self._try(lambda: read_metrics(place), repr(place.read_bytes()))
        else:
            files = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
            file = self.model / self.rng.choice(files)
            before = file.read_bytes()
            file.write_bytes(_damaged(before, self.rng))
            self._try(lambda: po.load(self.model), file.name)
            file.write_bytes(before)

    def _run(self, words: list[str], what: str) -> None:
        error, path = io.StringIO(), list(sys.path)

        def work() -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
                code = run(words)
            said = [line for line in error.getvalue().splitlines() if line.startswith("error: ")]
            if code == 2 and len(said) != 1:
                self.failures.append(f"exit {code} and {len(said)} lines of error: {what}")
            if "\x1b" in error.getvalue() or len("".join(said)) > 5000:
                self.failures.append(
                    f"what the error says commands the terminal, or is long: {what}"
                )

        self._try(work, what)
        sys.path[:] = path

    def _try(self, work: Callable[[], Any], what: str) -> None:
        signal.alarm(_LONGEST)
        try:
            work()
        except PosterioriError:
            pass
        except Hung:
            self.failures.append(f"no end after {_LONGEST} s: {what}")
        except BaseException as error:
            self.failures.append(f"{type(error).__name__}: {str(error)[:200]}: {what}")
        finally:
            signal.alarm(0)


def fuzz(number: int, folder: Path, rng: random.Random) -> tuple[dict[str, int], list[str]]:
    """A half configs, a quarter files and a quarter command lines."""
    before = signal.signal(signal.SIGALRM, _alarm)
    made = Fuzz(folder, rng)
    counts = {"configs": number - 2 * (number // 4), "files": number // 4, "lines": number // 4}
    for kind, work in (("configs", made.config), ("files", made.file), ("lines", made.command)):
        for _ in range(counts[kind]):
            work()
    signal.signal(signal.SIGALRM, before)
    return {**counts, "failures": len(made.failures)}, made.failures
