"""Settings of an objective by name: a frozen dataclass, maybe of others, changed by text and rebuilt from JSON.

A setting's name is its path, `corruption.schedule.sigma_max`, or any end of it that no other setting shares, such as
`sigma_max`. What a value must be is said by the dataclass's annotations alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mdae.errors import ConfigError

S = TypeVar("S")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def flatten(settings: Any) -> dict[str, Any]:
    """Every setting by its path, in the order of the fields."""
    flat: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            flat.update({f"{field.name}.{path}": inner for path, inner in flatten(value).items()})
        else:
            flat[field.name] = value
    return flat


def setting_types(kind: type) -> dict[str, Any]:
    """The annotation of every setting by its path.

    Raises:
        ConfigError: a class that is no frozen, keyword-only dataclass, or a field that text cannot express.
    """
    if not (is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise ConfigError(
            f"settings {kind.__name__} are no frozen dataclass", mend="use @dataclass(frozen=True)"
        )
    types: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if not field.kw_only or field.name == "name":
            raise ConfigError(
                f"field {field.name} of {kind.__name__} is positional or called name",
                mend="use @dataclass(frozen=True, kw_only=True) and another name",
            )
        if is_dataclass(hint):
            inner = setting_types(hint) if isinstance(hint, type) else {}
            types.update({f"{field.name}.{path}": value for path, value in inner.items()})
        elif _expressible(hint):
            types[field.name] = hint
        else:
            raise ConfigError(
                f"field {field.name} of {kind.__name__} is {hint}, which text cannot express",
                mend="use bool, int, float, str, Literal, tuples of them, | None, or a dataclass of such fields",
            )
    return types


def find(name: str, paths: Iterable[str], owner: str, *, called: str = "") -> str:
    """The one path that `name` ends; `ConfigError` for none or several, naming what there is.

    Args:
        name: the setting's name.
        paths: of the settings that `owner` has.
        owner: whose settings they are, for the error.
        called: what the user called it, if not by its name.
    """
    paths = list(paths)
    found = [path for path in paths if path == name] or [path for path in paths if path.endswith(f".{name}")]
    if not found:
        raise ConfigError(
            f"{owner} has no {called or name}", mend=f"it has {', '.join(paths) or 'no settings'}"
        )
    if len(found) > 1:
        raise ConfigError(f"{owner}: {name} is more than one setting", mend=f"use {' or '.join(found)}")
    return found[0]


def changed(settings: S, values: Mapping[str, Any]) -> S:
    """A copy with other values by path; the dataclasses check them."""
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    for head, rests in inner.items():
        own[head] = changed(getattr(settings, head), rests)
    return replace(settings, **own)  # type: ignore[type-var]


def rebuilt(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from their JSON record, in which tuples are lists; fields that are not there keep their defaults.

    Raises:
        ConfigError, TypeError: values that are no such settings.
    """
    hints = get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        hint = hints.get(name)
        if isinstance(hint, type) and is_dataclass(hint):
            arguments[name] = rebuilt(hint, value)
        else:
            arguments[name] = value if hint is None else convert(value, hint, name)
    return kind(**arguments)


def as_text(value: Any) -> str:
    """A setting's value as `convert` takes it back."""
    if isinstance(value, tuple):
        plain = value and not any(isinstance(part, tuple | str) for part in value)
        return ",".join(map(str, value)) if plain else str(value).replace(" ", "")
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def convert(value: Any, hint: Any, name: str) -> Any:
    """A value, or the text of one, as its annotation wants it; `ConfigError` for what does not fit."""
    try:
        return _converted(value, hint)
    except (ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(f"{name} is {value!r}", mend=f"give {_words(hint)}") from error


def _converted(value: Any, hint: Any) -> Any:
    """`convert` without the words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _converted(value, next(part for part in arguments if part is not NoneType))
    if origin is Literal:
        (choice,) = (choice for choice in arguments if str(choice) == str(value))
        return choice
    if origin is tuple:
        return _tuple(value, arguments)
    if hint is bool:
        text = str(value).lower()
        if text not in (*TRUE, *FALSE):
            raise ValueError(text)
        return text in TRUE
    if isinstance(value, bool) or (hint is int and isinstance(value, float) and value != int(value)):
        raise ValueError(value)
    return hint(value)


def _tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple from a sequence, or from text with commas."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # words without quotes
            value = [part.strip() for part in value.split(",")]
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if arguments[-1] is Ellipsis:
        return tuple(_converted(part, arguments[0]) for part in parts)
    return tuple(_converted(part, kind) for part, kind in zip(parts, arguments, strict=True))


def _expressible(hint: Any) -> bool:
    """Whether text can express every value of an annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        rest = [part for part in arguments if part is not NoneType]
        return len(rest) == 1 and _expressible(rest[0])
    if origin is tuple:
        return bool(arguments) and all(part is Ellipsis or _expressible(part) for part in arguments)
    return origin is Literal or hint in (bool, int, float, str)


def _words(hint: Any) -> str:
    """What a user should give."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join("none" if part is NoneType else _words(part) for part in arguments)
    if origin is Literal:
        return " or ".join(str(choice) for choice in arguments)
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        return f"{'' if many else f'{len(arguments)} '}values with commas, each {_words(arguments[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]
