"""Reports made of runs' files alone: what fit leaves, several runs, stopped runs, broken files."""

from __future__ import annotations

import csv
import json
import math
import shutil

import pytest
import yaml
from made_runs import DRAWS, target_at
from report_cases import HOSTILE, estimate, policy_of, report_of, subject_of

import posteriori as po
from posteriori.cli.files.run_report import write_report_files
from posteriori.core.draw import draw
from posteriori.core.seeds import generator
from posteriori.diagnostics.frontier.frontier import frontier, frontier_of
from posteriori.errors import CheckpointError, ConfigError
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.report import gather, write_report
from posteriori.report.write.csv_files import tables, write_csv
from posteriori.report.write.markdown import markdown, model_card
from posteriori.report.write.verdict import verdict
from posteriori.runs.draw_records import Drawn


class TestOneRun:
    def test_what_was_evaluated_is_what_is_read(self, two_runs):
        target = target_at(1.0)
        before = po.evaluate(target, target.prior, DRAWS, seed=3)
        subject = gather(two_runs[:1])
        prior = subject.prior
        assert prior is not None
        for name, figure in before.items():
            after = prior.figures[name]
            if math.isnan(figure.value):
                assert math.isnan(after.value)
                continue
            assert (after.value, after.kind) == (figure.value, figure.kind)
            assert [e.value for e in after.per_prompt] == [e.value for e in figure.per_prompt]
        assert prior.findings == list(before.findings)
        assert prior.cost.evidence_calls == before.cost.evidence_calls
        assert prior.num_draws == 2 * DRAWS
        assert sorted(prior.drawn.reward_N) == sorted(before.draws.reward_N.tolist())
        assert subject.prompts == {0: "x", 1: "y"}
        (policy,) = subject.results
        assert policy.name == "rloo"
        assert policy.description == "rloo, 4 steps"
        assert [record["step"] for record in policy.history] == [0, 1, 2, 3]
        assert subject.title == "rloo on owner/prior"
        assert "reward my.py:reward at beta 1." in subject.about

    def test_the_frontier_is_that_of_the_evaluated_draws(self, two_runs):
        target = target_at(1.0)
        pool = po.evaluate(target, target.prior, DRAWS, seed=3).draws
        made = frontier_of(target, pool)
        curve = gather(two_runs[:1]).curve
        assert curve is not None
        assert [p.kl.value for p in curve.points] == [p.kl.value for p in made.points]
        assert [b.n for b in curve.best_of_n] == [b.n for b in made.best_of_n]

    def test_the_same_draws_make_the_same_frontier(self):
        target = target_at(1.0)
        made = frontier(target, DRAWS, seed=5, stages=0)
        pool = draw(target, target.prior, DRAWS, generator(5, "frontier"))
        again = frontier_of(target, pool)
        assert [p.reward for p in again.points] == [p.reward for p in made.points]
        with pytest.raises(ConfigError, match="num_samples=99 must be at least 100"):
            frontier_of(target, draw(target, target.prior, 99, generator(5)))

    def test_without_enough_draws_there_is_no_frontier(self, run):
        target = target_at(1.0)
        reports = {"prior": po.evaluate(target, target.prior, 20)}
        write_report_files(run, target, reports)
        assert gather([run]).curve is None

    def test_the_page_is_the_same_wherever_the_run_is(self, two_runs, run, tmp_path):
        subjects = [gather([folder]) for folder in (two_runs[0], run)]
        pages = [
            write_report(tmp_path / f"{at}.html", subject).read_bytes()
            for at, subject in enumerate(subjects)
        ]
        assert pages[0] == pages[1].replace(b"gentle", b"run") or pages[0] == pages[1]

    def test_files_of_later_versions_are_read(self, run):
        evaluation = json.loads((run / "evaluation.json").read_text())
        evaluation["tomorrow"] = 1
        evaluation["policies"]["rloo"]["figures"]["kl_to_target"]["tomorrow"] = {}
        (run / "evaluation.json").write_text(json.dumps(evaluation))
        assert gather([run]).results[0].figures["kl_to_target"].num_draws > 0


