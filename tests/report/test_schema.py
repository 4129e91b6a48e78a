"""A report's JSON: by its schema, and read back as the same report."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from ascend_passes import Report
from ascend_passes.report.schema import LATER, VALUES, ReportError, json_schema, read_reports
from ascend_passes.report.value import SCHEMA, VERSION, CaptureEvent, Decision
from tests.report.stack import report

FULL = replace(
    report(shares=True),
    decisions=(Decision("a", "b", "c", 1.0, None, 7),),
    captures=(CaptureEvent("capture", 8),),
)


def broken(value, schema, root, where="report"):
    """Where a value does not fit a JSON Schema: the words that our schemas have."""
    if "$ref" in schema:
        return broken(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        found = [broken(value, one, root, where) for one in schema["anyOf"]]
        return [] if [] in found else found[0]
    if "const" in schema:
        return [] if value == schema["const"] else [where]
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    kinds |= {"null": type(None), "array": list, "object": dict}
    if not isinstance(value, kinds[schema["type"]]):
        return [where]
    if isinstance(value, list):
        parts = [(one, schema["items"], f"{where}[{i}]") for i, one in enumerate(value)]
    elif isinstance(value, dict):
        lacking = [f"{where}.{name}" for name in schema.get("required", ()) if name not in value]
        if lacking:
            return lacking
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        if set(value) - set(known) and others is None:
            return [f"{where}: {set(value) - set(known)}"]
        parts = [(one, known.get(name, others), f"{where}.{name}") for name, one in value.items()]
    else:
        parts = []
    return [fault for one, form, place in parts for fault in broken(one, form, root, place)]


def test_a_report_fits_its_schema():
    held = json.loads(FULL.to_json())
    assert held["schema"] == SCHEMA and held["version"] == VERSION
    assert not broken(held, json_schema(), json_schema())
    assert broken(held | {"fired": {"a": "b"}}, json_schema(), json_schema())
    assert broken(held | {"more": 1}, json_schema(), json_schema())
    del held["left"]
    assert broken(held, json_schema(), json_schema()) == ["report.left"]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(FULL.to_json())
    assert read_reports(path) == {"graph": FULL}
    path.write_text(json.dumps({"prefill": FULL.to_dict(), "decode": Report().to_dict()}))
    assert read_reports(path) == {"prefill": FULL, "decode": Report()}
    path.write_text(json.dumps({"dtype": "x", "reports": [FULL.to_dict()]}))
    assert read_reports(path) == {"graph 1": FULL}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no JSON"),
        ("[1]", "holds no reports"),
        ("{}", "holds no reports"),
        ('{"a": {}}', "holds no reports"),
        ("[" * 100_000, "holds no JSON"),
        ('{"reports": [3]}', "no report of version 1"),
        ('{"schema": "ascend_passes.report", "version": 2}', "no report of version 1"),
        ('{"schema": "ascend_passes.report", "version": 1}', "lacks fired, misses"),
        (json.dumps(FULL.to_dict() | {"fired": 3}), "'3' where"),
        (json.dumps(FULL.to_dict() | {"plan": 3}), "'3' where string is needed"),
        (json.dumps(FULL.to_dict() | {"left": ["x"]}), "'x' where an object is needed"),
        (json.dumps(FULL.to_dict() | {"once": [{"name": "x"}]}), "lacks result, place"),
    ],
)
def test_what_is_no_report_is_said_in_one_line(tmp_path, text, reason):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=reason) as caught:
        read_reports(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ReportError, match="is no file"):
        read_reports(tmp_path / "absent.json")


def test_every_value_is_a_frozen_dataclass():
    for kind in VALUES:
        assert dataclasses.fields(kind) and kind.__dataclass_params__.frozen


def test_a_file_from_before_a_field_came_is_read(tmp_path):
    held = FULL.to_dict()
    assert LATER and all(held.pop(name) is not None for name in LATER)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(held))
    (found,) = read_reports(path).values()
    assert found == dataclasses.replace(FULL, families={})
