"""Writes docs/conformance.md from the wheel: `python -m tests.conformance.inside.table [--check]`.

Runs in the environment of `build.environment()`; `tests.conformance.write_table` starts it there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from hypothesis import find, settings

from ascend_passes import npu
from ascend_passes.executors.execute import has_converter
from ascend_passes.npu.operator import Operator
from tests.conformance import build, wheel_faults
from tests.conformance.inside import fakes, inputs, ir_node, kernels, single, wheel

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
* a small Qwen3 gives the CPU's tokens on `npu:0`, eager, compiled, captured and replayed, and in
  a captured decode through a static KV cache;
* the captured decode of a static W8A8 Qwen3 gives bit for bit what it gives uncaptured, and the
  CPU's logits within 1/16 of the largest, which is what an int8 step can move;
* npugraph_ex compiles, captures, updates the attention's lengths and replays our graphs, leaves
  them as they are, and neither copies nor loses what they write;
* torchair turns our graphs into CANN's graph IR, or we refuse with the operator's name;
* npugraph_ex's own pattern pass fuses outside the documented dtype table into each of the three
  operators of ours that it can emit, and we refuse there; for every operator with a dtype table
  the wheel's Meta function takes dtypes that we refuse, and never the reverse.

Kernels on the stand-in are our CPU references, so none of this says anything about the numbers or
the speed of an NPU. What the columns claim of an operator:

* schema equal, fake equal: as above, but for the faults of the wheel that are listed below;
* npugraph_ex, "replayed": the code that npugraph_ex makes of a graph of this operator calls it
  exactly once; it captures that graph and replays it with new numbers in the same memory, and
  results and written arguments are those of the reference. "compiled": the code alone, for
  operators that need HCCL, which the stand-in has not;
* torchair converter: the one node of CANN's graph IR that the operator becomes; whether the CANN
  of a machine knows that node is asked there and not here. "none, refused": torchair has no
  converter, and the executor `torchair` refuses the graph by the operator's name.

All of it takes about 160 s of one core, beside the download of the wheel on a fresh machine; the
limit is six minutes, and each run of `pytest tests/conformance` prints what it took. This page is
written by `python -m tests.conformance.write_table`.

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
    cells = (f"`{operator.name}`", yes(same), fake_cell(operator))
    engines = (npugraph_ex_cell(operator), torchair_cell(operator))
    return f"| {' | '.join((*cells, *engines))} |"


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


def npugraph_ex_cell(operator: Operator) -> str:
    """Whether npugraph_ex keeps the operator, alone in a graph, as it is."""
    kept = single.problem(operator, call_of(operator), operator.reference) == ""
    way = "compiled" if operator.name in single.COLLECTIVE else "replayed"
    return way if kept else yes(False)


def torchair_cell(operator: Operator) -> str:
    """The operator's node in CANN's graph IR."""
    if not has_converter(wheel.overload(operator)):
        return "none, refused"
    return f"`{ir_node.node_of(operator, call_of(operator))}`"


def page() -> str:
    """The whole page."""
    operators = npu.of_cann().values()
    ir_node.without_cann()
    kernels.install({operator.qualified_name: operator.reference for operator in operators})
    table = "\n".join(map(row, operators))
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
