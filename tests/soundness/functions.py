"""Cases that are plain functions: each takes `compile` and returns what is to be looked at."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tests.soundness.case import Case, Compile, Scenario
from tests.soundness.observe import Record

LOOK = """
import functools
from torch.utils import _pytree as pytree

for backend in ("aot_eager", "ascend_dense"):
    torch._dynamo.reset()
    torch.manual_seed({seed})
    compiler = functools.partial(torch.compile, backend=backend)
    try:
        found = pytree.tree_leaves({name}(compiler))
    except Exception as error:
        print(backend, "raises", type(error).__name__, str(error).splitlines()[:1])
        continue
    print(backend)
    for t in found:
        shared = [
            i for i, o in enumerate(found)
            if isinstance(o, torch.Tensor) and isinstance(t, torch.Tensor)
            and o.untyped_storage()._cdata == t.untyped_storage()._cdata
        ]
        print("   ", t, "memory of", shared)
"""


def cases(sweep: str, module: ModuleType) -> Iterator[Case]:
    """A case for each public function of a module whose argument is `compile`."""
    for name, function in vars(module).items():
        if not name.startswith("_") and takes_compile(function, module):
            yield Case(sweep, name, functools.partial(build, function, name, module))


def takes_compile(item: Any, module: ModuleType) -> bool:
    """Whether something is a function of a module and its first argument is `compile`."""
    if not inspect.isfunction(item) or item.__module__ != module.__name__:
        return False
    return list(inspect.signature(item).parameters)[:1] == ["compile"]


def build(function: Callable[..., Any], name: str, module: ModuleType, seed: int) -> Scenario:
    """The scenario of one function."""

    def run(compile: Compile, record: Record) -> None:
        record.see("returned", results=function(compile))

    config = getattr(module, "CONFIG", {}).get(name, {})
    return Scenario(run, lambda: source(function, name, module, seed, config), config=config)


def source(
    function: Callable[..., Any], name: str, module: ModuleType, seed: int, config: Any
) -> str:
    """A file with the function and what it uses of its module."""
    needed = needs(function, name, module)
    constants = [f"{key} = {item!r}" for key, item in needed.items() if isinstance(item, int)]
    settings = [f"torch._dynamo.config.{key} = {value!r}" for key, value in config.items()]
    parts = [inspect.getsource(i) for i in reversed(needed.values()) if not isinstance(i, int)]
    imports = "\n".join(
        line
        for line in inspect.getsource(module).splitlines()
        if line.startswith(("import ", "from ")) and "tests." not in line
    )
    look = LOOK.format(seed=seed, name=name)
    return "\n".join([imports, *settings, *constants, "", *parts, look])


def needs(function: Callable[..., Any], name: str, module: ModuleType) -> dict[str, Any]:
    """A function, and the functions, classes and numbers of its module that it uses."""
    needed: dict[str, Any] = {name: function}
    pending: list[Any] = [function]
    while pending:
        for used in sorted(names_in(pending.pop()) - set(needed)):
            item = vars(module).get(used)
            if isinstance(item, int) or getattr(item, "__module__", "") == module.__name__:
                needed[used] = item
                pending.append(item)
    return needed


def names_in(item: Any) -> set[str]:
    """Global names that a function, or a class's methods, use; those of inner functions too."""
    if inspect.isclass(item):
        parts = [v for v in vars(item).values() if inspect.isfunction(v)]
        return set().union(*(names_in(v) for v in parts)) if parts else set()
    return names_of(inspect.unwrap(item).__code__) if inspect.isfunction(item) else set()


def names_of(code: Any) -> set[str]:
    """The same of a code object."""
    inner = [c for c in code.co_consts if inspect.iscode(c)]
    return set(code.co_names).union(*(names_of(c) for c in inner))
