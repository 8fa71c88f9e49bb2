"""Data sets of the hub by their names: in Python, in a config, and where there is no network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import posteriori as po
from posteriori.config.check import make_plan
from posteriori.data.formats import hub
from posteriori.errors import DataError

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

PAIRS = [
    {"prompt": "You are", "chosen": " kind.", "rejected": " bad."},
    {"prompt": "I am", "chosen": " good.", "rejected": " bad."},
]


@pytest.fixture
def asked(monkeypatch):
    """A hub with the data set "some/pairs", of two splits; the names that it was asked for."""
    names = []

    class Api:
        def dataset_info(self, name, timeout):
            assert timeout <= 5
            names.append(name)
            if name != "some/pairs":
                response = SimpleNamespace(headers={}, status_code=404, request=None)
                raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)

    def load(name):
        assert name == "some/pairs"
        return datasets.DatasetDict(
            {
                "train": datasets.Dataset.from_list(PAIRS),
                "test": datasets.Dataset.from_list(PAIRS[:1]),
            }
        )

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_known", set())
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    return names


def test_a_split_is_named_behind_it(asked):
    assert list(po.prompts("some/pairs/train").prompts) == ["You are", "I am"]
    assert list(po.prompts("some/pairs", split="test").prompts) == ["You are"]
    assert asked == ["some/pairs"]


def test_pairs_are_a_name_too(asked):
    target = po.Target("tiny", po.Power(1.0), ["You are"], 4)
    fit = po.fit(target, "dpo", steps=1, objective_settings={"pairs": "some/pairs/train"})
    assert len(fit.history) == 1


def test_a_config_names_prompts_and_pairs(asked, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'output_dir = "run"\nprompts = "some/pairs/train"\nmax_new_tokens = 4\nevidence = []\n'
        '[prior]\npath = "tiny"\n[fit]\nobjective = "dpo"\nsteps = 1\n'
        'objective_settings = { pairs = "some/pairs/train" }\n'
    )
    plan = make_plan(file, [])
    assert len(plan.data) == 2
    assert plan.objective.given() == {"pairs": "some/pairs/train"}
    assert plan.objective.written()["pairs"] == "some/pairs/train"


def test_several_splits_are_named(asked):
    with pytest.raises(DataError, match=r"several splits: train, test; .*some/pairs/train"):
        po.prompts("some/pairs")


def test_a_name_that_is_not_there_is_one_line(asked):
    with pytest.raises(DataError, match="on this machine or on the hub") as caught:
        po.prompts("some/pears")
    assert "\n" not in str(caught.value)


def test_without_a_network_it_is_said_at_once(asked, monkeypatch):
    def gone(*_, **__):
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(dataset_info=gone))
    with pytest.raises(DataError, match="cannot be asked for it: Name or service") as caught:
        po.prompts("some/pairs/train")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        po.prompts("some/pairs/train")


def test_a_file_or_folder_that_is_there_comes_first(asked, tmp_path, monkeypatch):
    (tmp_path / "some").mkdir()
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_list(PAIRS[:1]).save_to_disk("some/pairs")
    assert list(po.prompts("some/pairs").prompts) == ["You are"]
    assert asked == []
