"""Ways of changing weights after compilation; the next call must compute with the new ones.

The model invites what a compiler may do with constants: two norms whose weights are equal, and work
on a parameter alone.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.soundness.case import Case, Compile, Scenario
from tests.soundness.functions import build as build_function
from tests.soundness.observe import Record

Way = Callable[[nn.Module, Tensor], Any]
H = 8


class Net(nn.Module):
    """Equal norms, a scale that is folded, two equal linear layers, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(H), nn.RMSNorm(H)
        self.scale, self.shift = nn.Parameter(torch.ones(H)), nn.Parameter(torch.zeros(H))
        self.a, self.b = nn.Linear(H, H, bias=False), nn.Linear(H, H, bias=False)
        with torch.no_grad():
            self.b.weight.copy_(self.a.weight)
        self.register_buffer("offset", torch.zeros(H))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x) * (self.scale * 2 + 1).sqrt() + self.shift.exp()
        return self.b(self.second(self.a(y))) + self.offset.cos() * 2


def tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, then buffers."""
    return [*model.parameters(), *model.buffers()]


def changed(tensor: Tensor, index: int) -> Tensor:
    """Other values, so that tensors that were equal are not any more."""
    return tensor.detach() * (1.3 + 0.1 * index) + 0.05 * (index + 1)


def each(write: Callable[[Tensor, Tensor], Any]) -> Way:
    """A way that does the same to every tensor of a model: `write(tensor, new values)`."""

    def way(model: nn.Module, x: Tensor) -> None:
        for index, tensor in enumerate(tensors(model)):
            write(tensor, changed(tensor, index))

    return way


def quietly(write: Callable[[Tensor, Tensor], Any]) -> Way:
    """`each` without gradients."""
    return torch.no_grad()(each(write))


def one_of_two(write: Callable[[Tensor, Tensor], Any]) -> Way:
    """A way that changes only the second of two equal weights."""

    @torch.no_grad()
    def way(model: Any, x: Tensor) -> None:
        write(model.second.weight, changed(model.second.weight, 3))

    return way


def states(model: nn.Module) -> dict[str, Tensor]:
    """A state dictionary of other values."""
    return {name: changed(t, i) for i, (name, t) in enumerate(model.state_dict().items())}


def optimizer(kind: Any, **keywords: Any) -> Way:
    """Two steps of an optimizer, on gradients that eager computes."""

    def way(model: nn.Module, x: Tensor) -> None:
        chosen = kind(model.parameters(), lr=0.1, **keywords)
        for _ in range(2):
            chosen.zero_grad()
            with torch.enable_grad():
                (model(x) - x).square().sum().backward()
            chosen.step()

    return way


def set_data(tensor: Tensor, new: Tensor) -> None:
    tensor.data = new


def set_data_freed_first(tensor: Tensor, new: Tensor) -> None:
    new = new.clone()
    tensor.data = torch.empty(0)
    tensor.data = new.clone()


def write_numpy(tensor: Tensor, new: Tensor) -> None:
    tensor.detach().numpy()[...] = new.numpy()


def write_dlpack(tensor: Tensor, new: Tensor) -> None:
    torch.from_dlpack(tensor.detach()).copy_(new)


def write_storage(tensor: Tensor, new: Tensor) -> None:
    tensor.untyped_storage().copy_(new.clone().untyped_storage())


def write_pointer(tensor: Tensor, new: Tensor) -> None:
    ctypes.memmove(tensor.data_ptr(), new.contiguous().data_ptr(), tensor.nbytes)


def write_set(tensor: Tensor, new: Tensor) -> None:
    tensor.set_(new.clone())


def write_data_set(tensor: Tensor, new: Tensor) -> None:
    tensor.data.set_(new.clone())


def write_preserved(tensor: Tensor, new: Tensor) -> None:
    with torch.autograd._unsafe_preserve_version_counter(tensor):
        tensor.copy_(new)


def write_thread(tensor: Tensor, new: Tensor) -> None:
    thread = threading.Thread(target=lambda: tensor.data.copy_(new))
    thread.start()
    thread.join()


def write_inference(tensor: Tensor, new: Tensor) -> None:
    with torch.inference_mode():
        tensor.copy_(new)


def swap(tensor: Tensor, new: Tensor) -> None:
    other = nn.Parameter(new.clone(), tensor.requires_grad)
    torch.utils.swap_tensors(tensor, other if isinstance(tensor, nn.Parameter) else new.clone())


def load(model: nn.Module, x: Tensor) -> None:
    model.load_state_dict(states(model))


def load_assign(model: nn.Module, x: Tensor) -> None:
    model.load_state_dict(states(model), assign=True)


def load_assign_repeated(model: nn.Module, x: Tensor) -> None:
    for _ in range(3):
        model.load_state_dict(states(model), assign=True)
        gc.collect()


def load_saved(model: nn.Module, x: Tensor) -> None:
    file = io.BytesIO()
    torch.save(states(model), file)
    file.seek(0)
    model.load_state_dict(torch.load(file))


def new_parameters(model: Any, x: Tensor) -> None:
    for index, layer in enumerate((model.first, model.second, model.a, model.b)):
        layer.weight = nn.Parameter(changed(layer.weight, index))


def new_modules(model: Any, x: Tensor) -> None:
    model.second, model.b = nn.RMSNorm(H), nn.Linear(H, H, bias=False)
    nn.init.uniform_(model.second.weight)


def initialized(model: Any, x: Tensor) -> None:
    nn.init.normal_(model.first.weight)
    nn.init.constant_(model.scale, 3.0)


def vector(model: nn.Module, x: Tensor) -> None:
    flat = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(
        flat * 1.5 + torch.linspace(0, 1, flat.numel()), model.parameters()
    )


def shared_then_written(model: nn.Module, x: Tensor) -> None:
    model.share_memory()
    each(lambda t, new: t.data.copy_(new))(model, x)


def half_and_back(model: nn.Module, x: Tensor) -> None:
    each(set_data)(model, x)
    model.bfloat16().float()


def foreach(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch._foreach_mul_(list(model.parameters()), [1.1 + i for i in range(6)])


def compiled_writer(model: nn.Module, x: Tensor) -> None:
    @torch.compile(backend="aot_eager")
    def write(parameters: list[Tensor]) -> None:
        for index, parameter in enumerate(parameters):
            parameter.mul_(1.1 + index)

    with torch.no_grad():
        write(list(model.parameters()))


def averaged(model: nn.Module, x: Tensor) -> None:
    """An exponential moving average, as many trainers keep one."""
    for index, parameter in enumerate(model.parameters()):
        parameter.data.lerp_(changed(parameter, index), 0.5)


def adapters(model: Any, x: Tensor) -> None:
    """Low-rank updates merged into weights."""
    for index, layer in enumerate((model.a, model.b)):
        layer.weight.data += torch.randn(H, 2) @ torch.randn(2, H) * (index + 1)


def scripted_step(model: nn.Module, x: Tensor) -> None:
    """Gradient descent by hand through `.data`."""
    with torch.enable_grad():
        (model(x) - x).square().sum().backward()
    for parameter in model.parameters():
        parameter.data -= 0.1 * parameter.grad


WAYS: dict[str, Way] = {
    "copy": quietly(lambda t, new: t.copy_(new)),
    "add": quietly(lambda t, new: t.add_(new)),
    "index": quietly(lambda t, new: t.__setitem__(slice(0, 3), new[:3])),
    "view": quietly(lambda t, new: t.view(-1)[:5].copy_(new.view(-1)[:5])),
    "detached": each(lambda t, new: t.detach().copy_(new)),
    "data_assigned": each(set_data),
    "data_assigned_freed_first": each(set_data_freed_first),
    "data_copy": each(lambda t, new: t.data.copy_(new)),
    "data_mul": each(lambda t, new: t.data.mul_(new)),
    "data_add": each(lambda t, new: t.data.add_(new)),
    "data_fill": each(lambda t, new: t.data.fill_(float(new.flatten()[0]))),
    "data_set": each(write_data_set),
    "data_in_a_thread": each(write_thread),
    "one_data_copy": one_of_two(lambda t, new: t.data.copy_(new)),
    "one_data_last_element": one_of_two(lambda t, new: t.data[-1:].copy_(new[-1:])),
    "one_numpy": one_of_two(write_numpy),
    "one_copy": one_of_two(lambda t, new: t.copy_(new)),
    "numpy": each(write_numpy),
    "dlpack": each(write_dlpack),
    "untyped_storage": each(write_storage),
    "pointer": each(write_pointer),
    "set": quietly(write_set),
    "version_preserved": quietly(write_preserved),
    "inference_mode": each(write_inference),
    "swap_tensors": quietly(swap),
    "load_state_dict": load,
    "load_state_dict_assign": load_assign,
    "load_state_dict_assign_repeated": load_assign_repeated,
    "loaded_from_file": load_saved,
    "new_parameters": new_parameters,
    "new_modules": new_modules,
    "initialized": initialized,
    "vector_to_parameters": vector,
    "share_memory": shared_then_written,
    "other_dtype_and_back": half_and_back,
    "foreach": foreach,
    "compiled_writer": compiled_writer,
    "moving_average": averaged,
    "adapters_merged": adapters,
    "gradient_descent_by_hand": scripted_step,
    "sgd": optimizer(torch.optim.SGD, foreach=False),
    "sgd_foreach": optimizer(torch.optim.SGD, foreach=True),
    "sgd_fused": optimizer(torch.optim.SGD, fused=True),
    "adam": optimizer(torch.optim.Adam, foreach=False),
    "adam_foreach": optimizer(torch.optim.Adam, foreach=True),
    "adam_fused": optimizer(torch.optim.Adam, fused=True),
    "adamw_fused": optimizer(torch.optim.AdamW, fused=True),
}
MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "training": torch.enable_grad,
}


def cases() -> Iterator[Case]:
    """Each way in each mode, and the functions below."""
    for mode in MODES:
        for way in WAYS:
            yield Case("weights", f"{way} {mode}", functools.partial(build, way, mode))
    for function in (trained, functional_call, tied, copied_model, freed_old_weights):
        name = function.__name__
        yield Case("weights", name, functools.partial(build_named, function, name))


def build(way: str, mode: str, seed: int) -> Scenario:
    """The scenario of one way in one mode."""

    def run(compile: Compile, record: Record) -> None:
        record.see("returned", results=reloaded(compile, WAYS[way], MODES[mode]))

    return Scenario(run, lambda: source(way, mode))


def build_named(function: Any, name: str, seed: int) -> Scenario:
    """The scenario of one function."""
    import tests.soundness.weights as module

    return build_function(function, name, module, seed)


def source(way: str, mode: str) -> str:
    """The few lines that show one way; they take it from here."""
    return f"""import functools, torch
