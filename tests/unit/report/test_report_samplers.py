"""Samplers in a report: files of draws beside runs, or alone, and what may not be put together."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import matplotlib.style
import pytest
from report_cases import HOSTILE, estimate, policy_of, sampler_of, subject_of

import posteriori as po
from posteriori.cli.files.draws_file import write_draws
from posteriori.cli.files.evaluation import evaluation_json, write_evaluation
from posteriori.cli.files.run_report import write_report_files
from posteriori.cli.files.sample_about import write_about
from posteriori.config.run_config import SampleSettings
from posteriori.core.registry import find
from posteriori.errors import CheckpointError, ConfigError
from posteriori.report import gather, write_report
from posteriori.report.draw.captions import views
from posteriori.report.draw.figures import entries, style_for
from posteriori.report.draw.histograms import rows
from posteriori.report.draw.plane import least_kl, on_plane, plane, why_not
from posteriori.report.draw.theme import LIGHT, settings
from posteriori.report.write.csv_files import tables
from posteriori.report.write.markdown import markdown
from posteriori.report.write.verdict import verdict

WORDS = ["<eos>", "good", "bad"]
PROMPTS = ["x", "y"]


def target_at(beta: float = 1.0) -> po.Target:
    prior = po.TabularLM.random(WORDS, 3, PROMPTS, seed=1)
    score = po.Reward(
        lambda completions, **_: [float(c.count("good")) for c in completions], beta, max_reward=3
    )
    return po.Target(prior, [score], PROMPTS, 3)


def config(beta: float = 1.0, **changes) -> dict:
    return {
        "prior": {"path": "owner/prior"},
        "evidence": [{"kind": "reward", "function": "my.py:reward", "beta": beta}],
        "prompts_sha256": "0" * 64,
        "max_new_tokens": 3,
        **changes,
    }


def make_run(folder: Path, beta: float = 1.0, draws: int = 400, **changes) -> Path:
    """A run's files, of a policy that nobody trained."""
    target = target_at(beta)
    policy = po.TabularLM.random(WORDS, 3, PROMPTS, seed=4)
    reports = {
        "prior": po.evaluate(target, target.prior, draws, seed=3),
        "rloo": po.evaluate(target, policy, draws, seed=4),
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(beta, **changes)))
    (folder / "versions.json").write_text("{}")
    evaluation = evaluation_json(reports, num_samples=draws, posterior=0, seed=0)
    write_evaluation(folder / "evaluation.json", evaluation)
    write_report_files(folder, target, reports)
    return folder


