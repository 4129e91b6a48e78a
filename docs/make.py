"""Write what is generated: the pages of options, operators, reports, accuracy and rules, the table
of stages in `architecture.md`, and the stored templates.

With --check, write nothing and fail where a file is not what it should be.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import store
import torch

from ascend_passes import npu
from ascend_passes.cli.list import row_of
from ascend_passes.cli.rules import Named, every_named
from ascend_passes.compile.stages import STAGES
from ascend_passes.engine import stored
from ascend_passes.engine.rule import Rule
from ascend_passes.models.limits import EXACT, FLOAT, NO_WORSE, W8A8
from ascend_passes.npu.operator import Operator
from ascend_passes.options.value import Options
from ascend_passes.report.schema import VALUES
from ascend_passes.report.value import SCHEMA, VERSION
from ascend_passes.support import PAIRS
from ascend_passes.verify.recognition import recognition_page
from ascend_passes.verify.rule_page import RulePage, page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BEGIN, END = "<!-- {}: written by `make docs` -->", "<!-- end of {} -->"
GENERATED = "<!-- Written by `make docs`; do not edit. -->"


def main() -> int:
    """0; 1 where --check finds pages that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    wanted = dict(pages())
    stale = [path for path, text in wanted.items() if current(path) != text]
    extra = [path for path in (DOCS / "rules").glob("*.md") if path not in wanted]
    outdated = list(store.stale())
    if outdated:
        print(f"{stored.FILE.name}: {'; '.join(outdated)}")
    for path in (*stale, *extra, *([stored.FILE] if outdated else [])):
        print(f"{path.relative_to(ROOT)} {'is out of date' if check else 'written'}")
    if check:
        return 1 if stale or extra or outdated else 0
    if outdated:
        stored.FILE.write_text(store.text())
    (DOCS / "rules").mkdir(exist_ok=True)
    for path in stale:
        path.write_text(wanted[path])
    for path in extra:
        path.unlink()
    return 0


def current(path: Path) -> str | None:
    """What the file holds, None where there is none."""
    return path.read_text() if path.is_file() else None


def pages() -> Iterator[tuple[Path, str]]:
    """Each generated file and what it must hold."""
    yield DOCS / "options.md", options_page()
    yield DOCS / "operators.md", operators_page()
    yield DOCS / "report-format.md", report_page()
    yield DOCS / "accuracy.md", accuracy_page()
    yield DOCS / "architecture.md", architecture_page(DOCS / "architecture.md")
    yield DOCS / "support.md", support_page(DOCS / "support.md")
    every = every_named(Options())
    yield DOCS / "rules" / "index.md", index_page(every)
    for one in every:
        text = rule_page(page(one)) if isinstance(one, Rule) else page_of_recognition(one.name)
        yield DOCS / "rules" / f"{one.name}.md", text


def with_table(path: Path, name: str, table: Sequence[str]) -> str:
    """The page as it is, with a table of today between the two marks of this name."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, "", *table, "", end + after])


def architecture_page(path: Path) -> str:
    """The page with today's stages."""
    rows = [f"| {i} | `{one.name}` | {one.does} |" for i, one in enumerate(STAGES, 1)]
    return with_table(path, "stages", ["| | stage | what it does |", "|---|---|---|", *rows])


def support_page(path: Path) -> str:
    """The page with the pairs of versions."""
    columns = ("torch", "torch_npu", "vllm", "vllm_ascend", "transformers")
    heads = ("pair", "torch", "torch_npu", "vLLM", "vllm-ascend", "transformers", "tested by")
    rows = [
        (pair.name, *(getattr(pair, column) or "none" for column in columns), pair.tested)
        for pair in PAIRS
    ]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows)]
    return with_table(path, "pairs", lines)


def options_page() -> str:
    """The table of the options, from the fields of `Options`."""
    lines = [
        "# Options",
        "",
        GENERATED,
        "",
        'Given as `torch.compile(model, backend="ascend_dense", options={...})`, as',
        "`--option NAME=VALUE` to a command, or as environment variables; an option that is given",
        "wins over the environment.",
        "An unknown option or a wrong value is an error that lists what is valid.",
        "",
        "| option | default | environment variable | meaning |",
        "|---|---|---|---|",
    ]
    defaults = Options()
    for field in fields(Options):
        choices = field.metadata["choices"]
        valid = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        default = getattr(defaults, field.name)
        shown = dict(default) if isinstance(default, Mapping) else default
        sentence = field.metadata["sentence"] + valid
        lines.append(
            f"| `{field.name}` | `{shown!r}` | `{field.metadata['environment']}` | {sentence} |"
        )
    return "\n".join(lines) + "\n"


