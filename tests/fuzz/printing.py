"""A program as a file that runs with torch and `ascend_passes` alone."""

from __future__ import annotations

import inspect
from pprint import pformat

from tests.fuzz import content, rewrite
from tests.fuzz.program import Given, Program, seed_of, source, stored

DRIVER = """

def run(wrap):
    module = Model()
    function, kept = wrap(module), {}
    for seed, sizes, manner, written in CALLS:
        for name in written:
            WAYS[manner](module, name, made(name, {}, seed))
        given = {name: made(name, sizes, seed) for name in INPUTS}
        for name, other in SAME.items():
            joined = torch.cat([given[other], given[name]])
            given[other], given[name] = joined[: len(given[other])], joined[len(given[other]) :]
        for name in KEPT:
            given[name] = kept.setdefault((name, tuple(sizes.items())), given[name])
        with torch.inference_mode() if INFERENCE else torch.no_grad():
            results = function(*given.values())
        yield tell(results, given, module)
        if WRITE_RESULTS:
            for index, result in enumerate(results):
                try:
                    result.fill_(index % 2 if result.dtype == torch.bool else index + 1)
                except (AttributeError, RuntimeError):
                    pass
            yield tell(results, given, module)


def tell(results, given, module):
    told = {f"result {i}": value for i, value in enumerate(results)}
    told |= {f"input {name}": value for name, value in given.items()}
    told |= dict(module.named_parameters()) | dict(module.named_buffers())
    tensors = {name: value for name, value in told.items() if isinstance(value, torch.Tensor)}
    place = {name: value.untyped_storage().data_ptr() for name, value in tensors.items()}
    return {
        name: (value.detach().clone(), value.stride(), value.dtype,
               [n for n in place if n != name and place[n] == place[name] and value.numel()])
        for name, value in tensors.items()
    }


def main():
    if POISON:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True
    eager = list(run(lambda module: module))
    compiled = list(run(lambda module: torch.compile(
        module, backend=ascend_dense, dynamic=DYNAMIC, options=OPTIONS)))
    for number, (one, other) in enumerate(zip(eager, compiled, strict=True)):
        for name, (value, *facts) in one.items():
            theirs, *others = other[name]
            gap = (value.double() - theirs.double()).abs().max() if value.numel() else 0
            alike = facts == others or not name.startswith("result")
            known = "" if alike else f"{others} for eager's {facts}"
            print(f"observation {number}, {name}: {float(gap):.3g} apart {known}")


if __name__ == "__main__":
    main()
"""


def spelled(program: Program, one: Given) -> str:
    """The line of a table with how something given is made."""
    return (
        f'    "{one.name}": ("{one.equal or one.name}", {one.recipe!r}, {one.shape}, '
        f"{stored(program, one.kind)}, {one.layout!r}),"
    )


def printed(program: Program) -> str:
    """The file's text; the program as a value stands at its end."""
    inputs = program.inputs()
    calls = [
        (c.seed, dict(c.sizes), c.rewrite, c.rewritten if c.rewrite else ()) for c in program.calls
    ]
    parts = [
        "import contextlib  # noqa: F401",
        "from collections.abc import Callable, Mapping  # noqa: F401",
        "from types import MappingProxyType",
        "from torch import Tensor, nn",
        body(content),
        "import torch.ao.quantization.fx._decomposed",
        "import torch.nn.functional as F",
        "import ascend_passes.npu",
        "from ascend_passes.backend import ascend_dense",
        body(rewrite),
        f"DT, WIDE = torch.{program.dtype}, torch.float32",
        f"OPTIONS, DYNAMIC = {dict(program.options)}, {program.dynamic}",
        f"POISON, INFERENCE = {program.poison}, {program.inference}",
        f"WRITE_RESULTS = {program.write_results}",
        f"INPUTS = {[one.name for one in inputs]}",
        f"KEPT = {[one.name for one in inputs if one.role == 'kept']}",
        f"SAME = { ({one.name: one.same for one in inputs if one.same}) }",
        "# Seed, sizes, and in which manner which parameters are written before.",
        f"CALLS = {pformat(calls, width=96)}",
        "GIVEN = {  # name: (the name that seeds it, recipe, shape, dtype, layout)",
        *(spelled(program, one) for one in program.given),
        "}",
        inspect.getsource(seed_of).replace("program: Program, ", ""),
        "",
        "def made(name, sizes, seed):",
        "    source, recipe, shape, dtype, layout = GIVEN[name]",
        "    shape = [sizes[size] if isinstance(size, str) else size for size in shape]",
        "    return make(seed_of(source, seed), recipe, shape, dtype, dtype, layout)",
        "",
        "def given(name, shape):",
        f"    return made(name, {{}}, {program.seed})",
        "",
        source(program),
        DRIVER.strip("\n"),
        f"# {program!r}",
    ]
    return "\n".join(parts) + "\n"


def body(module: object) -> str:
    """A module's text without its docstring and imports of annotations."""
    text = inspect.getsource(module).split('"""', 2)[2]  # type: ignore[arg-type]
    return text.replace("from __future__ import annotations", "").strip("\n")
