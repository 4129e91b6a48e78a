"""The one tracer: models, patterns and replacements become the same kind of graph.

Beside `trace_inductor` the only file with private torch imports. A graph is functional aten at the
level that AOTAutograd's inference path gives without decompositions, plus custom operators;
`meta["val"]` holds fake values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.convert_frame import compile_lock
from torch._dynamo.utils import detect_fake_mode
from torch._functorch.aot_autograd import make_boxed_func
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._python_dispatch import _disable_current_modes

Compiler = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]


def compile_inference(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    compiler: Compiler,
    *,
    forward: Compiler | None = None,
    backward: Compiler | None = None,
) -> Callable[..., Any]:
    """Run AOTAutograd over a Dynamo graph and hand its functional inference graph to `compiler`.

    Input mutations stay in the graph as `copy_`. A graph that needs gradients is compiled in two
    parts, by `forward` and `backward` where these are given.
    """
    compiled: Callable[..., Any] = aot_autograd(
        fw_compiler=boxed(forward or compiler),
        bw_compiler=boxed(backward or compiler),
        inference_compiler=boxed(compiler),
        keep_inference_input_mutations=True,
    )(gm, list(example_inputs))
    return compiled


def boxed(compiler: Compiler) -> Compiler:
    """The compiler, whose results take their inputs in one list, as AOTAutograd calls them."""

    def compile_boxed(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        compiled = compiler(graph_module, inputs)
        return compiled if getattr(compiled, "_boxed_call", False) else make_boxed_func(compiled)

    return compile_boxed


def compile_piece(
    gm: fx.GraphModule, example_inputs: Sequence[Any], compiler: Compiler
) -> Callable[..., Any]:
    """`compile_inference` for a graph that was cut from another and may return a bare tensor."""
    # Loads all of Inductor, which only vLLM's pieces need.
    from torch._inductor.compile_fx import graph_returns_tuple, make_graph_return_tuple

    if graph_returns_tuple(gm):
        return compile_inference(gm, example_inputs, compiler)
    compiled: Callable[..., Any] = make_graph_return_tuple(
        gm, example_inputs, lambda piece, inputs: compile_inference(piece, inputs, compiler)
    )
    return compiled


@contextlib.contextmanager
def fresh_context() -> Iterator[None]:
    """Compile apart from the trace that is going on, whose facts are of another graph."""
    with tracing(None):
        yield


@contextlib.contextmanager
def without_artifacts() -> Iterator[None]:
    """Compile inside a caller that stores its result in its own way, with AOTAutograd's caches off.

    Dynamo's ahead-of-time compilation asks AOTAutograd for results that it could store itself.
    """
    off = {
        "bundled_autograd_cache": False,
        "enable_autograd_cache": False,
        "force_autograd_cache": False,
        "strict_autograd_cache": False,
    }
    with torch._functorch.config.patch(off):
        yield


def fake_mode_of(values: Sequence[Any]) -> FakeTensorMode:
    """The fake mode that made these values; a new one where there is none."""
    return detect_fake_mode(values) or FakeTensorMode(shape_env=ShapeEnv())


@contextlib.contextmanager
def faking(mode: FakeTensorMode) -> Iterator[None]:
    """Compute with fake values only: nothing is recorded in a surrounding trace, no guard is
    added."""
    guard = (
        mode.shape_env.suppress_guards() if mode.shape_env is not None else contextlib.nullcontext()
    )
    with mode, guard, torch.no_grad():
        yield


@contextlib.contextmanager
def outside_compilation() -> Iterator[None]:
    """Compute with real values although Dynamo is compiling or AOTAutograd watches the first call.

    Other threads wait with their compilations: tracing replaces methods of `torch.nn.Module` for a
    while, which Dynamo would see. Their calls go on; unless torch knows that a compilation is under
    way, they would take its trace for their own.
    """
    # torch before 2.13 knows by a flag of the whole process, which the compilation around has set.
    session = getattr(torch.compiler, "_compile_session_context", contextlib.nullcontext)
    with compile_lock, session(), _disable_current_modes(), tracing(None), torch.no_grad():
        yield


@contextlib.contextmanager
def compiling(values: Sequence[Any]) -> Iterator[list[Any]]:
    """What a compiler finds while AOTAutograd runs: a tracing context and its fake mode, both
    active.

    Yields the values as fakes of that mode.
    """
    mode = fake_mode_of(values)
    fakes = [mode.from_tensor(v) if isinstance(v, Tensor) else v for v in values]
    with tracing(TracingContext(mode)), mode:
        yield fakes


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Compute with real values unseen by the caller's modes, which watch or change what it
    computes."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch(), torch.no_grad():
        yield


@contextlib.contextmanager
def not_faking() -> Iterator[None]:
    """Compute with real values while a surrounding compilation computes with fake ones."""
    with unset_fake_temporarily(), torch.no_grad():
        yield


def trace(
    function: Callable[..., Any], values: Sequence[Tensor], guards: bool = True
) -> fx.GraphModule:
    """The functional graph of `function` on fake values, as AOTAutograd would give it.

    Each value is an input of its own, also where one tensor is given twice.

    Args:
        function: of the values.
        values: fakes of one mode.
        guards: whether what the trace asks of symbolic sizes becomes a fact about them. Not for a
            part of a model's graph, which serves other sizes than those of now: tracing asks
            whether tensors are contiguous.
    """
    mode = fake_mode_of(values)
    context: Any = torch._guards.TracingContext(mode)
    with tracing(context), mode if guards else faking(mode), torch.no_grad():
        functional = dispatch_functionalize(function, FunctionalTensorMode())
        apart = [settled_fake(value).detach() for value in values]
        with _use_lazy_graph_module(True):  # most are read as graphs and never run
            return make_fx(functional, record_module_stack=False)(*apart)


def settled_fake(fake: Tensor) -> Tensor:
    """A fake whose sizes are numbers where guards have made numbers of symbols; a trace cannot name
    such a symbol any more."""
    given = (*fake.shape, *fake.stride())
    known = [s.node.maybe_as_int() if isinstance(s, torch.SymInt) else None for s in given]
    if not any(number is not None for number in known):
        return fake
    numbers = [s if number is None else number for s, number in zip(given, known, strict=True)]
    shape, strides = numbers[: fake.dim()], numbers[fake.dim() :]
    return torch.empty_strided(shape, strides, dtype=fake.dtype, device=fake.device)


def symbolic_inputs(
    sizes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    device: str,
    dynamic: Collection[int] | None = None,
) -> list[Tensor]:
    """Fake tensors with symbolic sizes; equal numbers become the same symbol, so give primes.

    Args:
        sizes: a shape for each tensor.
        dtypes: a dtype for each tensor.
        device: type of the device.
        dynamic: the numbers that become symbols; None for all but 0 and 1.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    tensors = []
    for index, (shape, dtype) in enumerate(zip(sizes, dtypes, strict=True)):
        example = torch.empty(shape, dtype=dtype, device="meta")
        with mode:
            kinds = [
                DimDynamic.DUCK if dynamic is None or size in dynamic else DimDynamic.STATIC
                for size in shape
            ]
            context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(
                dynamic_sizes=kinds
            )
            source = torch._dynamo.source.ConstantSource(f"input_{index}")
            tensors.append(mode.from_tensor(example, symbolic_context=context, source=source))
    with mode:
        return [torch.empty_like(tensor, device=device) for tensor in tensors]


