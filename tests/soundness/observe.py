"""What can be observed of a run, as a dictionary of facts that compare equal or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.soundness.copies import is_plain

MOST_WRITTEN = 6
"""Results of one call that are written in turn."""
COPIES = ", copies"
"""What the name of a stage ends with where copies of results were written."""


@dataclass(frozen=True)
class Bits:
    """A tensor's values; any NaN equals any other, and -0.0 is not 0.0."""

    content: bytes
    shown: Any = field(compare=False, repr=False)
    """What people are shown of it."""

    def near(self, other: Bits, kind: torch.dtype | None = None) -> bool:
        """Whether the values are the same to the rounding of torch.testing, in another dtype where
        they were computed in that."""
        one, two = (it.shown if kind is None else it.shown.to(kind) for it in (self, other))
        try:
            torch.testing.assert_close(one, two, equal_nan=True)
        except AssertionError:
            return False
        return True

    def __str__(self) -> str:
        return " ".join(str(self.shown).split())[:200]


@dataclass
class Record:
    """The facts of one run by name, `stage | label | fact`."""

    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, fact: Any) -> None:
        """Keep one fact."""
        self.facts[name] = fact

    def attempt(self, stage: str, action: Callable[[], Any]) -> Any:
        """The result of an action; what it raises is a fact, and None the result."""
        try:
            return action()
        except Exception as error:
            self.note(f"{stage} | raises", type(error).__name__)
            self.note(f"{stage} | message", message(error))
            return None

    def see(self, stage: str, **trees: Any) -> None:
        """Keep all facts of the tensors in some trees, and which of them share memory."""
        named = dict(leaves(trees))
        for label, leaf in named.items():
            for name, fact in facts_of(leaf):
                self.note(f"{stage} | {label} | {name}", fact)
        self.note(f"{stage} | shared memory", groups(named, storage_of))
        self.note(f"{stage} | same object", groups(named, tensor_identity))

    def see_values(self, stage: str, **trees: Any) -> None:
        """Keep the values alone."""
        for label, leaf in leaves(trees):
            if isinstance(leaf, Tensor):
                self.note(f"{stage} | {label} | values", bits(leaf))

    def write_each(self, stage: str, results: Any, **others: Any) -> None:
        """Write each result in turn; after each, keep the values of all."""
        written = [leaf for _, leaf in leaves({"results": results}) if isinstance(leaf, Tensor)]
        for index, tensor in enumerate(written[:MOST_WRITTEN]):
            here = f"{stage}, result {index} written"
            self.attempt(here, lambda tensor=tensor, index=index: overwrite(tensor, index + 3))
            self.see_values(here, results=results, **others)


def leaves(trees: Any) -> Iterator[tuple[str, Any]]:
    """(label, leaf) of a tree."""
    for path, leaf in pytree.tree_flatten_with_path(trees)[0]:
        yield str(path[0].key) + "".join(map(str, path[1:])), leaf


@torch.no_grad()
def overwrite(tensor: Tensor, number: int) -> None:
    """Give a tensor other values."""
    if tensor.dtype == torch.bool:
        tensor.logical_not_()
    else:
        tensor.fill_(number)


def facts_of(leaf: Any) -> Iterator[tuple[str, Any]]:
    """Each fact of one leaf with its name."""
    if not isinstance(leaf, Tensor):
        plain = isinstance(leaf, (bool, int, float, complex, str, type(None), torch.dtype))
        yield "value", repr(leaf) if plain else type(leaf).__name__
        return
    yield "type", type(leaf).__name__
    yield "dtype", str(leaf.dtype)
    yield "layout", str(leaf.layout)
    yield "shape", str(leaf.shape)
    yield "gradient", (leaf.requires_grad, leaf.is_leaf)
    yield "values", bits(leaf)
    if is_plain(leaf):
        yield "strides", strides_of(leaf)
        yield "conjugate, negative", (leaf.is_conj(), leaf.is_neg())
        yield "bytes of memory, offset", (leaf.untyped_storage().nbytes(), leaf.storage_offset())


def strides_of(tensor: Tensor) -> tuple[int, ...]:
    """The strides that lead to another element: none where there is one element along a dim."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(stride if size > 1 and tensor.numel() else 0 for size, stride in sizes)


@torch.no_grad()
def bits(tensor: Tensor) -> Bits:
    """The values of a tensor of any kind."""
    shown = tensor.detach().clone()
    if tensor.is_nested:
        return Bits(b"".join(bits(part).content for part in tensor.unbind()), shown)
    if tensor.layout != torch.strided:
        return Bits(bits(tensor.to_dense()).content, shown)
    if tensor.is_quantized:
        return Bits(bits(tensor.int_repr()).content, shown)
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype)
    plain.copy_(tensor.detach().reshape(-1))
    if plain.is_complex():
        plain = torch.view_as_real(plain).view(-1)
    content = plain.view(torch.uint8)
    if plain.is_floating_point():
        missing = plain.float().isnan() if plain.itemsize == 1 else plain.isnan()
        content.view(plain.numel(), plain.itemsize)[missing] = 255
    return Bits(content.numpy().tobytes(), shown)


def groups(named: dict[str, Any], identity: Callable[[Any], Any]) -> tuple[tuple[str, ...], ...]:
    """The labels of leaves that have the same identity, for each that more than one has."""
    found: dict[Any, list[str]] = {}
    for label, leaf in named.items():
        key = identity(leaf)
        if key is not None:
            found.setdefault(key, []).append(label)
    return tuple(tuple(labels) for labels in found.values() if len(labels) > 1)


def storage_of(leaf: Any) -> int | None:
    """What tells a tensor's memory from others; None where it has no memory of its own kind."""
    if not isinstance(leaf, Tensor) or not is_plain(leaf):
        return None
    return leaf.untyped_storage()._cdata


def tensor_identity(leaf: Any) -> int | None:
    """What tells a tensor object from others."""
    return id(leaf) if isinstance(leaf, Tensor) else None


def message(error: BaseException) -> str:
    """The first line of what an error says, without what differs from run to run.

    Nor with the name of the autograd node that made a tensor: a compiled function has nodes of
    its own.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    line = re.sub(r"0x[0-9a-f]+", "0x", lines[0]) if lines else ""
    line = re.sub(r", which is output \d+ of [\w:]+,", "", line)
    line = re.sub(r"^Output \d+ of [\w:]+ is a view", "Output is a view", line)
    return re.sub(r"backend='.*?' raised", "backend raised", line)