class TestDuringTraining:
    def test_evaluations_are_read_and_drawn(self, run, tmp_path):
        figure = {"value": 1.5, "standard_error": 0.1, "kind": "consistent", "num_draws": 9}
        lines = [
            {"step": step, "kl_to_target": {**figure, "value": 1.5 - step / 4}, "findings": []}
            for step in (1, 3)
        ]
        (run / "evaluations.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        subject = gather([run])
        found = [(step, e["kl_to_target"].value) for step, e in subject.results[0].evaluations]
        assert found == [(1, 1.25), (3, 0.75)]
        page = write_report(tmp_path / "page.html", subject).read_text()
        assert "Distance from the target while training" in page
        assert "rloo: from 1.25 to 0.75 nats" in page
        assert tables(subject)["kl_to_target_evaluations"][1][0] == ("rloo", 1, 1.25, 0.1)

    def test_each_step_tells_how_many_draws_are_distinct(self, two_runs):
        target = target_at(1.0)
        draws = draw(target, target.prior, 9, generator(0))
        pairs = zip(draws.prompts, map(tuple, draws.completion_ids), strict=True)
        figures = RLOO().observe(draws, draws.log_proposal_N)
        assert figures["unique_fraction"] == len(set(pairs)) / 18
        assert 1 / 18 < figures["unique_fraction"] < 1
        (policy,) = gather(two_runs[:1]).results
        assert all(0 < record["unique_fraction"] <= 1 for record in policy.history)

    def test_a_stopped_run_is_reported_with_what_it_has(self, run, tmp_path):
        for name in ("evaluation.json", "samples.jsonl", "frontier.json"):
            (run / name).unlink()
        shutil.rmtree(run / "policy")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "elb')
        subject = gather([run])
        assert verdict(subject.results, subject.prior) == (
            "rloo has not been evaluated: its run was stopped, or is under way."
        )
        page = write_report(tmp_path / "page.html", subject).read_text()
        assert "4 of 4 steps are here and no evaluation" in page
        assert "ELBO while training" in page
        assert "There are no completions to show" in page
        assert "4 of 4 steps are here" in markdown(subject).replace("\\", "")


class TestSeveralRuns:
    def test_policies_are_told_apart_and_share_prior_and_frontier(self, two_runs, tmp_path):
        subject = gather(two_runs)
        assert [each.name for each in subject.results] == ["gentle", "strong"]
        assert [each.target for each in subject.results] == ["beta 1", "beta 0.5"]
        assert subject.results[0].description == "rloo, 4 steps; judged at beta 1"
        assert subject.prior.description.endswith(f"; judged at {subject.prior.target}")
        reach = [gather([folder]).curve.points[-1].kl.value for folder in two_runs]
        assert subject.curve.points[-1].kl.value == max(reach)
        page = write_report(tmp_path / "page.html", subject).read_text()
        assert "What differs between the runs" in page
        assert "at beta 0.5, 1." in page

    def test_a_stopped_run_stands_beside_a_finished_one(self, two_runs, run, tmp_path):
        (run / "evaluation.json").unlink()
        subject = gather([run, two_runs[1]])
        assert [each.name for each in subject.results] == ["run", "strong"]
        assert subject.prior is not None
        assert subject.num_prompts == 2
        sentence = verdict(subject.results, subject.prior)
        assert sentence.startswith("run has not been evaluated")
        write_report(tmp_path / "page.html", subject)

    def test_equal_names_are_told_apart_by_their_folders(self, two_runs, tmp_path):
        for at in "ab":
            shutil.copytree(two_runs[0], tmp_path / at / "run")
        subject = gather([tmp_path / "a" / "run", tmp_path / "b" / "run"])
        assert [each.name for each in subject.results] == ["a/run", "b/run"]
        with pytest.raises(ConfigError, match="is named twice"):
            gather([tmp_path / "a" / "run", tmp_path / "a" / ".." / "a" / "run"])

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("max_new_tokens", 4),
            ("prior", {"path": "owner/other"}),
            ("evidence", [{"kind": "reward", "function": "other.py:reward", "beta": 1.0}]),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, two_runs, run, key, value):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ConfigError, match=f"'gentle' and 'run' differ in '{key}'"):
            gather([two_runs[0], run])


