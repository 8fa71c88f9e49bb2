"""What takes above an hour is asked for, by every verb that draws; without a terminal it needs
--yes."""

from __future__ import annotations

import json

import pytest

from posteriori.cli.main import run

CONFIG = """
output_dir = "run"
prompts = "prompts.jsonl"
max_new_tokens = 64
[prior]
path = "tiny"
[[evidence]]
kind = "constraint"
regex = "[a-z ]+"
[fit]
steps = 2
objective = "dpg"
[evaluate]
num_samples = 2000
"""
VERBS = {
    "fit": (),
    "evaluate": ("tiny",),
    "frontier": (),
    "sample": ("-o", "a.jsonl", "--num-samples", "1000"),
    "twist": ("-o", "a.safetensors"),
    "simulate-preferences": ("-o", "a.jsonl", "--num-pairs", "10000000"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_ten_thousand_prompts_are_asked_about(verb, tmp_path, monkeypatch, capsys):
    rows = (json.dumps({"prompt": f"Number {at} is"}) + "\n" for at in range(10_000))
    (tmp_path / "prompts.jsonl").write_text("".join(rows))
    (tmp_path / "run.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    assert run([verb, "run.toml", *VERBS[verb]]) == 2
    told = capsys.readouterr().err
    assert "completions, at most" in told
    assert "--yes" in told
    assert told.count("\n") == 1