def make_draws(
    path: Path, sampler: str, beta: float = 1.0, changes: dict | None = None, **given
) -> Path:
    """A file of draws as the command line leaves it."""
    target, made = target_at(beta), find("sampler", sampler)(**given)
    draws = po.sample(target, made, 400, seed=2)
    write_draws(path, draws)
    said = SampleSettings(sampler=sampler, num_samples=400, seed=2, settings=given)
    write_about(path, config(beta, **(changes or {})), said, made, target, draws)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A run, and draws of several samplers."""
    folder = tmp_path_factory.mktemp("files")
    make_run(folder / "run")
    make_draws(folder / "rejection.jsonl", "rejection")
    make_draws(folder / "four.jsonl", "best_of_n", n=4)
    make_draws(folder / "mh.jsonl", "mh", chains=100)
    make_draws(folder / "power.jsonl", "power", moves=2)
    return folder


ALL = ("rejection.jsonl", "four.jsonl", "mh.jsonl", "power.jsonl")


@pytest.fixture(scope="module")
def subject(files):
    return gather([files / "run", *(files / name for name in ALL)])


class TestBesideARun:
    def test_each_file_is_a_sampler(self, subject, files):
        assert [each.name for each in subject.results] == ["rloo"]
        assert [each.name for each in subject.samplers] == ["rejection", "best_of_n", "mh", "power"]
        assert [each.name for each in subject.everyone][:2] == ["prior", "rloo"]
        exact, best, _, power = subject.samplers
        assert exact.description == "sampler; exact draws of the target at beta 1"
        assert best.description.startswith("sampler; draws of a law of its own, not the target")
        assert best.sampler.made_by == "num_samples = 400, seed = 2, n = 4"
        assert (exact.sampler.of_target, power.sampler.of_target) == (True, False)
        assert subject.about.startswith("1 policy, 4 samplers, 2 prompts, ")
        assert subject.title == gather([files / "run"]).title

    def test_figures_and_draws_are_those_of_the_files(self, subject, files):
        again = po.sample(target_at(), "rejection", 400, seed=2)
        drawn = subject.samplers[0].drawn
        assert len(drawn) == subject.samplers[0].num_draws == 800
        assert sorted(drawn.reward_N) == sorted(again.reward_N.tolist())
        mean = subject.samplers[0].figures["mean_reward"]
        assert mean.value == pytest.approx(float(again.reward_N.mean()), rel=1e-12)
        assert subject.samplers[0].cost.lm_tokens == again.cost.lm_tokens

    def test_a_chain_takes_log_z_from_the_run_or_has_no_place(self, subject, files):
        placed = subject.samplers[2]
        evaluated = json.loads((files / "run" / "evaluation.json").read_text())["policies"]
        known = [each["figures"]["log_z"] for each in evaluated.values()]
        known.append(json.loads((files / "rejection.jsonl.json").read_text())["figures"]["log_z"])
        known.append({"value": 1e9, "standard_error": 1e9})
        best = min(known, key=lambda each: each["standard_error"])
        log_e = placed.figures["mean_log_evidence"].value
        assert placed.figures["kl_to_prior"].value == pytest.approx(log_e - best["value"])
        assert [f.name for f in placed.findings if f.name == "log_z_from_elsewhere"]
        (alone,) = gather([files / "mh.jsonl"]).samplers
        assert not on_plane(alone)
        assert why_not(alone) == (
            "want of an estimate of log Z, its own or one of the same target beside it"
        )

    @pytest.mark.parametrize("spoilt", ["beta", "untrusted"])
    def test_another_targets_log_z_is_not_taken(self, files, tmp_path, spoilt):
        run = Path(shutil.copytree(files / "run", tmp_path / "run"))
        name = "config.json" if spoilt == "beta" else "evaluation.json"
        told = json.loads((run / name).read_text())
        if spoilt == "beta":
            told["evidence"][0]["beta"] = 0.5
        else:
            finding = {"level": "warn", "name": "weights_not_trusted", "message": "", "hint": ""}
            for policy in told["policies"].values():
                policy["findings"] = [finding]
        (run / name).write_text(json.dumps(told))
        (chain,) = gather([run, files / "mh.jsonl"]).samplers
        assert not on_plane(chain)

    def test_the_place_of_a_law_that_nobody_knows(self, subject, tmp_path):
        """Not drawn, and said why: in the caption, the words of the figure, the table, the CSV."""
        power = subject.samplers[3]
        assert not on_plane(power)
        assert why_not(power) == "a law of its own, whose KL to the prior is not known"
        figure = views(subject)[0]
        assert f"Not on it, for {why_not(power)}: power." in figure.caption
        assert f"(not on it, for {why_not(power)})" in figure.alt
        page = write_report(tmp_path / "page.html", subject).read_text()
        assert f"not in the plane, for {why_not(power)}" in page
        assert f"not in the plane, for {why_not(power)}" in markdown(subject)
        _, lines = tables(subject)["plane"]
        assert [line[-1] for line in lines if line[0] == "power"] == [why_not(power)]

    def test_what_is_drawn_is_what_was_estimated(self, subject):
        """One hollow marker a sampler that has a place, where its figures say, in a shape that no
        other has; and no gap for draws of the target itself."""
        with matplotlib.style.context(settings(LIGHT), after_reset=True):
            (axes,) = plane(
                subject.results, subject.prior, subject.curve, LIGHT, samplers=subject.samplers
            ).axes
        points = {
            (float(line.get_xdata()[0]), float(line.get_ydata()[0])): line
            for line in axes.lines
            if len(line.get_xdata()) == 1 and line.get_marker() not in ("", "None", "|", "_")
        }
        shapes = []
        for each in subject.samplers[:3]:
            at = (each.figures["kl_to_prior"].value, each.figures["mean_reward"].value)
            assert points[at].get_markerfacecolor() == "none"
            shapes.append(points[at].get_marker())
        rloo = subject.results[0].figures
        at = (rloo["kl_to_prior"].value, rloo["mean_reward"].value)
        assert points[at].get_markerfacecolor() != "none"
        assert len({*shapes, points[at].get_marker()}) == 4
        assert least_kl(subject.samplers[0], subject.curve) is None
        wasteful = sampler_of(
            "best_of_n",
            of_target=False,
            kl_to_prior=estimate(subject.curve.points[9].kl.value + 0.25),
            mean_reward=estimate(subject.curve.points[9].reward.value),
        )
        assert least_kl(wasteful, subject.curve) == pytest.approx(
            subject.curve.points[9].kl.value, rel=1e-12
        )

    def test_rewards_count_by_weight(self, files, tmp_path):
        path = make_draws(tmp_path / "weighted.jsonl", "importance")
        (weighted,) = gather([files / "run", path]).samplers
        (row,) = [r for r in rows([], None, [weighted]) if r.sampler]
        assert row.mean == pytest.approx(weighted.figures["mean_reward"].value, rel=1e-9)
        assert row.mean > weighted.drawn.reward_N.mean()

    def test_ten_samplers_are_told_apart_without_colour(self):
        many = [sampler_of(f"s{at}") for at in range(10)]
        policies = [policy_of(f"p{at}") for at in range(6)]
        styles = [style_for(each, LIGHT) for each in entries(policies, policy_of("prior"), many)]
        assert len({(style.marker, style.hollow) for style in styles}) == len(styles)


class TestAlone:
    def test_draws_need_no_run(self, files, tmp_path):
        subject = gather([files / "rejection.jsonl", files / "four.jsonl"])
        assert subject.title == "rejection, best_of_n on owner/prior"
        assert (subject.results, subject.prior, subject.curve) == ([], None, None)
        sentence = verdict(subject.results, subject.prior, subject.samplers)
        assert sentence.startswith("The draws of rejection have a mean reward of ")
        assert "; the draws of best_of_n have " in sentence
        page = write_report(tmp_path / "page.html", subject).read_text()
        assert "Reward against KL" in page
        assert "sample.n" in page

    def test_the_same_sampler_twice_goes_by_its_files(self, files, tmp_path):
        other = make_draws(tmp_path / "sixteen.jsonl", "best_of_n", n=16)
        subject = gather([files / "four.jsonl", other])
        names = [each.name for each in subject.samplers]
        assert names == ["best_of_n: four.jsonl", "best_of_n: sixteen.jsonl"]

    def test_parquet_holds_the_same(self, files, tmp_path):
        pytest.importorskip("pyarrow.parquet")
        path = make_draws(tmp_path / "rejection.parquet", "rejection")
        (one,), (other,) = (gather([each]).samplers for each in (files / "rejection.jsonl", path))
        assert one.drawn.records == other.drawn.records
        assert one.figures == other.figures


class TestRefused:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("max_new_tokens", 4),
            ("prior", {"path": "owner/other"}),
            ("prompts_sha256", "1" * 64),
            ("evidence", [{"kind": "reward", "function": "other.py:reward", "beta": 1.0}]),
        ],
    )
    def test_draws_of_another_target(self, files, tmp_path, key, value):
        path = make_draws(tmp_path / "draws.jsonl", "rejection", changes={key: value})
        with pytest.raises(ConfigError, match=f"'run' and 'draws.jsonl' differ in '{key}'"):
            gather([files / "run", path])
        with pytest.raises(ConfigError, match=f"'four.jsonl' and 'draws.jsonl' differ in '{key}'"):
            gather([files / "four.jsonl", path])

    def test_a_beta_of_its_own_is_told(self, files, tmp_path):
        path = make_draws(tmp_path / "draws.jsonl", "rejection", beta=0.5)
        subject = gather([files / "run", path])
        assert subject.samplers[0].description.endswith("at beta 0.5")
        assert "at beta 0.5, 1." in subject.about

    def test_a_run_that_does_not_say_its_target(self, files, tmp_path):
        run = Path(shutil.copytree(files / "run", tmp_path / "run"))
        told = config()
        del told["prompts_sha256"]
        (run / "config.json").write_text(json.dumps(told))
        gather([run])
        with pytest.raises(ConfigError, match="'run' does not say its 'prompts_sha256'"):
            gather([run, files / "rejection.jsonl"])

    def test_files_that_do_not_belong_together(self, files, tmp_path):
        for name in ("rejection.jsonl", "rejection.jsonl.json"):
            shutil.copy(files / name, tmp_path / name)
        path = tmp_path / "rejection.jsonl"
        gather([path])
        with pytest.raises(ConfigError, match=r"the file '.*rejection.jsonl' is named twice"):
            gather([path, path])
        path.write_text(path.read_text().replace("good", "bad", 1))
        with pytest.raises(CheckpointError, match="the draws have changed since"):
            gather([path])
        (tmp_path / "rejection.jsonl.json").write_text('{"sampler": 1}')
        with pytest.raises(CheckpointError, match="valid string at 'sampler'"):
            gather([path])
        (tmp_path / "rejection.jsonl.json").unlink()
        with pytest.raises(CheckpointError, match=r"there is no 'rejection\.jsonl\.json' beside"):
            gather([path])
        path.unlink()
        with pytest.raises(CheckpointError, match="does not exist"):
            gather([path])

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("{", "Expecting property name"),
            ("[]", "not a record of a draw"),
            ("{}", "KeyError"),
            ('{"prompt_index": "x"}', "not a record of a draw"),
        ],
    )
    def test_a_line_that_is_no_draw(self, files, tmp_path, line, complaint):
        path = tmp_path / "draws.jsonl"
        path.write_text(f"{line}\n")
        told = json.loads((files / "rejection.jsonl.json").read_text())
        told["draws_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "draws.jsonl.json").write_text(json.dumps(told))
        with pytest.raises(CheckpointError) as caught:
            gather([path])
        assert caught.value.where == str(path)
        assert complaint in caught.value.what


def test_hostile_names_are_only_text(tmp_path):
    samplers = [sampler_of(each, HOSTILE, description=each, why=each) for each in HOSTILE if each]
    page = write_report(
        tmp_path / "page.html", subject_of([], prompts=[HOSTILE[0]], samplers=samplers)
    ).read_text()
    assert "&lt;script&gt;document.title" in page
    assert "<script>document.title" not in page
    assert "<img src=x" not in page
