"""Write `ascend_passes/engine/stored_templates.json`, the traced form of the package's rules.

What is up to date is kept, so that after a change to one rule only that one is traced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ascend_passes.cli.rules import every_rule
from ascend_passes.engine.examples import LEADING, has_any_rank
from ascend_passes.engine.registry import LOADED
from ascend_passes.engine.rule import Rule, Spelling
from ascend_passes.engine.stored import (
    DEVICE,
    case,
    changed_makers,
    document,
    maker_digests,
    surroundings,
)
from ascend_passes.engine.template import build
from ascend_passes.engine.template_data import NotDataError, to_data
from ascend_passes.engine.template_value import NoFormError
from ascend_passes.ir import trace
from ascend_passes.options.value import Options

KEPT = range(1, len(LEADING) + 1)
"""Numbers of leading sizes whose templates are stored; a vector alone is traced."""


def stale() -> Iterator[str]:
    """Why the file is not what this torch and these sources would give; nothing where it is."""
    yield from changed_makers(document())
    rules = {rule.name: LOADED[rule] for rule in every_rule(Options())}
    stored = {name: entry["digest"] for name, entry in document()["rules"].items()}
    for name in sorted({*rules, *stored}):
        if rules.get(name) != stored.get(name):
            yield f"rule {name} has changed"


def text() -> str:
    """What the file must hold; rules are traced where the file of now is out of date."""
    keep = not list(changed_makers(document()))
    rules = {rule.name: entry(rule, keep) for rule in every_rule(Options())}
    head = {**surroundings(), "makers": maker_digests()}
    lines = [f' "{name}": {json.dumps(found, indent=2)},' for name, found in head.items()]
    lines.append(' "rules": {')
    lines.append(",\n".join(rule_lines(name, found) for name, found in rules.items()))
    return "\n".join(["{", *lines, " }", "}", ""])


def rule_lines(name: str, found: dict[str, Any]) -> str:
    """A rule's entry, one template a line."""
    spellings = []
    for spelling, bodies in found["spellings"].items():
        rows = ",\n".join(f"    {json.dumps(body)}" for body in bodies)
        spellings.append(f'   "{spelling}": [\n{rows}\n   ]')
    inside = ",\n".join(spellings)
    return f'  "{name}": {{"digest": "{found["digest"]}", "spellings": {{\n{inside}\n  }}}}'


def entry(rule: Rule, keep: bool) -> dict[str, Any]:
    """A rule's entry: the stored one where it is of this file, else traced."""
    known = document()["rules"].get(rule.name)
    if keep and known is not None and known["digest"] == LOADED[rule]:
        return dict(known)
    names = [spelling.name for spelling in rule.spellings]
    alone = [spelling for spelling in rule.spellings if names.count(spelling.name) == 1]
    spellings = {spelling.name: bodies(rule, spelling) for spelling in alone}
    return {"digest": LOADED[rule], "spellings": spellings}


def bodies(rule: Rule, spelling: Spelling) -> list[dict[str, Any]]:
    """The different templates of a spelling, each with the cases that it is for."""
    found: dict[str, list[str]] = {}
    for one, data in traced(rule, spelling):
        found.setdefault(json.dumps(data), []).append(one)
    return [{"for": cases, "template": json.loads(body)} for body, cases in found.items()]


def traced(rule: Rule, spelling: Spelling) -> Iterator[tuple[str, Any]]:
    """(case, data) of each template of a spelling that has a form as data; None where the spelling
    does not exist."""
    any_rank = has_any_rank(spelling)
    for dtype in rule.dtypes:
        for leading in (None, *(KEPT if any_rank else (0,))):
            inputs = trace.fake_inputs if leading is None else trace.symbolic_inputs
            sizes = int(any_rank) if leading is None else leading
            try:
                template = build(rule, spelling, dtype, sizes, DEVICE, inputs)
                yield case(dtype, leading), to_data(template)
            except NoFormError:
                yield case(dtype, leading), None
            except NotDataError:
                continue
