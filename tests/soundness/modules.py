"""A sweep over torch's own table of modules, `module_db`: in training and in evaluation."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from tests.soundness.call import backward, called
from tests.soundness.case import Case, Compile, Scenario, SkipError, generator
from tests.soundness.copies import copied
from tests.soundness.judge import seed_all
from tests.soundness.observe import Record

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
MOST_SAMPLES = 60


def cases() -> Iterator[Case]:
    """Each module, in training and in evaluation, in each dtype."""
    for info in module_db:
        dtypes = [d for d in DTYPES if d in info.dtypes]
        for training, dtype in itertools.product((True, False), dtypes):
            state = "training" if training else "evaluation"
            name = f"{info.name} {state} {str(dtype).removeprefix('torch.')}"
            yield Case("modules", name, functools.partial(build, info, dtype, training))


def build(info: Any, dtype: torch.dtype, training: bool, seed: int) -> Scenario:
    """The scenario of one module with one of its inputs."""
    seed_all(seed)
    draw = generator(seed, f"{info.name} {dtype} {training}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=training, training=training
        )
        found = [sample for sample in itertools.islice(made, MOST_SAMPLES) if sample.forward_input]
        if not found:
            raise SkipError("torch has no sample input")
        index = draw.randrange(len(found))
        given = found[index].constructor_input
        model = info.module_cls(*given.args, **given.kwargs).to(dtype).train(training)
    forward = found[index].forward_input
    inputs = (model, tuple(forward.args), dict(forward.kwargs))

    def run(compile: Compile, record: Record) -> None:
        exercise(inputs, training, compile, record)

    return Scenario(run, lambda: source(info, dtype, training, index, seed))


def exercise(inputs: Any, training: bool, compile: Compile, record: Record) -> None:
    """Two calls of one copy of a module, its results written; gradients in training."""
    model, args, kwargs = copied(inputs)
    step = compile(model)
    run: Any = lambda _, *args, **kwargs: step(*args, **kwargs)  # noqa: E731
    for stage in ("first call", "second call"):
        args, kwargs = copied((inputs[1], inputs[2]))
        with torch.set_grad_enabled(training):
            results = called(run, (None, args, kwargs), record, stage)
        state = dict(model.state_dict(keep_vars=True))
        record.see(stage, results=results, inputs=(args, kwargs), state=state)
        record.write_each(stage, detached(results), inputs=(args, kwargs), state=state)
    if training:
        given = copied((inputs[1], inputs[2]))
        backward(run, (None, *given), record, "gradients")
        record.see("gradients", parameters=[p.grad for p in model.parameters()])


def detached(results: Any) -> Any:
    """The results as plain values of the same memory."""
    return pytree.tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, results)


def source(info: Any, dtype: torch.dtype, training: bool, index: int, seed: int) -> str:
    """A file that builds the module and calls it under both backends."""
    grad = "" if training else "@torch.no_grad()\n"
    return f"""import torch
from torch.testing._internal.common_modules import module_db

{grad}def look(backend):
    torch._dynamo.reset()
    torch.manual_seed({seed})
    info = next(i for i in module_db if i.name == {info.name!r})
    made = list(info.module_inputs_func(info, device="cpu", dtype={dtype}, requires_grad={training},
                                        training={training}))
    sample = [s for s in made if s.forward_input][{index}]
    given, forward = sample.constructor_input, sample.forward_input
    model = info.module_cls(*given.args, **given.kwargs).to({dtype}).train({training})
    torch.manual_seed(7)
    return torch.compile(model, backend=backend)(*forward.args, **forward.kwargs)

for backend in ("aot_eager", "ascend_dense"):
    print(backend, look(backend))
"""