from tests.soundness.weights import MODES, WAYS, reloaded

for backend in ("aot_eager", "ascend_dense"):
    torch._dynamo.reset()
    torch.manual_seed(0)
    print(backend, reloaded(functools.partial(torch.compile, backend=backend),
                            WAYS[{way!r}], MODES[{mode!r}]))
"""


def reloaded(compile: Compile, way: Way, mode: Callable[[], Any]) -> Any:
    """Results before and after a change, and after a second one; gradients where there are any."""
    model, x = Net(), torch.randn(3, H)
    step = compile(model)
    results = []
    for turn in range(3):
        with mode():
            results.append(step(x))
        if results[-1].requires_grad:
            model.zero_grad()
            results[-1].sum().backward()
            results += [t.grad.clone() for t in model.parameters() if t.grad is not None]
        if turn < 2:
            way(model, x)
    return [t.clone() if t.is_inference() else t for t in results], tensors(model)


def trained(compile: Compile) -> Any:
    """Twelve steps of a fused optimizer on the compiled model's own gradients."""
    model = Net()
    step, chosen = compile(model), torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    losses = []
    for _ in range(12):
        x = torch.randn(6, H)
        loss = (step(x) - x.cos()).square().mean()
        chosen.zero_grad()
        loss.backward()
        chosen.step()
        losses.append(loss.detach())
    return losses, list(model.parameters())


