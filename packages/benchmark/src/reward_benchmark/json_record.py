"""Conversion of frozen dataclasses to and from JSON objects.

The fields of a class are its schema. A field whose value and default are None is omitted from the JSON. A
field with ``metadata=key("name")`` has that name in the JSON. Unknown keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from reward_core.errors import InputError
from reward_core.files.format_version import check_format_version

#: Version of summary.json, groups.json, run.json and of the rows of scores.jsonl.
CURRENT_FORMAT = 2
_EXPECTED = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}

JsonObject = dict[str, object]
T = TypeVar("T")
R = TypeVar("R", bound="JsonRecord")


class SchemaError(ValueError):
    """A value that is missing or has the wrong type."""


class JsonRecord:
    """Base class of dataclasses that are objects in JSON."""

    def to_json(self) -> JsonObject:
        """Return the JSON object as lists, dicts, numbers and strings."""
        values = {_name(item): (item, getattr(self, item.name)) for item in fields(cast("type", self))}
        return {
            name: encode(value)
            for name, (item, value) in values.items()
            if not (value is None and item.default is None)
        }

    @classmethod
    def from_json(cls: type[R], content: object, where: str = "") -> R:
        """Build the record from a JSON object.

        Args:
            content: the parsed JSON.
            where: path of the object in its document, for error messages.

        Raises:
            SchemaError: a value is missing or has the wrong type.
        """
        record = json_object(content, where)
        values = {}
        for item, kind in _schema(cast("type", cls)):
            name = _name(item)
            if name in record:
                values[item.name] = decode(kind, record[name], path(where, name))
            elif item.default is MISSING:
                raise SchemaError(f"{path(where, name)} is missing")
        return cls(**values)


def key(name: str) -> dict[str, str]:
    """Return the metadata that gives a field another name in JSON."""
    return {"key": name}


def encode(value: object) -> object:
    """Convert a value of a record to JSON."""
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(name): encode(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [encode(inner) for inner in value]
    return value


def decode(kind: object, content: object, where: str) -> object:
    """Convert a JSON value to the type ``kind``.

    Args:
        kind: a record, a union of records that differ in their field ``kind``, X | None, dict[K, X],
            tuple[X, ...], str, int, float, bool, or a Literal of strings.
        content: the parsed JSON value.
        where: path of the value in its document, for error messages.

    Raises:
        SchemaError: the value has another type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if content is None and NoneType in arguments:
            return None
        return decode(
            _chosen([option for option in arguments if option is not NoneType], content, where),
            content,
            where,
        )
    if origin is dict:
        return {
            _dict_key(arguments[0], name, where): decode(arguments[1], value, path(where, name))
            for name, value in json_object(content, where).items()
        }
    if origin is tuple:
        if not isinstance(content, list):
            raise SchemaError(f"{where} must be a list, got {content!r:.60}")
        return tuple(decode(arguments[0], value, f"{where}[{i}]") for i, value in enumerate(content))
    if origin is Literal:
        if content not in arguments:
            raise SchemaError(f"{where} must be {' or '.join(map(repr, arguments))}, got {content!r:.60}")
        return content
    if isinstance(kind, type) and issubclass(kind, JsonRecord):
        return kind.from_json(content, where)
    return _plain(cast("type", kind), content, where)


def json_object(content: object, where: str) -> JsonObject:
    """Return ``content`` if it is a JSON object, else raise SchemaError."""
    if not isinstance(content, dict):
        raise SchemaError(f"{where or 'the document'} must be an object, got {content!r:.60}")
    return content


def path(where: str, name: str) -> str:
    """Return the path of a value in the object at ``where``."""
    return f"{where}.{name}" if where else name


def check_format(content: object, name: object, what_to_do: str) -> JsonObject:
    """Return ``content`` if it has the current format version.

    Args:
        content: the parsed document. One without a version has version 1.
        name: name of the file, for error messages.
        what_to_do: advice for an older format, as a sentence.

    Raises:
        InputError: the document has another version or is not a JSON object.
    """
    if not isinstance(content, dict):
        raise InputError(f"Cannot read '{name}': it must be a JSON object, got {content!r:.60}. {what_to_do}")
    check_format_version(content, CURRENT_FORMAT, name, what_to_do, InputError)
    return content


def _chosen(kinds: list[type], content: object, where: str) -> type:
    """Return the only type, or the record type whose ``kind`` matches the content."""
    if len(kinds) == 1:
        return kinds[0]
    by_name = {
        name: kind
        for kind in kinds
        for item, hint in _schema(kind)
        if item.name == "kind"
        for name in get_args(hint)
    }
    name = json_object(content, where).get("kind")
    if not isinstance(name, str) or name not in by_name:
        raise SchemaError(
            f"{path(where, 'kind')} must be {' or '.join(map(repr, by_name))}, got {name!r:.60}"
        )
    return by_name[name]


def _plain(kind: type, content: object, where: str) -> object:
    accepted = (int, float) if kind is float else (kind,)
    if type(content) not in accepted:  # type(): a bool is not a number
        raise SchemaError(f"{where} must be {_EXPECTED[kind]}, got {content!r:.60}")
    return float(cast("float", content)) if kind is float else content


def _dict_key(kind: type, name: str, where: str) -> str | int:
    if kind is str:
        return name
    if not name.isdecimal():
        raise SchemaError(f"{path(where, name)} must have a whole number as its key")
    return int(name)


def _name(item: Field[object]) -> str:
    return item.metadata.get("key", item.name)


@cache
def _schema(record: type) -> tuple[tuple[Field[object], object], ...]:
    """Return the fields of a record with their types."""
    hints = get_type_hints(record)
    return tuple((item, hints[item.name]) for item in fields(record))
