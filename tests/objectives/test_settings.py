"""Settings by name: from text, from JSON and back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import pytest

from mdae.errors import ConfigError
from mdae.objectives import objective_config
from mdae.objectives.settings import as_text, changed, convert, find, flatten, rebuilt, setting_types
from mdae.options import ObjectiveOptions, read_changes


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["one", "two"] = "one"
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ConfigError("a negative rate")


@dataclass(frozen=True, kw_only=True)
class Outer:
    first: Inner = Inner()
    second: Inner = Inner(kind="two")
    number: int = 3
    on: bool = False
    word: str = "x"
    edges: tuple[int, ...] = (1, 2)
    box: tuple[int, int, int] = (4, 4, 4)
    ranges: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    limit: float | None = None


TYPES = setting_types(Outer)


def test_every_value_survives_text_and_json():
    settings = Outer(edges=(), on=True, limit=2.5, ranges=((0.0, 1.0), (2.0, 3.0)), first=Inner(rate=1e-3))
    values = {path: convert(as_text(value), TYPES[path], path) for path, value in flatten(settings).items()}
    assert changed(Outer(), values) == settings
    assert rebuilt(Outer, json.loads(json.dumps(asdict(settings)))) == settings
    assert rebuilt(Outer, {"first": {"rate": 2.0}}) == Outer(first=Inner(rate=2.0)), (
        "what is missing is the default"
    )


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("number", "7", 7),
        ("on", "Yes", True),
        ("on", "0", False),
        ("first.rate", "1e-3", 0.001),
        ("first.rate", 2, 2.0),
        ("first.kind", "two", "two"),
        ("edges", "8", (8,)),
        ("edges", "8,16", (8, 16)),
        ("edges", [8, 16], (8, 16)),
        ("box", "(1, 2, 3)", (1, 2, 3)),
        ("ranges", "(0,1),(2,3)", ((0.0, 1.0), (2.0, 3.0))),
        ("limit", "none", None),
        ("limit", "3", 3.0),
    ],
)
def test_text_becomes_what_the_annotation_says(path, text, value):
    ours = convert(text, TYPES[path], path)
    assert ours == value and type(ours) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("number", "7.5", "give a whole number"),
        ("number", 7.5, "give a whole number"),
        ("number", True, "give a whole number"),
        ("on", "perhaps", "give true or false"),
        ("first.kind", "three", "give one or two"),
        ("box", "8", "give 3 values with commas"),
        ("box", "8,8,a", "each a whole number"),
        ("limit", "little", "give a number or none"),
        ("ranges", "1,2", "give values with commas"),
    ],
)
def test_what_does_not_fit_is_one_line(path, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        convert(text, TYPES[path], path)
    assert str(caught.value).startswith(f"{path} is ") and "\n" not in str(caught.value)


def test_a_name_is_any_end_that_is_unique():
    assert find("number", TYPES, "it") == "number"
    assert find("second.rate", TYPES, "it") == "second.rate"
    with pytest.raises(ConfigError, match=r"rate is more than one setting .use first\.rate or second\.rate"):
        find("rate", TYPES, "it")
    for name in ("umber", "speed", "first"):
        with pytest.raises(ConfigError, match=f"it has no {name} .it has first.kind, "):
            find(name, TYPES, "it")


def test_the_dataclass_checks_what_is_changed_within_it():
    with pytest.raises(ConfigError, match="negative rate"):
        changed(Outer(), {"second.rate": -1.0})
    assert changed(Outer(), {"second.rate": 1.0, "number": 4}) == Outer(
        second=Inner(kind="two", rate=1.0), number=4
    )


def test_changes_are_read_once_each():
    assert read_changes(["p-min=0.5", " block = 8,8,8 ", "word=a=b"]) == {
        "p_min": "0.5",
        "block": "8,8,8",
        "word": "a=b",
    }
    for texts, said in (
        (["p_min=1", "p_min=2"], "given twice"),
        (["p_min"], "NAME=VALUE"),
        (["=3"], "NAME=VALUE"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_changes(texts)


def test_options_and_settings_meet_and_do_not_collide():
    options = ObjectiveOptions(noise="flow", block=(8, 8, 8))
    settings = objective_config("mdae", options, {"p_min": "0.25"})
    assert settings.corruption.schedule.kind == "flow" and settings.corruption.block == (8, 8, 8)
    assert settings.corruption.p_min == 0.25
    with pytest.raises(ConfigError, match=r"corruption\.block is given twice"):
        objective_config("mdae", options, {"block": "4,4,4"})
    with pytest.raises(ConfigError, match=r"mae has no schedule\.kind"):
        objective_config("mae", changes={"schedule.kind": "ve"})
