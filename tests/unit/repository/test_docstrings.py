"""Every public name is described in one form, and its example runs.

The form: a line; what it is, with its equation, guarantee and source; Args (each parameter) or
Attributes; Returns; Raises; Example. Examples share a small target, which `example_names` makes.
"""

from __future__ import annotations

import doctest
import inspect
import re
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import posteriori as po
from posteriori import testing, trl
from posteriori.core import registry
from posteriori.core.settings.described import sections_of
from posteriori.errors import PosterioriError

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")
PUBLIC = {
    name: getattr(po, name)
    for name in po.__all__
    if not isinstance(getattr(po, name), str | ModuleType)
}
READY_MADE = {
    f"{module.__name__.split('.')[-1]}.{name}": each
    for module in (po.constraints, po.likelihoods)
    for name, each in vars(module).items()
    if inspect.isfunction(each) and each.__module__ == module.__name__ and name[0] != "_"
}
OF_CHECKS = {
    f"testing.{name}": getattr(testing, name)
    for name in testing.__all__
    if inspect.getmodule(getattr(testing, name)).__name__.startswith("posteriori.")
}
BESIDE = {**READY_MADE, **OF_CHECKS, "trl.PosterioriCallback": trl.PosterioriCallback}
"""Public names of public modules. The examples of `testing` run in a test of their own."""
FUNCTIONS = [name for name, each in PUBLIC.items() if inspect.isfunction(each)]
SETTINGS = [
    name for name, each in PUBLIC.items() if inspect.isclass(each) and issubclass(each, BaseModel)
]
ALGORITHMS = [
    (kind, name)
    for kind, known in (
        ("objective", registry.OBJECTIVES),
        ("sampler", registry.SAMPLERS),
        ("twist", registry.TWISTS),
    )
    for name in known
]
NEEDS_A_FILE = {"load_target", "report"}
"""Their examples need files, which tests of their own write."""


def parameters_of(public: Any) -> list[str]:
    if inspect.isclass(public) and issubclass(public, BaseModel):
        return list(public.model_fields)
    return list(inspect.signature(public).parameters)


def check_form(name: str, public: Any) -> None:
    docstring = inspect.cleandoc(public.__doc__ or "")
    first, _, rest = docstring.partition("\n")
    assert 10 < len(first) <= 100, f"{name}: a first line of its own"
    assert first[-1] in ".:", f"{name}: the first line is a sentence"
    assert rest.startswith("\n"), f"{name}: an empty line behind the first"
    found = sections_of(docstring)
    headings = [each for each in found if each]
    assert headings == [each for each in SECTIONS if each in headings], f"{name}: {headings}"
    assert ">>> " in found.get("Example", ""), f"{name}: an example"
    for heading in ("Args", "Attributes", "Raises"):
        entries = re.findall(r"^    (\w+): \S", found.get(heading, ""), re.M)
        assert heading not in found or entries, f"{name}: entries under {heading}"
    if inspect.isfunction(public):
        assert {"Args", "Returns", "Raises"} <= found.keys(), f"{name}: {headings}"
    if getattr(public, "_is_protocol", False) or "Attributes" in found:
        return
    named = re.findall(r"^    (\w+): \S", found.get("Args", ""), re.M)
    assert named == parameters_of(public), f"{name}: Args are its parameters, in order"


@pytest.mark.parametrize("name", [*PUBLIC, *BESIDE])
def test_a_public_name_is_described_in_the_form(name):
    check_form(name, {**PUBLIC, **BESIDE}[name])


@pytest.mark.parametrize(("kind", "name"), ALGORITHMS)
def test_the_settings_of_an_algorithm_are_described(kind, name):
    model = registry.configured(kind, name).Settings
    docstring = inspect.cleandoc(model.__doc__ or "")
    named = re.findall(r"^    (\w+): \S", sections_of(docstring).get("Args", ""), re.M)
    assert named == list(model.model_fields)


@pytest.mark.parametrize("name", [*PUBLIC, *BESIDE])
def test_what_it_raises_are_errors_that_there_are(name):
    docstring = inspect.cleandoc({**PUBLIC, **BESIDE}[name].__doc__)
    raised = re.findall(r"^    (\w+): ", sections_of(docstring).get("Raises", ""), re.M)
    known = {each.__name__ for each in all_errors(PosterioriError)} | {"ValueError"}
    assert set(raised) <= known


def all_errors(kind: type) -> list[type]:
    return [kind, *(each for one in kind.__subclasses__() for each in all_errors(one))]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("Does it.\n\nArgs:\n    x: a number.\n\nExample:\n    >>> f(1)\n", "f: "),
        (
            "Does it, in words.\n\nReturns:\n    It.\n\nRaises:\n    ConfigError: no.\n\n"
            "Example:\n    >>> f(1)\n",
            "f: ",
        ),
        ("Does it, in words.\nAt once.\n\nArgs:\n    x: a number.\n", "an empty line"),
    ],
)
def test_another_form_is_seen(broken, why):
    def f(x):
        return x

    f.__doc__ = broken
    with pytest.raises(AssertionError, match=why):
        check_form("f", f)


@pytest.fixture(scope="module")
def example_names() -> dict[str, Any]:
    """What examples may use without saying so: `po`, `prior`, `reward`, `target`, `reward_fit`,
    `rules_fit`, `composition`."""

    def reward(completions, **_):
        return [float(text.count("a")) for text in completions]

    def cheerful(completions, **_):
        return [float("good" in text) for text in completions]

    prior = po.TabularLM.random(["<eos>", "a", "b"], 3, ["x", "y"], seed=0)
    broken = [
        {"completion": " good", "violated": False},
        {"completion": " rubbish", "violated": True},
    ]
    labels = [
        {"prompt": f"Dish {n} is", "rule": "polite", **each} for n in range(20) for each in broken
    ]
    pairs = [{"prompt": f"Dish {n} is", "chosen": " good", "rejected": " bad"} for n in range(20)]
    return {
        "po": po,
        "prior": prior,
        "reward": reward,
        "target": po.Target(prior, po.Reward(reward, beta=0.5), ["x", "y"], 3),
        "reward_fit": po.fit_reward("tiny", pairs, tuning="head", epochs=1, seed=0),
        "rules_fit": po.fit_rules("tiny", labels, tuning="head", epochs=1, seed=0),
        "composition": po.fit_composition({"cheerful": cheerful}, pairs),
    }


@pytest.mark.moves_rng
@pytest.mark.parametrize(
    "name",
    [name for name in (*PUBLIC, *READY_MADE, "trl.PosterioriCallback") if name not in NEEDS_A_FILE],
)
def test_its_example_runs(name, example_names):
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    example = sections_of(inspect.cleandoc({**PUBLIC, **BESIDE}[name].__doc__))["Example"]
    test = parser.get_doctest(example, dict(example_names), name, None, 0)
    said: list[str] = []
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