class TestBrokenRuns:
    def test_what_is_no_run(self, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            gather([tmp_path / "nothing"])
        with pytest.raises(CheckpointError, match="is not a run"):
            gather([tmp_path])
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="is a file"):
            gather([tmp_path / "file"])

    @pytest.mark.parametrize(
        ("name", "content", "complaint"),
        [
            ("evaluation.json", b"{", "Expecting property name"),
            ("evaluation.json", b"[]", "valid dictionary"),
            ("evaluation.json", b"\xff", "decode"),
            ("evaluation.json", b"[" * 100_000, "recursion"),
            ("evaluation.json", b'{"num_samples": 1}', "Field required at 'policies'"),
            (
                "evaluation.json",
                b'{"num_samples": 1, "policies": {"a": {"figures": {"elbo": 1}}}}',
                "policies.a.figures.elbo",
            ),
            ("frontier.json", b'{"points": 1}', "valid list at 'points'"),
            ("samples.jsonl", b"{}\n", "Field required at 'policy'"),
            ("samples.jsonl", b"{\n{}\n", "line 1 is not JSON"),
            ("metrics.jsonl", b"1\n2\n", "line 1 is not JSON: not an object"),
            ("evaluations.jsonl", b'{"step": "x"}\n', "valid integer"),
            ("config.json", b"nonsense", "Expecting value"),
            ("versions.json", b"7", "valid dictionary"),
        ],
    )
    def test_a_broken_file_is_named(self, run, name, content, complaint):
        (run / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            gather([run])
        assert caught.value.where == str(run / name)
        assert complaint in caught.value.what

    def test_a_policy_is_looked_for_in_the_run_alone(self, run):
        evaluation = json.loads((run / "evaluation.json").read_text())
        evaluation["runs"] = {"rloo": "../elsewhere"}
        (run / "evaluation.json").write_text(json.dumps(evaluation))
        with pytest.raises(CheckpointError, match=r"\.\./elsewhere"):
            gather([run])


class TestDraws:
    def test_texts_survive_the_file(self, tmp_path):
        target = target_at(1.0)
        reports = {"prior": report_of(HOSTILE), HOSTILE[0]: report_of(HOSTILE)}
        write_report_files(tmp_path, target, reports)
        (tmp_path / "config.json").write_text("{}")
        assert (tmp_path / "samples.jsonl").read_bytes().isascii()
        lines = (tmp_path / "samples.jsonl").read_text().splitlines()
        texts = [json.loads(line)["completion"] for line in lines]
        assert texts == [*HOSTILE, *HOSTILE]

    def test_the_first_draws_of_every_prompt_are_kept(self):
        report = report_of([str(at) for at in range(12)], prompts=["a", "b", "c"])
        kept = Drawn.of(report.draws, "p", most=7)
        assert [each.completion for each in kept.records] == ["0", "1", "2", "3", "4", "5"]
        assert [each.prompt for each in kept.records] == ["a", "b", "c"] * 2
        crowded = Drawn.of(report.draws, "p", most=2)
        assert [each.prompt for each in crowded.records] == ["a", "b"]

    def test_shares_are_the_targets(self):
        """The weighted mean reward is the frontier's at the target's own beta, and not the
        prior's."""
        target = target_at(0.9)
        report = po.evaluate(target, target.prior, 500, seed=1)
        drawn = Drawn.of(report.draws)
        mean = float(drawn.share_N @ drawn.reward_N)
        assert mean > report["mean_reward"].value + 6 * report["mean_reward"].standard_error
        tilted = frontier_of(target, report.draws).at_beta(0.9).reward
        assert mean == pytest.approx(tilted.value, rel=1e-12)
        assert drawn.share_N.sum() == pytest.approx(1.0, rel=1e-12)

    def test_a_prompt_without_weight_has_none(self):
        report = report_of(["a", "b"], prompts=["x", "y"], rewards=[-math.inf, 0.5])
        assert Drawn.of(report.draws).share_N.tolist() == [0.0, 0.5]


class TestMarkdownAndCsv:
    def test_markdown_says_what_the_page_says(self, two_runs):
        text = markdown(gather(two_runs))
        assert text.startswith("# 2 runs: gentle, strong\n")
        plain = text.replace("\\", "")
        assert "| KL to the target (nats) |" in plain
        assert "## The frontier, before training" in plain
        assert "| objective | rloo | grpo |" in plain
        for line in plain.splitlines():
            assert not line.startswith("|") or line.endswith("|")

    def test_tables_have_as_many_cells_in_every_line(self, two_runs):
        text = markdown(gather(two_runs)).replace("\\|", "")
        widths: list[set[int]] = [set()]
        for line in text.splitlines():
            if line.startswith("|"):
                widths[-1].add(line.count("|"))
            elif widths[-1]:
                widths.append(set())
        assert all(len(width) <= 1 for width in widths), text

    def test_markup_in_texts_is_plain_in_markdown(self):
        hostile = policy_of(HOSTILE[0], HOSTILE, description=HOSTILE[1])
        text = markdown(
            subject_of([hostile], title=HOSTILE[0], settings={"run": {"a": HOSTILE[3]}})
        )
        assert "<script" not in text.replace("\\<", "")
        assert "](" not in text.replace("\\]", "").replace("\\(", "")
        assert "\x1b" not in text
        assert text.encode("utf-8")

    def test_the_model_card_has_the_hubs_front_matter(self, two_runs, run):
        text = model_card(gather(two_runs[:1]))
        _, front, body = text.split("---\n", 2)
        assert yaml.safe_load(front) == {
            "base_model": "owner/prior",
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["posteriori", "rloo"],
        }
        assert "# rloo on owner/prior" in body.replace("\\", "")
        config = json.loads((run / "config.json").read_text())
        config |= {"policy": "lora", "prior": {"path": "/somewhere/else/model"}}
        (run / "config.json").write_text(json.dumps(config))
        front = yaml.safe_load(model_card(gather([run])).split("---\n", 2)[1])
        assert front["library_name"] == "peft"
        assert front["base_model"] == "model"
        assert front["tags"] == ["posteriori", "rloo", "lora"]

    def test_a_model_card_is_about_one_policy(self, two_runs):
        with pytest.raises(ConfigError, match="one policy"):
            model_card(gather(two_runs))

    def test_csv_has_every_figures_numbers(self, two_runs, tmp_path):
        subject = gather(two_runs)
        written = write_csv(tmp_path / "csv", subject)
        names = {path.stem for path in written}
        assert names >= {"comparison", "plane", "frontier", "elbo", "entropy", "rewards"}
        with (tmp_path / "csv" / "frontier.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert [float(x["kl"]) for x in lines if x["point"] == "posterior"] == [
            p.kl.value for p in subject.curve.points
        ]
        with (tmp_path / "csv" / "rewards.csv").open() as file:
            bins = list(csv.DictReader(file))
        for name in {line["draws_of"] for line in bins}:
            total = math.fsum(float(x["share"]) for x in bins if x["draws_of"] == name)
            assert total == pytest.approx(1.0, rel=1e-9)
        with (tmp_path / "csv" / "elbo.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 8


def test_the_verdict_tells_what_was_wasted():
    clear = policy_of("a", wasted_nats=estimate(0.8, 0.1))
    assert verdict([clear]).endswith(
        "nats from its posterior and wasted 0.80 ± 0.10 of the 1.5 it spent."
    )
    nothing = policy_of("a", wasted_nats=estimate(0.1, 0.1))
    assert verdict([nothing]).endswith(
        "and wasted none of the 1.5 it spent, as far as can be estimated."
    )
