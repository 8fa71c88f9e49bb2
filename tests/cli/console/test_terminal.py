"""What a model or a user wrote commands no terminal, and nothing that prints it crashes."""

from __future__ import annotations

import io
import json
import re
import shutil

import pytest
from helpers import WORDS
from report_cases import COLLAPSED, HOSTILE, report_of

from posteriori.cli.commands.demo.show import print_draws
from posteriori.cli.console.draws_table import print_draws as print_draws_table
from posteriori.cli.console.output import json_text, print_json, stdout, visible
from posteriori.cli.files.draws_file import write_draws
from posteriori.cli.files.evaluation import evaluation_json, show
from posteriori.core.types import Finding

COLOURED = "\x1b[31mred\x1b[0m[/b]\x00\x07\x9b1m\u202e\x7f"
MARKUP = "[bold red]markup[/]"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def hostile_job(job, saved_model):
    """A job whose model writes words with escape codes in them, asked with a prompt of the same."""
    (job.folder / "model").unlink()
    shutil.copytree(saved_model, job.folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = job.folder / "model" / name
        text = path.read_text()
        for word, written in (("b", COLOURED), ("d", MARKUP)):
            text = text.replace(json.dumps(word) + ":", json.dumps(written) + ":")
        path.write_text(text)
    prompts = [{"prompt": f"a {COLOURED}", "weight": 1}, {"prompt": MARKUP, "weight": 0.5}]
    job.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in prompts))
    job.change("num_samples = 40", "num_samples = 100")
    return job


def no_commands(*texts: str) -> None:
    for text in texts:
        assert not COMMANDS.findall(text)


def test_every_verb_that_prints_what_a_model_wrote(hostile_job, monkeypatch):
    job, config = hostile_job, str(hostile_job.config)
    monkeypatch.chdir(job.folder)
    assert "b" in WORDS
    fitted = job.fit()
    assert fitted.code == 0, fitted.err
    texts = [
        json.loads(line)["completion"]
        for line in (job.output / "samples.jsonl").read_text().splitlines()
    ]
    assert any(COLOURED in text for text in texts)
    for arguments in (
        ("evaluate", config),
        ("evaluate", config, "--json"),
        ("sample", config, "-o", "draws.jsonl", "--num-samples", "50"),
        ("sample", config, "-o", "draws.jsonl", "--num-samples", "50", "--json"),
        ("frontier", config, "--num-samples", "100"),
        ("frontier", config, "--num-samples", "100", "--json"),
        ("report", str(job.output)),
        ("report", str(job.output), "--json"),
        ("report", str(job.output), "--format", "markdown"),
        ("fit", config, "--dry-run", "--set", "output_dir=runs/other"),
        ("fit", config, "--dry-run", "--set", "output_dir=runs/other", "--json"),
    ):
        result = job.run(*arguments)
        assert result.code in (0, 1), result.err
        no_commands(result.out, result.err)
        if "--json" in arguments:
            json.loads(result.out)
    no_commands(fitted.out, fitted.err, (job.output / "report.md").read_text())
    no_commands((job.folder / "draws.jsonl").read_text().replace("\n", ""))
    page = (job.output / "report.html").read_text()
    assert "\u241b[31mred" in page.replace("&#9243;", "\u241b")


def test_tables_and_json_of_the_worst_texts(capsys):
    reports = {
        text or "empty": report_of(HOSTILE, findings=[COLLAPSED, Finding("warn", "x", text, text)])
        for text in HOSTILE
    }
    evaluation = evaluation_json(reports, num_samples=10, posterior=0, seed=0)
    for as_json in (False, True):
        show(reports, evaluation, title=HOSTILE[4], as_json=as_json)
    for report in reports.values():
        print_draws(stdout(), {HOSTILE[3]: report})
        print_draws_table(stdout(), report.draws, title=HOSTILE[4])
    print_json({text: text for text in HOSTILE})
    captured = capsys.readouterr()
    no_commands(captured.out.replace("\n", ""), captured.err)
    assert "[/b] [bold red]" in captured.out


def test_json_says_exactly_what_it_was_given():
    text = json_text([*HOSTILE, COLOURED, "gr\u00fc\u00df \u65e5\u672c"], indent=2)
    assert json.loads(text) == [*HOSTILE, COLOURED, "gr\u00fc\u00df \u65e5\u672c"]
    assert "gr\u00fc\u00df \u65e5\u672c" in text
    no_commands(text.replace("\n", ""))
    io.TextIOWrapper(io.BytesIO(), encoding="utf-8").write(text)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_draws_of_any_text_become_a_file(tmp_path, suffix):
    draws = report_of(HOSTILE).draws
    path = tmp_path / f"draws{suffix}"
    write_draws(path, draws)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert [row["completion"] for row in rows] == list(HOSTILE)
        return
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [row["completion"] for row in parquet.read_table(path).to_pylist()]
    assert texts == [text.encode(errors="replace").decode() for text in HOSTILE]


def test_visible_is_one_line_without_commands():
    for text in (*HOSTILE, COLOURED):
        no_commands(visible(text))
        assert "\n" not in visible(text)
