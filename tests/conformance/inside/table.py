"""Writes docs/conformance.md from the wheel: `python -m tests.conformance.inside.table [--check]`.

Runs in the environment of `build.environment()`; `tests.conformance.write_table` starts it there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from operator import getitem

import torch
from hypothesis import find, settings
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from ascend_passes import npu
from ascend_passes.execute import execute, has_converter, load_torchair
from ascend_passes.npu.operator import Operator
from ascend_passes.options import Options
from tests.conformance import build, wheel_faults
from tests.conformance.inside import fakes, inputs, wheel

PAGE = build.ROOT / "docs" / "conformance.md"
HEAD = f"""# Conformance with torch_npu

What the operators that our passes emit are in torch_npu {build.VERSION}, found by running the real
wheel on a machine without an NPU. `pytest tests/conformance` installs the wheel in a folder of its
own, builds stand-ins for the CANN libraries from the wheel's own undefined symbols, and checks:

* every schema equals the wheel's, character by character;
* every fake agrees with the wheel's Meta function on shapes, dtypes and strides, for random calls
  with plain and with symbolic sizes, and with what the C++ operators allocate;
* the table of operators that write arguments without declaring it equals what CANN's own operator
  declarations in the wheel say;
* a small Qwen3 gives the CPU's tokens on `npu:0`, eager, compiled, captured and replayed;
* the captured decode of a static W8A8 Qwen3 gives bit for bit what it gives uncaptured, and the
  CPU's logits within 1/16 of the largest, which is what an int8 step can move;
* npugraph_ex compiles, captures, updates the attention's lengths and replays our graphs, leaves
  them as they are, and neither copies nor loses what they write;
* torchair turns our graphs into CANN's graph IR, or we refuse with the operator's name;
* npugraph_ex's own pattern pass fuses outside the documented dtype table, and we refuse there.

Kernels on the stand-in are our CPU references, so none of this says anything about the numbers or
the speed of an NPU. The IR of operators that torchair declares only beside an installed CANN is
not made here. This page is written by `python -m tests.conformance.write_table`.

| operator | schema equal | fake equal | npugraph_ex | torchair converter |
|---|---|---|---|---|
"""


FAULTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("Symbolic sizes", wheel_faults.SYMBOLIC),
    ("Inputs that are not contiguous", wheel_faults.KEEPS_STRIDES),
    ("Optional arguments", wheel_faults.OPTIONAL),
    ("No Meta", wheel_faults.NO_META),
    ("Meta against C++", wheel_faults.ALLOCATED),
)
"""What each kind of fault of the wheel is about, and the operators that have it."""


def row(operator: Operator) -> str:
    """One operator's line."""
    same = wheel.normalized(operator.schema) == wheel.schema(operator)
    converter = has_converter(wheel.overload(operator))
    cells = (f"`{operator.name}`", yes(same), fake_cell(operator), npugraph_ex(operator))
    return f"| {' | '.join(cells)} | {'yes' if converter else 'none, refused'} |"


def yes(value: bool) -> str:
    """A cell."""
    return "yes" if value else "**no**"


def call_of(operator: Operator) -> inputs.Call:
    """The smallest call of an operator."""
    chosen = settings(database=None)
    return inputs.CALLS[operator.name](
        inputs.Draw(lambda strategy: find(strategy, lambda _: True, settings=chosen))
    )


def fake_cell(operator: Operator) -> str:
    """Whether the fakes agree, with the numbers of the wheel's faults that the tests hold."""
    marks = [str(i) for i, (_, table) in enumerate(FAULTS, 1) if operator.name in table]
    faults = f", but for {' and '.join(marks)}" if marks else ""
    if operator.name in wheel_faults.NO_META:
        return f"none there{faults}"
    agrees = fakes.difference(operator.fake, wheel.overload(operator), call_of(operator)) == ""
    return yes(agrees) + faults


def npugraph_ex(operator: Operator) -> str:
    """Whether npugraph_ex compiles a graph of this operator to its Python code."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    call = call_of(operator)
    values: list[Tensor] = []
    graph = fx.Graph()

    def placeholder(tensor: Tensor) -> fx.Node:
        with mode:
            values.append(torch.empty(tensor.shape, dtype=tensor.dtype, device="npu:0"))
        node = graph.placeholder(f"input_{len(values)}")
        node.meta["val"] = values[-1]
        return node

    args, kwargs = pytree.tree_map_only(Tensor, placeholder, (call.args, call.kwargs))
    node = graph.call_function(wheel.overload(operator), args, kwargs)
    count = len(wheel.overload(operator)._schema.returns)
    several = range(count if count > 1 else 0)
    items = [graph.call_function(getitem, (node, index)) for index in several]
    graph.output(tuple(items) if items else (node,) * count)
    runner = execute(
        fx.GraphModule({}, graph),
        values,
        Options(executor="npugraph_ex", cudagraph_mode="FULL"),
        "npu",
    )
    return yes(operator.name in runner.get_code())


def page() -> str:
    """The whole page."""
    load_torchair()
    table = "\n".join(map(row, npu.OPERATORS.values()))
    faults = "\n".join(
        f"{number}. {subject}: {'; '.join(sorted(set(entries.values())))}."
        for number, (subject, entries) in enumerate(FAULTS, 1)
    )
    return f"{HEAD}{table}\n\nFaults of the wheel, each held by a test:\n\n{faults}\n"


def main(words: list[str]) -> int:
    """Write the page, or with `--check` say whether it is up to date."""
    text = page()
    if "--check" not in words:
        PAGE.write_text(text)
        return 0
    if PAGE.is_file() and PAGE.read_text() == text:
        return 0
    print(f"{PAGE.name} is out of date: run `python -m tests.conformance.write_table`")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
