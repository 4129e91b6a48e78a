"""What can go wrong on one rank, and how all of them must end."""

from __future__ import annotations

import importlib
import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from processes import DEVICE, DIED, mark
from torch import Tensor, nn

import ascend_passes
from ascend_passes.compile import variant as compiled
from ascend_passes.distributed import mailbox, presence

CULPRIT = 1
EACH = 4.0
"""Seconds that a rank is slow or stopped: longer than it takes to call another one lost."""
FINE = "right"


@dataclass(frozen=True)
class Case:
    """One fault and a pattern for the end of each rank."""

    run: Callable[..., Any]
    ends: Sequence[str]
    """Regular expressions, in the order of ranks."""
    arguments: tuple[Any, ...] = ()


class Model(nn.Module):
    """Two row-parallel products; `before` runs in front of them and `between` in the midst."""

    def __init__(self, before: Any = None, between: Any = None) -> None:
        super().__init__()
        self.group = dist.group.WORLD.group_name
        self.before, self.between = before or plainly, between or plainly
        torch.manual_seed(0)
        self.first, self.second = (nn.Parameter(torch.randn(8, 8) / 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.all_reduce(self.before(x) @ self.first, "sum", self.group)
        return functional.all_reduce(self.between(torch.tanh(x)) @ self.second, "sum", self.group)


def compile_it(model: Any, **options: Any) -> Any:
    return torch.compile(
        model, backend=ascend_passes.ascend_dense, options={"rules": "-*"} | options
    )


@torch.no_grad()
def check(model: Any, rows: int = 4, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    """Compile and run; "right" where the result is that of the products without any group."""
    torch.manual_seed(1)
    x = torch.randn(rows, 8, dtype=dtype)
    return verdict(compile_it(model, **options)(x), x, model)


def verdict(found: Tensor, x: Tensor, model: Any) -> str:
    ranks = dist.get_world_size()
    first, second = model.first.double(), model.second.double()
    expected = torch.tanh(ranks * (x.double() @ first)) @ second * ranks
    return FINE if torch.allclose(found.double(), expected, atol=1e-4) else "WRONG NUMBERS"


def then_alike(error: BaseException, model: Any = None) -> str:
    """The error's text, and how a compilation ends that is alike on all ranks."""
    mark()
    torch._dynamo.reset()
    return f"{type(error).__name__}: {error} THEN {check(model or Model())}"


def differing(rank: int, what: str) -> str:
    one = rank == CULPRIT
    model = Model(between=averaged if one and what == "graph" else None)
    options: dict[str, Any] = {}
    if one and what == "option":
        options["flashcomm"] = True
    if one and what == "off":
        options["off"] = True
    if one and what == "expect":
        options["expect"] = {"swiglu": 1}
    if one and what == "bad option":
        options["flashcomm_tokens"] = -5
    if one and what == "profile":
        options["profile"] = "cpu"
    if what == "group":
        dist.new_group([0, 1])
        other = dist.new_group([0, 1])
        model.group = other.group_name if one else model.group
    dtype = torch.float64 if one and what == "dtype" else torch.float32
    try:
        return check(model.to(dtype), 5 if one and what == "tokens" else 4, dtype, **options)
    except Exception as error:
        return then_alike(error)


class Mesh(nn.Module):
    """A sum over each dimension of a mesh of two by two ranks."""

    def __init__(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        super().__init__()
        mesh = init_device_mesh(DEVICE, (2, 2), mesh_dim_names=("dp", "tp"))
        self.groups = [mesh[name].get_group().group_name for name in ("tp", "dp")]

    def forward(self, x: Tensor) -> Tensor:
        for group in self.groups:
            x = functional.all_reduce(x * 2, "sum", group)
        return x


def fails_on_a_mesh(rank: int) -> str:
    """Rank 0 shares no group with the rank that fails."""
    model, x = Mesh(), torch.ones(2)
    try:
        compile_it(model, **({"flashcomm_tokens": -5} if rank == 3 else {}))(x)
        return "nobody failed"
    except Exception as error:
        mark()
        torch._dynamo.reset()
        found = FINE if torch.equal(compile_it(model)(x), x * 16) else "WRONG NUMBERS"
        return f"{type(error).__name__}: {error} THEN {found}"


def plainly(x: Tensor) -> Tensor:
    return x


def averaged(x: Tensor) -> Tensor:
    """One more sum."""
    return functional.all_reduce(x, "sum", dist.group.WORLD.group_name) / dist.get_world_size()


def raising(x: Tensor) -> Tensor:
    raise ValueError("the model does not like this")


def raises_while_tracing(rank: int) -> str:
    try:
        return check(Model(raising if rank == CULPRIT else None))
    except Exception as error:
        mark()
        # Until the other one has given up; else it would meet this one's next compilation.
        while rank == CULPRIT and mailbox.closing((0, 1), 0) is None:
            time.sleep(0.1)
        return then_alike(error)


def raises_then_runs_eagerly(rank: int) -> str:
    """The rank that failed is not compiled again: Dynamo skips its model from there on."""
    model = Model(raising if rank == CULPRIT else None)
    step = compile_it(model)
    x = torch.randn(4, 8, generator=torch.Generator(DEVICE).manual_seed(1))
    try:
        with torch.no_grad():
            return verdict(step(x), x, model)
    except Exception as error:
        mark()
        model.before = plainly
        with torch.no_grad():
            return f"{type(error).__name__}: {error} THEN {verdict(step(x), x, model)}"


def raises_behind_a_collective(rank: int) -> str:
    """Uncompiled, the others would be inside the second collective by then."""
    return check(Model(between=raising if rank == CULPRIT else None))


def fails_only_in_tracing(rank: int) -> str:
    """The rank that failed runs eagerly at once: nothing is wrong with its model."""
    return check(Model(untraceable if rank == CULPRIT else None))


def untraceable(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        raise ValueError("only a trace comes here")
    return x


def raises_in_aot(rank: int) -> str:
    """A model of DTensors, whose collectives are in no graph of Dynamo's."""
    from torch._subclasses.functional_tensor import FunctionalTensor
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh = init_device_mesh(DEVICE, (dist.get_world_size(),))
    weight = DTensor.from_local(torch.ones(4, 8), mesh, [Shard(0)])

    def forward(x: Tensor) -> Tensor:
        given = DTensor.from_local(x, mesh, [Shard(1)])
        total = (given @ weight).redistribute(mesh, [Replicate()]).to_local()
        return torch.ops.fault_cases.picky(total) if rank == CULPRIT else total * 1

    def refuse(x: Tensor) -> Tensor:
        if isinstance(x, FunctionalTensor):
            raise ValueError("AOTAutograd cannot trace this")
        return x.clone()

    library = torch.library.Library("fault_cases", "FRAGMENT")
    library.define("picky(Tensor x) -> Tensor")
    library.impl("picky", refuse, "CompositeImplicitAutograd")
    with torch.no_grad():
        compile_it(forward)(torch.ones(2, 4))
    return FINE


def at_execution(rank: int, act: Callable[[], None]) -> None:
    """Have the culprit do something in the midst of its compilation."""
    real = compiled.execute

    def acting(*arguments: Any) -> Any:
        act()
        return real(*arguments)

    if rank == CULPRIT:
        compiled.execute = acting


def dies(rank: int, culprit: int = CULPRIT) -> str:
    at_execution(rank - culprit + CULPRIT, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return check(Model())


def is_slow(rank: int) -> str:
    at_execution(rank, lambda: time.sleep(EACH))
    return check(Model())


def comes_late(rank: int) -> str:
    time.sleep(EACH if rank == CULPRIT else 0)
    return check(Model())


def is_stopped(rank: int) -> str:
    """As in a debugger; a helper process lets the rank go on."""

    def stop() -> None:
        process = os.getpid()
        if os.fork() == 0:
            time.sleep(EACH)
            os.kill(process, signal.SIGCONT)
            os._exit(0)
        os.kill(process, signal.SIGSTOP)

    at_execution(rank, stop)
    return check(Model())


def recompiles_alone(rank: int, flashcomm: bool) -> str:
    model = Model()
    chosen = {"flashcomm": True, "passes": "-sequence_parallel.cost"} if flashcomm else {}
    step = compile_it(model, **chosen)
    x = torch.randn(4, 8, generator=torch.Generator(DEVICE).manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        first = verdict(step(x), x, model)
        if rank == CULPRIT:
            torch._dynamo.reset()
        found = f"{first} {verdict(step(x), x, model)}"
        torch._dynamo.reset()
        found += f" {verdict(step(x), x, model)}"
    alone = [str(one.message) for one in told if "compiles alone" in str(one.message)]
    return " ".join([found, *alone])


def runs_eagerly(rank: int) -> str:
    model = Model()
    if rank != CULPRIT:
        return check(model)
    importlib.reload(presence)  # as where the package is imported behind the group's start
    x = torch.randn(4, 8, generator=torch.Generator(DEVICE).manual_seed(1))
    with torch.no_grad():
        return verdict(model(x), x, model)


class Merged(Model):
    """Two biases, equal by chance on one rank only."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8) + rank)

    def forward(self, x: Tensor) -> Tensor:
        return functional.all_reduce(torch.tanh(x + self.one) + self.two, "sum", self.group)


def writes_merged_weights(rank: int, everywhere: bool) -> str:
    model = Merged(rank)
    step, x = compile_it(model), torch.ones(4, 8)
    with torch.no_grad():
        step(x)
        if everywhere or rank == 0:
            for parameter in (model.one, model.two):
                parameter.fill_(0.5)
        found, expected = step(x), model(x)
    return FINE if torch.equal(found, expected) else "WRONG NUMBERS"


MESSAGES = (
    b"\xff not json \x1b[31m",
    b"7",
    b"[1]",
    b'["the traced graph", {}]',
    b'["the traced graph", [{"options": 3}]]',
    b'["the traced graph", ["text"]]',
    b"[" * 100_000,
    b'["\\u001b[31mred", [{}]]',
    b"0" * (mailbox.LIMIT + 1),
)


def finds_rubbish(rank: int, index: int) -> str:
    """Somebody else has written into the store in place of a rank's message."""
    if rank == CULPRIT:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"{mailbox.address((0, 1), '0/0')}/{rank}", MESSAGES[index])
        time.sleep(1)
        return FINE
    try:
        return check(Model())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def loses_the_store(rank: int) -> str:
    """Rank 0, which holds the store, dies while all compile."""
    return dies(rank, culprit=0)


LOST = (
    ".*AgreementError: (the store of the process groups is lost|rank 0 of .* its process has ended)"
)
COMES = ".*AgreementError: rank 1 of the group of ranks \\[0, 1\\] "
ALIKE = f".* THEN {FINE}$"


def both(pattern: str) -> tuple[str, str]:
    return (pattern, pattern)


CASES = {
    "another option": Case(
        differing,
        both(f".*options: ranks \\[0\\] have flashcomm=False; ranks \\[1\\].*{ALIKE}"),
        ("option",),
    ),
    "off": Case(differing, both(f".*have off=False; ranks \\[1\\] have off=True{ALIKE}"), ("off",)),
    "another profile": Case(differing, both(f".*profile{ALIKE}"), ("profile",)),
    "another dtype": Case(
        differing,
        both(
            ".*AgreementError: .*collectives: number 1: ranks \\[0\\] have .*all_reduce of "
            "torch.float32\\[4, 8\\].*fault_cases.py:\\d+ in forward: .*; "
            f"ranks \\[1\\] have .*torch.float64{ALIKE}"
        ),
        ("dtype",),
    ),
    "another graph": Case(
        differing,
        both(f".*AgreementError: .*ranks \\[0\\] have 2; ranks \\[1\\] have 3 in all{ALIKE}"),
        ("graph",),
    ),
    "another size": Case(
        differing,
        both(f".*number 1: .*\\[4, 8\\].*ranks \\[1\\] have .*\\[5, 8\\]{ALIKE}"),
        ("tokens",),
    ),
    "another group of the same ranks": Case(
        differing,
        both(f".*group: ranks \\[0\\] have number 1 of .*ranks \\[1\\] have number 3{ALIKE}"),
        ("group",),
    ),
    "a bad option": Case(
        differing,
        (f".*AgreementError: rank 1 .*OptionError.*at least -1{ALIKE}", f".*OptionError.*{ALIKE}"),
        ("bad option",),
    ),
    "a bad option on a mesh": Case(
        fails_on_a_mesh,
        [f".*rank [123] of .*OptionError.*at least -1.*{ALIKE}"] * 3 + [f".*Option.*{ALIKE}"],
    ),
    "expects more": Case(differing, both(f".*swiglu{ALIKE}"), ("expect",)),
    "raises while Dynamo traces": Case(
        raises_while_tracing,
        (
            f"{COMES}cannot come to this graph: it could not compile forward .*ValueError.*"
            f"fault_cases.py:\\d+{ALIKE}",
            f"ValueError: .*{ALIKE}",
        ),
    ),
    "raises, then runs eagerly": Case(
        raises_then_runs_eagerly,
        (
            f"({FINE}|{COMES}cannot come to this graph: it could not.*{ALIKE})",
            f"ValueError: .*{ALIKE}",
        ),
    ),
    "raises behind a collective": Case(
        raises_behind_a_collective, (".*Connection closed by peer", "ValueError: ")
    ),
    "fails in tracing only": Case(fails_only_in_tracing, both(FINE)),
    "raises in AOTAutograd, with DTensors": Case(
        raises_in_aot,
        (f"{COMES}cannot come to this graph: (it could|its process)", ".*cannot trace this"),
    ),
    "dies while it compiles": Case(
        dies, (f"{COMES}cannot come to this graph: its process has ended", DIED)
    ),
    "the holder of the store dies": Case(loses_the_store, (DIED, LOST)),
    "compiles slowly": Case(is_slow, both(f"{FINE}$")),
    "comes late": Case(comes_late, both(f"{FINE}$")),
    "is stopped for a while": Case(is_stopped, both(f"{FINE}$")),
    "compiles again alone": Case(
        recompiles_alone,
        (f"{FINE} {FINE} {FINE}$", f"{FINE} {FINE} {FINE} rank 0 .*is inside a collective"),
        (False,),
    ),
    "compiles again alone, with FlashComm": Case(
        recompiles_alone,
        (".*Connection closed by peer", ".*AgreementError: rank 0 .*is inside a collective"),
        (True,),
    ),
    "runs eagerly": Case(runs_eagerly, both(f"{FINE}$")),
    "all write weights that one rank merged": Case(writes_merged_weights, both(FINE), (True,)),
    "one writes weights that it merged": Case(writes_merged_weights, both(FINE), (False,)),
    **{
        f"finds rubbish in the store, {index}": Case(
            finds_rubbish, (".*AgreementError: .*rank 1.*", FINE), (index,)
        )
        for index in range(len(MESSAGES))
    },
}


def fault_of(case: Case, told: Sequence[Any]) -> str:
    """What is not as it must be, "" where all is."""
    pairs = zip(case.ends, told, strict=True)
    wrong = [
        f"rank {rank} ended in {str(text)!r}, not {pattern!r}"
        for rank, (pattern, text) in enumerate(pairs)
        if not re.match(pattern, str(text), re.DOTALL) or "\x1b" in str(text)
    ]
    return "\n".join(wrong)
