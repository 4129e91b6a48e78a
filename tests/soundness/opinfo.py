"""Sweeps over torch's own table of operators: `op_db` and its sample inputs."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

from tests.soundness import literal
from tests.soundness.call import Call
from tests.soundness.case import Case, Scenario, SkipError, generator
from tests.soundness.judge import seed_all
from tests.soundness.programs import NAMED, PLAIN, Program, Trial, drawn, named

MOST_SAMPLES = 100
"""Samples of an operator from which one is drawn."""
NARROW = (torch.float16, torch.bfloat16, torch.float32)
MOST_ELEMENTS = 20_000
"""Larger samples cost time and show no more."""
SWEEPS = {
    "plain": (torch.float32, ("plain",)),
    "composed": (torch.float32, (*NAMED, "drawn 1", "drawn 2")),
    "backward": (torch.float32, ("plain", "copies", "unchanged", "drawn 1")),
    "dynamic": (torch.float32, ("plain", "drawn 1", "drawn automatic")),
    "refused": (torch.float32, ("plain",)),
    "bfloat16": (torch.bfloat16, ("plain", "drawn 1")),
    "int64": (torch.int64, ("plain", "drawn 1")),
    "bool": (torch.bool, ("plain", "numbers", "drawn 1")),
}
"""Sweep -> dtype of the samples, and the compositions that are made of each operator."""


def cases(sweep: str) -> Iterator[Case]:
    """The cases of one sweep; building them is what costs time."""
    dtype, compositions = SWEEPS[sweep]
    for operator in sorted(op_db, key=full_name):
        if dtype not in operator.dtypes:
            continue
        if sweep == "backward" and not operator.supports_autograd:
            continue
        if sweep == "refused" and operator.error_inputs_func is None:
            continue
        for composition in compositions:
            name = f"{full_name(operator)} {composition}"
            yield Case(sweep, name, functools.partial(build, operator, sweep, composition))


def full_name(operator: Any) -> str:
    """`linalg.norm.subgradients_at_zero`."""
    return ".".join(filter(None, (operator.name, operator.variant_test_name)))


def build(operator: Any, sweep: str, composition: str, seed: int) -> Scenario:
    """The scenario of one composition of an operator."""
    draw = generator(seed, f"{sweep} {full_name(operator)} {composition}")
    found = samples(operator, sweep, seed)
    inputs, other = chosen(found, draw), chosen(found, draw)
    names = {"op": operator.op}
    if operator.inplace_variant is not None:
        names["inplace"] = operator.inplace_variant
    program = program_of(composition, names, inputs, draw)
    origin = Origin(
        operator,
        sweep == "backward",
        True if sweep == "dynamic" and composition != "drawn automatic" else None,
        other if sweep == "dynamic" else None,
    )
    return scenario(program, names, inputs, origin)


def samples(operator: Any, sweep: str, seed: int) -> list[Any]:
    """Sample inputs that are not too large; for `refused`, those that raise.

    Raises:
        SkipError: torch makes none.
    """
    seed_all(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sweep == "refused":
            made = (error.sample_input for error in operator.error_inputs("cpu"))
        else:
            gradients = sweep == "backward"
            made = operator.sample_inputs("cpu", SWEEPS[sweep][0], requires_grad=gradients)
        found = [s for s in itertools.islice(made, MOST_SAMPLES) if elements(s) <= MOST_ELEMENTS]
    if not found:
        raise SkipError(f"torch has no sample of at most {MOST_ELEMENTS} elements")
    return found


def elements(sample: Any) -> int:
    """Elements of all tensors of a sample."""
    tree = (sample.input, sample.args, sample.kwargs)
    return sum(leaf.numel() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def chosen(found: list[Any], draw: Any) -> Any:
    """Inputs of one sample, of two draws the larger: most samples of some operators are empty."""
    sample = max(draw.choice(found), draw.choice(found), key=elements)
    return sample.input, sample.args, sample.kwargs


def program_of(composition: str, names: Any, inputs: Any, draw: Any) -> Program:
    """The program of a composition by its name.

    Raises:
        SkipError: the operator gives no tensor, or has no such form.
    """
    if composition == "plain":
        return PLAIN
    if composition == "in place" and "inplace" not in names:
        raise SkipError("the operator has no form that writes its argument")
    trial = Trial(names, inputs)
    made = drawn(draw, trial) if composition.startswith("drawn") else named(composition, trial)
    if made is None:
        raise SkipError("no line of the composition runs in eager")
    return made


@dataclass(frozen=True)
class Origin:
    """What a scenario is of."""

    operator: Any
    gradients: bool
    dynamic: bool | None
    other: Any
    """Inputs of the second call, where they are others."""


def scenario(program: Program, names: Any, inputs: Any, origin: Origin) -> Scenario:
    """A program with inputs as a scenario."""
    call = Call(program.function(names), inputs, origin.gradients, origin.other)
    return Scenario(
        run=call.run,
        source=lambda: source(program, inputs, origin),
        dynamic=origin.dynamic,
        smaller=lambda: [scenario(p, names, inputs, origin) for p in program.smaller()],
        wide=lambda: scenario(
            program, names, widened(inputs), replace(origin, other=widened(origin.other))
        ),
    )


def widened(inputs: Any) -> Any:
    """The inputs with float64 in the place of narrower floats; a tensor that stands in them twice
    does so afterwards."""
    made: dict[int, Tensor] = {}

    def wide(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dtype not in NARROW:
            return leaf
        if id(leaf) not in made:
            made[id(leaf)] = leaf.detach().double().requires_grad_(leaf.requires_grad)
        return made[id(leaf)]

    return pytree.tree_map(wide, inputs)


def source(program: Program, inputs: Any, origin: Origin) -> str:
    """A file that shows what the two backends give."""
    return literal.script(
        literal.operator_lines(origin.operator, "inplace(" in program.source),
        program.source,
        inputs,
        origin.dynamic,
        origin.gradients,
    )
