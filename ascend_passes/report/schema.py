"""The form of a report's JSON: its schema, and reports read back from it."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ascend_passes.report.value import (
    SCHEMA,
    VERSION,
    CaptureEvent,
    Decision,
    Kernel,
    Left,
    Miss,
    Once,
    Place,
    Report,
)

VALUES = (Report, Kernel, Left, Miss, Decision, Once, CaptureEvent, Place)
"""What a report is made of."""
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
LATER = frozenset({"families"})
"""Fields that version 1 did not have from the start: older files lack them."""
MOST_BYTES = 2**30
"""Of a file with reports; one of 64 layers has 8 MB."""


class ReportError(ValueError):
    """A file that holds no reports; the text names what is wrong."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `Report.to_json` gives."""
    made = object_schema(Report)
    made["properties"] |= {"schema": {"const": SCHEMA}, "version": {"const": VERSION}}
    made["required"] = ["schema", "version", *made["required"]]
    definitions = {one.__name__: object_schema(one) for one in VALUES if one is not Report}
    address = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": address, "title": SCHEMA, **made, "$defs": definitions}


def object_schema(kind: type) -> dict[str, Any]:
    """The schema of one of `VALUES`."""
    hints = typing.get_type_hints(kind)
    names = [one.name for one in dataclasses.fields(kind)]
    properties = {name: type_schema(hints[name]) for name in names}
    return {"type": "object", "properties": properties, "required": names}


def type_schema(hint: Any) -> dict[str, Any]:
    """The schema of a field's type."""
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if dataclasses.is_dataclass(hint):
        return {"$ref": f"#/$defs/{typing.cast(type, hint).__name__}"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return {"anyOf": [type_schema(one) for one in arguments]}
    if origin is tuple:
        return {"type": "array", "items": type_schema(arguments[0])}
    return {"type": "object", "additionalProperties": type_schema(arguments[1])}


def read_reports(path: Path) -> dict[str, Report]:
    """The reports of a file that `explain --json`, `run --json` or `Report.to_json` wrote, by name.

    Raises:
        ReportError: no such file, no JSON, or no reports of this version in it.
    """
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ReportError(f"{path} is no file with reports; `explain DIR --json` writes one.")
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ReportError(f"{path} holds no JSON ({shortly(error)}).") from None
    return {name: from_dict(one, f"{path}, {name}") for name, one in named(held, path).items()}


def shortly(error: Exception) -> str:
    """What went wrong, in a few words."""
    return str(getattr(error, "strerror", None) or error)[:200]


def named(held: Any, path: Path) -> Mapping[str, Any]:
    """The reports in a document by name: one alone, several by name, or those of `run`."""
    if isinstance(held, dict) and "schema" in held:
        return {"graph": held}
    if isinstance(held, dict) and isinstance(held.get("reports"), list):
        return {f"graph {number}": one for number, one in enumerate(held["reports"], 1)}
    if isinstance(held, dict) and held and all(is_report(one) for one in held.values()):
        return held
    raise ReportError(f"{path} holds no reports; `ascend-passes explain DIR --json` writes some.")


def is_report(held: Any) -> bool:
    """Whether this is a report's dictionary."""
    return isinstance(held, dict) and held.get("schema") == SCHEMA


def from_dict(held: Any, where: str) -> Report:
    """The report of `Report.to_dict`.

    Raises:
        ReportError: another schema or version, fields that are missing or of a wrong type.
    """
    if not is_report(held) or held.get("version") != VERSION:
        raise ReportError(
            f"{where} is no report of version {VERSION}; write it again with this ascend_passes."
        )
    made: Report = value_of(Report, held, where)
    return made


def value_of(hint: Any, held: Any, where: str) -> Any:
    """What a field of this type holds; unknown fields of an object are left out."""
    if hint in PLAIN:
        return plain_value(hint, held, where)
    if dataclasses.is_dataclass(hint):
        return object_value(typing.cast(type, hint), held, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if held is None else value_of(arguments[0], held, where)
    if origin is tuple and isinstance(held, list):
        return tuple(value_of(arguments[0], one, where) for one in held)
    if origin is Mapping and isinstance(held, dict):
        return {str(name): value_of(arguments[1], one, where) for name, one in held.items()}
    raise ReportError(f"{where} has {str(held)[:60]!r} where {hint} is needed.")


def plain_value(hint: type, held: Any, where: str) -> Any:
    """A text, a number, a bool; whole numbers are taken for others."""
    fits = type(held) is hint or (hint is float and type(held) is int)
    if not fits:
        raise ReportError(f"{where} has {str(held)[:60]!r} where {PLAIN[hint]} is needed.")
    return hint(held)


def object_value(kind: type, held: Any, where: str) -> Any:
    """One of `VALUES`."""
    if not isinstance(held, dict):
        raise ReportError(f"{where} has {str(held)[:60]!r} where an object is needed.")
    hints = hints_of(kind)
    missing = [name for name in hints if name not in held and name not in LATER]
    if missing:
        raise ReportError(f"{where} lacks {', '.join(missing)}; write it again.")
    there = {name: hint for name, hint in hints.items() if name in held}
    return kind(**{name: value_of(hint, held[name], where) for name, hint in there.items()})


def hints_of(kind: type) -> dict[str, Any]:
    """The fields of one of `VALUES` with their types."""
    hints = _HINTS.get(kind)
    if hints is None:
        found = typing.get_type_hints(kind)
        hints = _HINTS[kind] = {one.name: found[one.name] for one in dataclasses.fields(kind)}
    return hints


_HINTS: dict[type, dict[str, Any]] = {}
