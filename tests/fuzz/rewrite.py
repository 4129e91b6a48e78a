"""Every manner of writing a parameter between two calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn


def no_grad_copy(module: nn.Module, name: str, new: Tensor) -> None:
    """As an optimizer without fused kernels writes."""
    with torch.no_grad():
        getattr(module, name).copy_(new)


def data_copy(module: nn.Module, name: str, new: Tensor) -> None:
    """As weight loaders write; no version counts it."""
    getattr(module, name).data.copy_(new)


def data_assigned(module: nn.Module, name: str, new: Tensor) -> None:
    """Other memory behind the same parameter."""
    getattr(module, name).data = new.clone()


def loaded(module: nn.Module, name: str, new: Tensor) -> None:
    """`load_state_dict`."""
    module.load_state_dict({**module.state_dict(), name: new})


def loaded_assigned(module: nn.Module, name: str, new: Tensor) -> None:
    """`load_state_dict(assign=True)`."""
    module.load_state_dict({**module.state_dict(), name: new.clone()}, assign=True)


def replaced(module: nn.Module, name: str, new: Tensor) -> None:
    """Another parameter or buffer under the name."""
    old = getattr(module, name)
    is_parameter = isinstance(old, nn.Parameter)
    fresh = nn.Parameter(new.clone(), requires_grad=old.requires_grad) if is_parameter else new
    setattr(module, name, fresh)


def bytes_of(tensor: Tensor) -> Tensor:
    """The memory of a dense tensor, as bytes."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def numpy_written(module: nn.Module, name: str, new: Tensor) -> None:
    """Through a numpy array of the same memory."""
    bytes_of(getattr(module, name)).numpy()[...] = bytes_of(new).numpy()


def storage_written(module: nn.Module, name: str, new: Tensor) -> None:
    """Through the untyped storage."""
    getattr(module, name).detach().untyped_storage().copy_(new.clone().untyped_storage())


def detached_view(module: nn.Module, name: str, new: Tensor) -> None:
    """Through a view of the detached tensor."""
    getattr(module, name).detach().view(-1).copy_(new.view(-1))


def inference_written(module: nn.Module, name: str, new: Tensor) -> None:
    """Under `inference_mode`."""
    with torch.inference_mode():
        getattr(module, name).copy_(new)


def fused_step(module: nn.Module, name: str, new: Tensor) -> None:
    """By the kernel of a fused optimizer: a step of plain SGD that ends at the new values."""
    old = getattr(module, name)
    if not old.is_floating_point() or new.dtype == torch.float16:
        data_copy(module, name, new)
        return
    torch._fused_sgd_(
        [old.detach()],
        [(old.detach() - new)],
        [],
        weight_decay=0.0,
        momentum=0.0,
        lr=1.0,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


Manner = Callable[[nn.Module, str, Tensor], None]
WAYS: Mapping[str, Manner] = MappingProxyType(
    {
        way.__name__: way
        for way in (
            no_grad_copy,
            data_copy,
            data_assigned,
            loaded,
            loaded_assigned,
            replaced,
            numpy_written,
            storage_written,
            detached_view,
            inference_written,
            fused_step,
        )
    }
)
MANNERS = tuple(WAYS)
