"""Templates of the package's own rules that need no trace: they were traced when the file was made.

A template is a function of its rule's file, of the code that traces it, of torch, and of the kind
of device. The file names all of these as they were; where one differs now, nothing of it is used
and the rule is traced, as rules from elsewhere are.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ascend_passes.engine.registry import LOADED, PACKAGE, installed
from ascend_passes.engine.rule import Rule, Spelling
from ascend_passes.engine.template_data import from_data
from ascend_passes.engine.template_value import NoFormError, Template

FILE = PACKAGE / "engine" / "stored_templates.json"
DEVICE = "cpu"
"""The kind of device that the file is made for; another one may have kernels that trace apart."""
OUTLINE = "outline"
MAKERS = (
    "distributed/groups.py",
    "engine/examples.py",
    "engine/forms.py",
    "engine/normalize.py",
    "engine/rule.py",
    "engine/scalar_constant.py",
    "engine/template.py",
    "engine/template_data.py",
    "engine/template_value.py",
    "engine/variants.py",
    "ir/arguments.py",
    "ir/edit.py",
    "ir/graph.py",
    "ir/proof.py",
    "ir/sharing.py",
    "ir/trace.py",
    "ir/traced_sizes.py",
    "ir/traits.py",
    "npu/*.py",
    "options/errors.py",
)
"""The package's files whose code runs while a template is traced."""


def find_stored(
    rule: Rule, spelling: Spelling, dtype: torch.dtype, leading: int | None, device: str
) -> Template | None:
    """A stored template; None where there is none or it may be out of date.

    Args:
        rule: as the registry loaded it; one that was made from it may say something else.
        spelling: one of the rule's.
        dtype: of untyped inputs.
        leading: the number of sizes that `...` stands for; None for the outline.
        device: the kind of device of the inputs.

    Raises:
        NoFormError: the spelling does not exist for the dtype, as in `template.build`.
    """
    if rule not in LOADED or not usable(device):
        return None
    entry = document()["rules"].get(rule.name)
    if entry is None or entry["digest"] != LOADED[rule]:
        return None
    known, key = by_case(rule.name), (spelling.name, case(dtype, leading))
    if key not in known:
        return None
    if known[key] is None:
        raise NoFormError(f"{spelling.name} does not exist for {dtype}")
    return from_data(known[key], rule, spelling, dtype)


def case(dtype: torch.dtype, leading: int | None) -> str:
    """`bfloat16 outline` or `float32 2`: what a stored template is for."""
    kind = OUTLINE if leading is None else leading
    return f"{str(dtype).removeprefix('torch.')} {kind}"


@functools.cache
def by_case(name: str) -> Mapping[tuple[str, str], Any]:
    """(spelling, case) -> the data of one rule's templates; None for one that does not exist."""
    return {
        (spelling, one): body["template"]
        for spelling, bodies in document()["rules"][name]["spellings"].items()
        for body in bodies
        for one in body["for"]
    }


@functools.cache
def usable(device: str) -> bool:
    """Whether the file was made with the code, the torch and the kind of device of now."""
    return device == DEVICE and not list(changed_makers(document()))


def changed_makers(found: Mapping[str, Any]) -> Iterator[str]:
    """What a file was made with that is another now, but for the rules' own files."""
    for name, now in surroundings().items():
        if found[name] != now:
            yield f"{name} was {found[name]}, is {now}"
    was, makers = found["makers"], maker_digests()
    for name in sorted({*was, *makers}):
        if was.get(name) != makers.get(name):
            yield f"{name} has changed"


def surroundings() -> dict[str, str]:
    """Whose operators a trace meets."""
    return {"torch": torch.__version__, "torch_npu": installed("torch-npu")}


@functools.cache
def maker_digests() -> Mapping[str, str]:
    """File -> hash, of all `MAKERS`."""
    files = sorted(path for pattern in MAKERS for path in PACKAGE.glob(pattern))
    return {
        path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@functools.cache
def document() -> Mapping[str, Any]:
    """The file; one without rules where there is none."""
    try:
        found: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    except OSError:
        return {"torch": "", "torch_npu": "", "makers": {}, "rules": {}}
    return found