def fake_inputs(
    sizes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype], device: str
) -> list[Tensor]:
    """Fake tensors with plain sizes."""
    with FakeTensorMode():
        return [
            torch.empty(shape, dtype=dtype, device=device)
            for shape, dtype in zip(sizes, dtypes, strict=True)
        ]


def aot_graph(
    model: Callable[..., Any], *arguments: Any, dynamic: bool | None = None, **keywords: Any
) -> fx.GraphModule:
    """The inference graph of a model as the backend would see it; nothing is run.

    Raises:
        RuntimeError: the model breaks into several graphs or none.
    """
    graphs: list[fx.GraphModule] = []

    def keep(gm: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(gm)
        return gm.forward

    def backend(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return compile_inference(gm, example_inputs, keep)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend, dynamic=dynamic)(*arguments, **keywords)
    if len(graphs) != 1:
        raise RuntimeError(f"the model became {len(graphs)} graphs, not one; look for graph breaks")
    return graphs[0]


def static_positions() -> tuple[int, ...]:
    """Positions of the inputs, in the graph being compiled, that keep their memory between calls.

    Parameters, buffers, and tensors marked by `torch._dynamo.mark_static_address`. Empty outside of
    `compile_inference`.
    """
    context: Any = TracingContext.try_get()
    metadata = context.fw_metadata if context is not None else None
    return tuple(metadata.static_input_indices) if metadata is not None else ()


def module_state(
    gm: fx.GraphModule, inputs: Sequence[Any], positions: Sequence[int]
) -> tuple[int, ...]:
    """Those of `positions` at which a Dynamo graph takes a parameter or buffer of a module.

    The others, such as Hugging Face's static cache, only promise their address.
    """
    nodes = gm.graph.find_nodes(op="placeholder")
    sources = [getattr(getattr(node, "_dynamo_source", None), "name", "") for node in nodes]
    if len(sources) != len(inputs):
        sources = [""] * len(inputs)
    return tuple(
        index
        for index in positions
        if isinstance(inputs[index], torch.nn.Parameter)
        or any(kind in str(sources[index]) for kind in ("._parameters[", "._buffers["))
    )
