"""JSON objects read into dataclasses, by the types of their fields.

What a later version added is left out; what is missing or of another type is an error that names its place. Knows the
types that the journal is made of: text, numbers, yes or no, None, tuples of one type, and other such dataclasses.
"""

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin

Kind = TypeVar("Kind")


class MalformedError(ValueError):
    """JSON that is not what was expected; the message names the place."""


def read(kind: Callable[..., Kind], data: object, where: str) -> Kind:
    """Make an object of the dataclass `kind` of a JSON object; `where` names it in messages. Raises MalformedError."""
    if not isinstance(data, dict):
        raise MalformedError(f"{where}: expected an object, found {_named(data)}")
    known = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            known[field.name] = _value(field.type, data[field.name], f"{where}.{field.name}")
        elif field.default is MISSING:
            raise MalformedError(f"{where}.{field.name} is missing")
    return kind(**known)


def _value(kind: Any, value: object, where: str) -> object:  # noqa: ANN401 - what annotates a field
    if isinstance(kind, types.UnionType):  # such as str | None
        if value is None:
            return None
        kind = next(each for each in get_args(kind) if each is not types.NoneType)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_value(get_args(kind)[0], each, f"{where}[{at}]") for at, each in enumerate(value))
    if is_dataclass(kind) and isinstance(kind, type):
        return read(kind, value, where)
    if type(value) is not kind:  # not isinstance: True is no number
        raise MalformedError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {_named(value)}")
    return value


def _named(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
