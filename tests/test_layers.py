"""The packages form layers: each imports only those below it, also inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ascend_passes

ROOT = Path(ascend_passes.__file__).parent
LAYERS = (
    "options",
    "report",
    "ir",
    "distributed",
    "npu",
    "cost",
    "engine",
    "agreement",
    "passes",
    "meaning",
    "frontends",
    "verify",
    "executors",
    "capture",
    "compile",
    "models",
    "backend",
    "vllm",
    "support",
    "cli",
    "__main__",
)
"""From the ground up."""
ANYWHERE = ("", "patterns")
"""The package itself, whose names are loaded when they are asked for, and the rules, which are
loaded as files."""
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def package_of(module: str) -> str:
    """The layer that `ascend_passes.<module>` lies in."""
    return module.partition(".")[0]


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever it does, without `ascend_passes.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "ascend_passes":
                names = [f"ascend_passes.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("ascend_passes."):
                yield name.removeprefix("ascend_passes.")


def test_every_package_has_its_layer():
    found = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    found |= {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert found - set(ANYWHERE) == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_its_own_layer_and_those_below(path):
    own = package_of(str(path.relative_to(ROOT).with_suffix("")).replace("/", "."))
    for module in imported(path):
        package = package_of(module)
        if package in LAYERS:
            assert LAYERS.index(package) <= LAYERS.index(own), f"{own} imports {module}"


def families() -> dict[str, set[str]]:
    """Package inside `passes` -> those inside `passes` that its files import."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "passes").rglob("*.py"):
        own = family_of(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
        for module in imported(path):
            other = family_of(module)
            if module.startswith("passes.") and other != own:
                found.setdefault(own, set()).add(other)
    return found


def family_of(module: str) -> str:
    """`passes.flashcomm` of `passes.flashcomm.rows`; a single file is its own family."""
    return ".".join(module.split(".")[:2])


def test_families_of_passes_import_each_other_in_no_circle():
    arrows = families()
    left = {*arrows, *(name for others in arrows.values() for name in others)}
    while free := {name for name in left if not arrows.get(name, set()) & left}:
        left -= free
    assert not left, f"a circle among {sorted(left)}"


def test_the_page_of_the_architecture_names_every_layer():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    for layer in LAYERS:
        assert f"`{layer}`" in page
