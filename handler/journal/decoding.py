"""Read JSON objects into dataclasses, by the types of their fields.

Unknown fields are ignored; a missing field or a wrong type is an error that names the field. Supports the types in the
journal: str, int, bool, None, tuples of one type, and such dataclasses.
"""

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin

Kind = TypeVar("Kind")


class MalformedError(ValueError):
    """Unexpected JSON; the message names the field."""


def read(kind: Callable[..., Kind], data: object, where: str) -> Kind:
    """Return an instance of the dataclass `kind`; `where` names the JSON object in messages. Raises MalformedError."""
    if not isinstance(data, dict):
        raise MalformedError(f"{where}: expected an object, found {_named(data)}")
    known = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            known[field.name] = _value(field.type, data[field.name], f"{where}.{field.name}")
        elif field.default is MISSING:
            raise MalformedError(f"{where}.{field.name} is missing")
    return kind(**known)


def _value(kind: Any, value: object, where: str) -> object:  # noqa: ANN401 - the type of a field
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
