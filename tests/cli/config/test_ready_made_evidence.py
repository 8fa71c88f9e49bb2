"""Ready-made evidence from a config: made as by Python, and refused before anything is loaded."""

from __future__ import annotations

import json

import joblib
import pytest
from helpers import tiny_bert, tiny_lm

import posteriori as po
from posteriori.cli.build import build_target
from posteriori.config.check import make_plan

PLAIN = """kind = "reward"
function = "my_reward.py:score"
beta = 0.5"""


def made(job, text: str, *overrides: str):
    """The evidence that a config's table makes."""
    job.change(PLAIN, text)
    return build_target(make_plan(job.config, list(overrides))).evidence[0]


def score(evidence, *ids: list[int]) -> list[float]:
    completions = tiny_lm("gpt2").completions(["a b"], ids, 3)
    return evidence.score(completions, {}).reward.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('regex = "a( b)*"', [1.0, 0.0, 0.0]),
        ('regex = "b"\nmatch = "search"', [1.0, 1.0, 0.0]),
        ('words = {any_of = ["b"], none_of = ["a"]}', [0.0, 1.0, 0.0]),
        ("length = {max_tokens = 2, min_words = 1}", [0.0, 1.0, 1.0]),
        ('json_schema = {type = "string"}', [0.0, 0.0, 0.0]),
        ('json_schema = "schema.json"', [0.0, 0.0, 0.0]),
    ],
)
def test_constraints(job, text, expected):
    job.write("schema.json", '{"type": "object"}')
    constraint = made(job, f'kind = "constraint"\n{text}')
    assert score(constraint, [1, 2, 0], [2, 0], [3, 0]) == expected
    assert constraint.prefix is not None


def test_likelihoods(job):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(CountVectorizer(token_pattern=r"\w"), LogisticRegression())
    joblib.dump(pipeline.fit(["a", "b"], ["x", "y"]), job.folder / "xy.joblib")
    tiny_bert(
        "AutoModelForSequenceClassification",
        job.folder / "mood",
        id2label={0: "angry", 1: "calm"},
        label2id={"angry": 0, "calm": 1},
    )
    tiny_bert("AutoModel", job.folder / "encoder")
    tables = {
        'classifier = "mood"\nlabel = "calm"\nread = "completion"': po.likelihoods.classifier(
            job.folder / "mood", "calm", read="completion"
        ),
        'sklearn = "xy.joblib"\nlabel = "y"': po.likelihoods.sklearn(pipeline, "y"),
        'word_probability = {a = 0.9}\nobserved = "some"': po.likelihoods.words(
            {"a": 0.9}, observed="some"
        ),
        'similarity = "b b"\nmodel = "encoder"\nthreshold = 0.3': po.likelihoods.similarity(
            "b b", job.folder / "encoder", threshold=0.3
        ),
    }
    plain = job.config.read_text()
    for text, likelihood in tables.items():
        job.write("run.toml", plain)
        ours = score(made(job, f'kind = "likelihood"\n{text}'), [1, 2, 0], [2, 0], [3, 0])
        assert ours == score(likelihood, [1, 2, 0], [2, 0], [3, 0])
        assert len(set(ours)) > 1


def test_judges(job):
    table = 'kind = "judge"\nmodel = "model"\nquestion = "?"\nyes = ["a", "c"]\nno = "b"'
    ours = made(job, table)
    theirs = po.Judge(job.folder / "model", "?", ["a", "c"], "b")
    assert score(ours, [1, 2, 0], [2, 0]) == score(theirs, [1, 2, 0], [2, 0])


def test_judges_behind_a_server(job):
    table = (
        'kind = "judge"\nurl = "http://127.0.0.1:9/v1"\nmodel = "some/model"\nquestion = "?"\n'
        'server = {api = "completions", retries = 0}'
    )
    judge = made(job, table)
    assert judge.name == "judge 'some/model'"
    assert judge._answers.server.url == "http://127.0.0.1:9/v1/completions"


def test_several_rewards_and_how_they_are_called(job):
    job.write(
        "my_reward.py",
        "def ones(completions, **kw): return [1.0] * len(completions)\n"
        "def length(completions, **kw): return [float(len(c)) for c in completions]\n",
    )
    reward = made(
        job,
        'kind = "reward"\nfunctions = ["my_reward.py:ones", "my_reward.py:length"]\n'
        "weights = [1.0, 0.5]\nbeta = 0.5\ncalls = {workers = 2, timeout = 30, cache = true, "
        'on_failure = "retry", retries = 1}',
    )
    for _ in range(2):
        assert score(reward, [1, 0], [2, 2, 0]) == [1.5, 2.5]
    assert reward.counts.cache_hits == 4