def report_page() -> str:
    """What a report's JSON holds, from the values that it is made of."""
    lines = [
        "# The format of a report",
        "",
        GENERATED,
        "",
        "`Report.to_json()` and `explain --json` give objects of this form; `run --json` has a",
        f"list of them as `reports`. `schema` is `{SCHEMA}`, `version` is {VERSION}: another",
        "number where a field changes its meaning or goes, the same one where a field comes, so",
        "leave out what you do not know. `ascend_passes.report.schema.json_schema()` is the JSON",
        "Schema of today's version, and `read_reports(path)` reads a file back.",
    ]
    for kind in VALUES:
        lines += ["", f"## {kind.__name__}", "", (kind.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| field | type | |", "|---|---|---|"]
        said = field_sentences(kind)
        for field in fields(kind):
            shown = str(field.type).replace("|", "\\|")
            lines.append(f"| `{field.name}` | `{shown}` | {said.get(field.name, '')} |")
    return "\n".join(lines) + "\n"


def field_sentences(kind: type) -> dict[str, str]:
    """Field -> the text that stands below it in the class."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for one, below in itertools.pairwise(made.body):
        if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(one.target, ast.Name) and isinstance(below.value, ast.Constant)
            found[one.target.id] = " ".join(str(below.value.value).split())
    return found


def operators_page() -> str:
    """The NPU operators, from their declarations."""
    lines = [
        "# Operators",
        "",
        GENERATED,
        "",
        "What the passes emit and know of the operators of torch_npu, as `ascend_passes/npu` says",
        "it. [Add an operator](add-an-operator.md) goes through a declaration.",
        "",
        "| operator | results | what the passes know | documentation |",
        "|---|---|---|---|",
    ]
    for operator in npu.OPERATORS.values():
        known = "; ".join(knowledge(operator))
        lines.append(f"| `{operator.name}` | {sentence(operator)} | {known} | {operator.source} |")
    return "\n".join(lines) + "\n"


def sentence(operator: Operator) -> str:
    """The first sentence of the reference's docstring, without its full stop."""
    return (operator.reference.__doc__ or "").strip().splitlines()[0].removesuffix(".")


def knowledge(operator: Operator) -> Iterator[str]:
    """An operator's traits in words."""
    if operator.rows:
        yield f"row-wise in {quoted(operator.rows)}"
    if operator.matmul is not None:
        yield f"product of {quoted((operator.matmul.left, operator.matmul.right))}"
    if operator.collective:
        yield operator.collective
    if operator.activation:
        yield "activation"
    if operator.writes:
        yield f"writes {quoted(operator.writes)} undeclared"
    if operator.effect:
        yield "an effect"


def quoted(names: Sequence[str]) -> str:
    """`a`, `b`."""
    return ", ".join(f"`{name}`" for name in names)


def accuracy_page() -> str:
    """The bounds of operators and models."""
    lines = [
        "# Accuracy",
        "",
        GENERATED,
        "",
        "Every operator has a reference in plain PyTorch with the documented rounding, held to a",
        "bound against the same formula in float64, on random shapes, values and strides. The",
        "tests read the numbers below. An NPU's own kernels are not measured here.",
        "",
        "ULP are units in the last place of the result's dtype, taken at the float64 value: 0.5",
        "is correctly rounded. LSB are steps of an integer result, from the float64 value before",
        "it is rounded: 0.5 is the nearest integer.",
        "",
        "| operator | result | unit | bound by dtype | on top of it |",
        "|---|---|---|---|---|",
    ]
    stated = {name: operator.accuracy for name, operator in npu.OPERATORS.items()}
    for name, bounds in stated.items():
        for one in () if isinstance(bounds, str) else bounds:
            largest = ", ".join(f"{short(dtype)} {limit:g}" for dtype, limit in one.largest.items())
            lines.append(f"| `{name}` | {one.result} | {one.unit} | {largest} | {one.besides} |")
    lines += ["", "| operator | what holds of it |", "|---|---|"]
    lines += [f"| `{name}` | {said} |" for name, said in stated.items() if isinstance(said, str)]
    floats = ", ".join(f"{short(dtype)} {limit:g}" for dtype, limit in FLOAT.items())
    lines += [
        "",
        "## Models",
        "",
        "`run` and `demo` compare teacher-forced logits with the model in float64; errors are",
        "relative, root mean square.",
        "",
        f"* The rewritten graphs, computed in float64, are within {EXACT:g}: the passes change no",
        "  formula. Rounding of a bfloat16 or W8A8 model would hide a gain that is off by a",
        "  percent, or another epsilon; this does not.",
        f"* The compiled model in its own dtype is within {floats}, W8A8 {W8A8:g},",
        f"  and, but for float32, at most {NO_WORSE:g} times as far from float64 as eager is.",
        "* A float32 model chooses eager's tokens.",
        "",
        "The model in float64 is loaded by transformers alone; compressed-tensors reads its int8",
        "weights back and quantizes by the stored scales, so that a checkpoint that is read",
        "wrongly shows. Of a dynamic scale the checkpoint holds nothing: it is `max / 127` on both",
        "sides, where compressed-tensors has 127.5.",
        "",
        "Of a model with experts the second bound is that of the median token: tokens near a tie",
        "go to other experts, whoever rounds, and few are far from float64 then. Its int8 experts",
        "are packed by us on both sides, since transformers packs floats alone; a test compares",
        "them as stored.",
        "",
        "Gemma scales by one plus its weight. `npu_add_rms_norm` takes that gain in the rows'",
        "dtype alone, and the rounding moved bfloat16 Gemma models to 1.04 to 1.14 times eager's",
        "distance (median of tokens). So the residual add is fused into the norm in float32 and",
        "where a quantize follows; elsewhere it stands in front of `npu_gemma_rms_norm`.",
        "",
        "## NaN",
        "",
        "A NaN is handed on where eager hands it on, with one exception: int8 has none. A NaN that",
        "meets a quantize with a stored scale is 0 from there on, alone or in a fused operator,",
        "as on the NPU; the formula spelled out in float, which eager computes, hands it on. A",
        "quantize by each row's largest value keeps it, through the row's scale. With the option",
        "`keep_nan` the rules that hide a NaN are off: slower, for finding where one comes from.",
        "`run` says whose logits are no numbers: eager's, the compiled model's or the reference's.",
    ]
    return "\n".join(lines) + "\n"


def short(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def index_page(every: Sequence[Named]) -> str:
    """The list of all recognitions and rules with their sentences."""
    rows = [row_of(one, Options()) for one in every]
    lines = [
        f"| [{row['name']}]({row['name']}.md) | {row['kind']} | {row['summary']} |" for row in rows
    ]
    return "\n".join(
        ["# Rules", "", GENERATED, "", "| rule | kind | |", "|---|---|---|", *lines, ""]
    )


def page_of_recognition(name: str) -> str:
    """The page of one recognition."""
    one = recognition_page(name)
    source = Path(one.source).resolve()
    link = Path("../..") / source.relative_to(ROOT.resolve())
    return "\n".join(
        [
            f"# {one.name}",
            "",
            GENERATED,
            "",
            one.summary,
            "",
            f"Kind: {one.kind}. Source: [{source.name}]({link}).",
            "",
            "## How it is known",
            "",
            one.documentation,
            "",
            "Tolerance against the spelling in float64, in units in the last place or steps of "
            f"int8: {one.tolerance:g}.",
            "",
            "## Refused where",
            "",
            "Only the documented limits of the operator refuse it.",
            "",
            *(f"* {limit}" for limit in one.limits),
            "",
            *code("Graph before, of one spelling", one.graph_before),
            *code("Graph after", one.graph_after),
        ]
    )


def rule_page(one: RulePage) -> str:
    """The page of one rule."""
    source = Path(one.source).resolve()
    link = Path("../..") / source.relative_to(ROOT.resolve())
    refusals = [f"* {reason}" for reason in one.conditions]
    return "\n".join(
        [
            f"# {one.name}",
            "",
            GENERATED,
            "",
            one.documentation,
            "",
            f"Kind: {one.kind}. Source: [{source.name}]({link}).",
            f"Sizes in tests: {'; '.join(one.examples)}.",
            "",
            *code("Pattern", "\n\n\n".join(one.patterns)),
            *code("Replacement", one.replacement),
            *(code("Helpers", "\n\n\n".join(one.helpers)) if one.helpers else []),
            *spellings(one),
            "## Refused where",
            "",
            *(refusals or ["Only the documented limits of the operator refuse it."]),
            "",
            *code("Graph before", one.graph_before),
            *code("Graph after", one.graph_after),
            *code("Explained", one.explained, ""),
            *(
                code("Explained where an inner value is shared", one.missed, "")
                if one.missed
                else []
            ),
        ]
    )


def spellings(one: RulePage) -> list[str]:
    """The section with the names of a rule's spellings, where there are several."""
    names = [f"* `{name}`" for name in one.spellings]
    return ["## Spellings", "", *names, ""] if names else []


def code(title: str, text: str, language: str = "python") -> list[str]:
    """A section with code in it."""
    return [f"## {title}", "", f"```{language}", text, "```", ""]


if __name__ == "__main__":
    sys.exit(main())
