"""Find rule files, name them, and say in one hash what this process would do to a graph."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Container, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

import torch

from ascend_passes.engine.rule import Rule, RuleError, Spelling
from ascend_passes.options.value import Options, switched_on

PACKAGE = Path(__file__).resolve().parents[1]
LOADED: WeakKeyDictionary[Rule, str] = WeakKeyDictionary()
"""Rule -> digest of the files that it was loaded from. One that was made from it is not here."""


def pattern_folders() -> tuple[Path, ...]:
    """The folders of the rules that come with the package."""
    # A checkout has the rules beside the package. Its own: another one may be installed.
    inside, beside = PACKAGE / "patterns", PACKAGE.parent / "patterns"
    root = inside if inside.is_dir() else beside
    return (root / "fuse",)


def load(path: Path) -> Rule:
    """The rule in a file, under the file's name.

    Raises:
        RuleError: the file cannot be run, or has no `rule`.
    """
    package = package_of(path.parent)
    spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    digest = digest_of(path)
    try:
        sys_modules_insert(spec.name, module)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RuleError(f"{path}: {type(error).__name__}: {error}") from error
    rule = getattr(module, "rule", None)
    if not isinstance(rule, Rule):
        raise RuleError(f"{path} must end in `rule = Rule(pattern, replacement, ...)`")
    kind = rule.kind or path.parent.name
    named = dataclasses.replace(rule, name=path.stem, source=str(path), kind=kind)
    LOADED[named] = digest
    return named


def digest_of(path: Path) -> str:
    """A hash of a rule's file, and of the files beside it that rules may share."""
    digest = hashlib.sha256()
    for file in (path, *helper_files(path.parent)):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def package_of(folder: Path) -> str:
    """The package that the files of a folder are in, so that they may share helpers: a `_sizes.py`
    beside them is `from ._sizes import Rows`.
    """
    # Named by the whole path: a user's file may be called as one of ours, in the same process.
    name = f"ascend_passes_rules.{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys_modules_insert(name, package)
    return name


def helper_files(folder: Path) -> list[Path]:
    """The files of a folder that its rules may share: those that start with `_`."""
    return sorted(path for path in folder.glob("_*.py") if path.is_file())


def forget_helpers(folder: Path) -> None:
    """Read the helpers of a folder anew when its rules are loaded next."""
    package = package_of(folder)
    for path in helper_files(folder):
        sys.modules.pop(f"{package}.{path.stem}", None)


def sys_modules_insert(name: str, module: ModuleType) -> None:
    """Make a rule's module known, so that annotations and sources can be looked up."""
    sys.modules[name] = module


@functools.cache
def find(folder: Path) -> tuple[Rule, ...]:
    """The rules of a folder, by name; files that start with `_` are no rules.

    Raises:
        RuleError: a file that is no rule, no such folder, or one without rule files.
    """
    if not os.path.isdir(folder):  # which takes a name that is too long as well
        raise RuleError(f"{folder} is no folder; `rule_path` names folders with rule files")
    found = sorted(path for path in folder.glob("[!_]*.py") if path.is_file())
    if not found:
        raise RuleError(
            f"{folder} holds no rule files, as `rule_path` needs; "
            f"`ascend-passes new NAME --folder {folder}` writes one"
        )
    forget_helpers(folder)
    return tuple(load(path) for path in found)


def rules(options: Options) -> tuple[Rule, ...]:
    """The rules that are on under these options, without spellings that are off: the package's,
    then the user's own.

    Raises:
        RuleError: a rule file that does not load, or two rules of one name.
    """
    folders = [*pattern_folders(), *(Path(part) for part in options.rule_path.split(":") if part)]
    every = [rule for folder in folders for rule in find(folder)]
    refuse_twins(every)
    return tuple(
        without(rule, spellings_off(rule, options)) for rule in every if is_on(rule, options)
    )


def is_on(rule: Rule, options: Options) -> bool:
    """Whether a rule takes part: by its default and the switches of it or of one of its spellings,
    unless `keep_nan` forbids it."""
    if rule.hides_nan and options.keep_nan:
        return False
    return len(spellings_off(rule, options)) < len(rule.spellings)


def spellings_off(rule: Rule, options: Options) -> frozenset[str]:
    """The names of a rule's spellings that the switches turn off."""

    def is_off(spelling: Spelling) -> bool:
        name = rule.name_of(spelling)
        return not switched_on(name, options.rules, rule.default, family=rule.name)

    return frozenset(spelling.name for spelling in rule.spellings if is_off(spelling))


@functools.cache
def without(rule: Rule, names: frozenset[str]) -> Rule:
    """The rule without some spellings; one rule for equal names, since templates are kept by
    rule."""
    return dataclasses.replace(rule, without=names) if names else rule


def refuse_twins(every: Iterable[Rule]) -> None:
    """Raise RuleError for two rules of one name."""
    seen: dict[str, Rule] = {}
    for rule in every:
        if rule.name in seen:
            raise RuleError(f"{rule.source} and {seen[rule.name].source} have one name; rename one")
        seen[rule.name] = rule


def refuse_taken(every: Iterable[Rule], names: Container[str]) -> None:
    """Raise RuleError for a rule whose name already means something that no file says."""
    for rule in every:
        if rule.name in names:
            raise RuleError(
                f"{rule.source} is named as the recognition {rule.name} is; rename the file"
            )


def identity(options: Options) -> str:
    """A hash of all that decides what a graph becomes: sources, options and versions.

    For compile caches: equal identities rewrite equal graphs equally.
    """
    digest = hashlib.sha256()
    for path in sources(options):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr(sorted(dataclasses.asdict(_plain(options)).items())).encode())
    digest.update(torch.__version__.encode() + installed("torch-npu").encode())
    return digest.hexdigest()


def fingerprints(options: Options) -> list[str]:
    """The files of `identity` by name, each with a hash of its content."""
    return [
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        for path in sources(options)
    ]


def sources(options: Options) -> list[Path]:
    """The package's files, stored templates among them, those of the rules that are on, and the
    helpers beside them."""
    package = sorted((*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.json")))
    on = [Path(rule.source) for rule in rules(options)]
    folders = dict.fromkeys(path.parent for path in on)
    return package + on + [path for folder in folders for path in helper_files(folder)]


def _plain(options: Options) -> Options:
    return dataclasses.replace(options, expect=dict(options.expect))


def installed(distribution: str) -> str:
    """The version of an installed distribution, or "absent"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