def test_a_plain_function_takes_settings_of_calls(job):
    job.change("beta = 0.5", "beta = 0.5\ncalls = {cache = true, check_repeats = 1}")
    reward = build_target(make_plan(job.config, [])).evidence[0]
    assert reward._ask[0].settings.check_repeats == 1


def test_smc_samples_from_a_config_with_pruning(job):
    job.change(PLAIN, 'kind = "constraint"\nregex = "[ce]( [a-e])*"')
    job.config.write_text(
        job.config.read_text()
        + '\n[sample]\nsampler = "smc"\nnum_samples = 32\nsettings = {twist = "prefix"}\n'
    )
    result = job.sample("--output", str(job.folder / "draws.jsonl"), "--json", "--quiet")
    assert result.code == 0, result.err
    rows = map(json.loads, (job.folder / "draws.jsonl").read_text().splitlines())
    alive = [row for row in rows if row["log_weight"] is not None]
    assert alive
    assert all(row["completion"].split()[0] in "ce" for row in alive)


# What the evidence is, and what is said of it after "<config>: evidence.0".
REFUSED = {
    "no such pattern": (
        'kind = "constraint"\nregex = "(a"',
        ": '(a' is no regular expression: missing ) at position 2; a literal ( or [ is written "
        "\\( or \\[",
    ),
    "a regex for a reward": (
        'kind = "reward"\nregex = "a"\nbeta = 1.0',
        ": a reward cannot be made of 'regex'; write functions = ...",
    ),
    "two ways at once": (
        'kind = "constraint"\nregex = "a"\nlength = {max_words = 3}',
        ": 'regex' and 'length' do not go together in a constraint; beside 'regex' it takes: "
        "calls, match",
    ),
    "a key of another way": (
        'kind = "constraint"\nlength = {max_words = 3}\nmatch = "full"',
        ": 'length' and 'match' do not go together in a constraint; beside 'length' it takes: "
        "calls",
    ),
    "a classifier without its label": (
        'kind = "likelihood"\nclassifier = "model"',
        ": 'label' is missing; write label = ...; 'classifier' needs it",
    ),
    "a classifier that is not there": (
        'kind = "likelihood"\nclassifier = "./mood"\nlabel = "calm"',
        ".classifier: there is no model at '{folder}/mood'; check the path, or use one that is "
        "bundled: tiny",
    ),
    "a pipeline that is not there": (
        'kind = "likelihood"\nsklearn = "xy.joblib"\nlabel = "x"',
        ".sklearn: there is no file '{folder}/xy.joblib'; give one that joblib.dump wrote; paths "
        "are relative to the config",
    ),
    "a probability above one": (
        'kind = "likelihood"\nword_probability = {{a = 2.0}}',
        ": the probability of 'a' is 2.0; write a number from 0 to 1",
    ),
    "a judge without a question": (
        'kind = "judge"\nmodel = "model"',
        ": 'question' is missing; write question = ...; 'model' needs it",
    ),
    "a judge of nothing": (
        'kind = "judge"\nquestion = "?"',
        ": a judge cannot be made of 'question'; write url = ... or model = ...",
    ),
    "a misspelt setting of a server": (
        'kind = "judge"\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\nquestion = "?"\n'
        "server = {{time_out = 3.0}}",
        ".server: unknown key 'time_out'; did you mean 'timeout'?",
    ),
    "no address of a server": (
        'kind = "judge"\nurl = "localhost:8000"\nmodel = "m"\nquestion = "?"',
        ": 'localhost:8000/chat/completions' is no address of a server; write one such as ",
    ),
    "calls that do nothing": (
        PLAIN + "\ncalls = {{retries = 2}}",
        ".calls: retries does nothing without on_failure='retry'",
    ),
    "a schema that is none": (
        'kind = "constraint"\njson_schema = {{type = "objekt"}}',
        ": it is no JSON Schema: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_told_before_anything_is_loaded(job, nothing_loads, case):
    text, expected = REFUSED[case]
    text, expected = (
        text.replace("{{", "{").replace("}}", "}"),
        expected.replace("{folder}", str(job.folder)),
    )
    job.change(PLAIN, text)
    result = job.fit()
    assert result.code == 2
    assert result.error.startswith(f"{job.config}: evidence.0{expected}")


def test_a_misspelt_setting_of_calls_is_told(job, nothing_loads):
    job.change("beta = 0.5", "beta = 0.5\ncalls = {worker = 2}")
    assert job.fit().error == (
        f"{job.config}: unknown key 'evidence.0.calls.worker'; did you mean 'workers'?"
    )
