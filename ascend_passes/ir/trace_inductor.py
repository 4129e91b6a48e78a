"""Inductor's code for a graph that is traced already, and what it assumes of sizes.

Beside `trace` the only file with private torch imports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext


def compile_with_inductor(
    gm: fx.GraphModule,
    values: Sequence[Any],
    places: Sequence[tuple[int, int | None]],
    settings: Mapping[str, Any],
    decompositions: dict[Any, Any] | None = None,
) -> tuple[Callable[..., Any], Callable[[Sequence[int]], bool]]:
    """Inductor's code for a graph at the level of AOTAutograd's, and what it holds for.

    Args:
        gm: taken over by the compiler.
        values: one for each placeholder, fake or real; where they are symbolic, their hints count.
        places: inputs, or dims of inputs, that other calls may have otherwise.
        settings: of Inductor's configuration, beside those that keep eager's roundings.
        decompositions: what operators are taken apart into, where it is not Inductor's own table.

    Returns:
        What runs the graph, and whether it is right for the numbers at `places`.
    """
    from torch._inductor.compile_fx import compile_fx

    mode = FakeTensorMode(shape_env=ShapeEnv())
    fakes = fresh_fakes(mode, values, set(places))
    for node, fake in zip(gm.graph.find_nodes(op="placeholder"), fakes, strict=True):
        node.meta["val"] = fake  # which torch 2.10 compiles C++ for
    precise = {"emulate_precision_casts": True, "triton.cudagraphs": False, **settings}
    chosen: dict[str, Any] = {}
    if decompositions is not None:
        chosen["decompositions"] = decompositions
    with tracing(TracingContext(mode)), torch.no_grad():
        run: Any = compile_fx(gm, fakes, config_patches=precise, **chosen)
    numbers = [fakes[at] if dim is None else fakes[at].shape[dim] for at, dim in places]
    return run, assumptions(mode, numbers)


def fresh_fakes(
    mode: FakeTensorMode, values: Sequence[Any], symbolic: Collection[tuple[int, int | None]]
) -> list[Any]:
    """Fakes of `mode` like the values, whose numbers at `symbolic` are symbols.

    Equal numbers become one symbol. No fact that the values' own mode knows is taken over, and none
    is added to it.
    """
    made: list[Any] = []
    for at, value in enumerate(values):
        source = torch._dynamo.source.ConstantSource(f"input_{at}")
        if (at, None) in symbolic:
            number = hint_of(value)
            symbol = mode.shape_env.create_symbol(number, source, DimDynamic.DUCK)  # type: ignore[union-attr]
            made.append(mode.shape_env.create_symintnode(symbol, hint=number, source=source))  # type: ignore[union-attr]
        elif isinstance(value, Tensor):
            dynamic = [(at, dim) in symbolic for dim in range(value.dim())]
            made.append(fresh_fake(mode, value, dynamic, source))
        else:
            made.append(value)
    return made


def fresh_fake(mode: FakeTensorMode, value: Tensor, dynamic: Sequence[bool], source: Any) -> Tensor:
    """A fake like a tensor, some of whose sizes are symbols."""
    sizes, strides = ([hint_of(n) for n in numbers] for numbers in (value.shape, value.stride()))
    plain = torch.empty_strided(sizes, strides, dtype=value.dtype, device="meta")
    kinds = [DimDynamic.DUCK if symbol else DimDynamic.STATIC for symbol in dynamic]
    context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(dynamic_sizes=kinds)
    made = mode.from_tensor(plain, symbolic_context=context, source=source)
    with mode:
        return torch.empty_strided(
            made.shape, made.stride(), dtype=value.dtype, device=value.device
        )


def hint_of(number: Any) -> int:
    """A size as a number: what it was when it became symbolic."""
    return number.node.hint if isinstance(number, torch.SymInt) else int(number)


def assumptions(mode: FakeTensorMode, numbers: Sequence[Any]) -> Callable[[Sequence[int]], bool]:
    """Whether other numbers than these are as good for what was compiled with them."""
    symbols = [n for n in numbers if isinstance(n, torch.SymInt)]
    known = [None if isinstance(n, torch.SymInt) else int(n) for n in numbers]
    environment: Any = mode.shape_env
    text = environment.produce_guards_expression(symbols) if symbols else None

    def hold(found: Sequence[int]) -> bool:
        pairs = list(zip(found, known, strict=True))
        if any(wanted is not None and number != wanted for number, wanted in pairs):
            return False
        free = [number for number, wanted in pairs if wanted is None]
        return text is None or bool(environment.evaluate_guards_expression(text, free))

    return hold