@torch.no_grad()
def functional_call(compile: Compile) -> Any:
    """Parameters given with each call."""
    model, x = Net(), torch.randn(3, H)
    step = compile(lambda given, x: torch.func.functional_call(model, given, (x,)))
    other = {name: changed(t, i) for i, (name, t) in enumerate(model.named_parameters())}
    return step(dict(model.named_parameters()), x), step(other, x)


@torch.no_grad()
def tied(compile: Compile) -> Any:
    """Tied weights that are untied after compilation."""
    model, x = Net(), torch.randn(3, H)
    model.second.weight = model.first.weight
    step = compile(model)
    results = [step(x)]
    model.first.weight.data.mul_(2)
    results.append(step(x))
    model.second.weight = nn.Parameter(torch.rand(H))
    return [*results, step(x)]


@torch.no_grad()
def copied_model(compile: Compile) -> Any:
    """A copy of a compiled model has weights of its own."""
    model, x = Net(), torch.randn(3, H)
    step = compile(model)
    results = [step(x)]
    other = copy.deepcopy(step)
    each(lambda t, new: t.data.copy_(new))(model, x)
    return [*results, other(x), step(x)]


@torch.no_grad()
def freed_old_weights(compile: Compile) -> Any:
    """Weights that were replaced do not stay in memory."""
    model, x = Net(), torch.randn(3, H)
    step = compile(model)
    step(x)
    old = [weakref.ref(tensor) for tensor in tensors(model)]
    load_assign(model, x)
    result = step(x)
    gc.collect()
    return result, [tensor() is None for tensor in old]
