"""Inputs and operators as Python text, for files that show a fault alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.soundness.copies import is_plain

MOST_WRITTEN_OUT = 200
"""Elements of a storage that are written out; a larger one is drawn."""
LOOK = """
def tensors(tree):
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]

def memory(t):
    return t.untyped_storage()._cdata if t.layout == torch.strided else id(t)

for backend in ("aot_eager", "ascend_dense"):
    torch._dynamo.reset()
    torch.manual_seed(7)
    x, args, kwargs = inputs()
    try:
        results = torch.compile(f, backend=backend{dynamic})(x, *args, **kwargs)
    except Exception as error:
        print(backend, "raises", type(error).__name__, str(error).splitlines()[:1])
        continue
    print(backend)
    found = tensors((results, x, args, kwargs))
    for t in found:
        shared = [i for i, other in enumerate(found) if memory(other) == memory(t)]
        print("   ", t.dtype, tuple(t.shape), t.stride() if t.layout == torch.strided else t.layout)
        print("       ", "memory of", shared, t.detach().flatten()[:8].tolist())
"""
LOOK_BACK = """    roots = [t for t in tensors(results) if t.requires_grad]
    try:
        torch.autograd.backward(roots, [torch.ones_like(t) for t in roots])
    except RuntimeError as error:
        print("    backward raises", error)
    print("    gradients", [t.grad for t in tensors((x, args, kwargs))])
"""


def script(
    operator: list[str], function: str, inputs: Any, dynamic: bool | None, gradients: bool
) -> str:
    """A file that runs a function under both backends and prints what it sees."""
    look = LOOK.replace("{dynamic}", f", dynamic={dynamic}" if dynamic is not None else "")
    return "\n".join(
        [
            "import torch",
            "from torch.utils import _pytree as pytree",
            "",
            "torch.use_deterministic_algorithms(True, warn_only=True)",
            *operator,
            "",
            function,
            "",
            "def inputs():",
            *input_lines(inputs),
            look + (LOOK_BACK if gradients else ""),
        ]
    )


def operator_lines(operator: Any, inplace: bool) -> list[str]:
    """How a file gets at the operator."""
    plain = f"torch.{operator.name}"
    if not inplace and attribute(operator.name) is operator.op:
        return [f"op = {plain}"]
    return [
        "from torch.testing._internal.common_methods_invocations import op_db",
        f"info = next(o for o in op_db if o.name == {operator.name!r}"
        f" and o.variant_test_name == {operator.variant_test_name!r})",
        "op, inplace = info.op, info.inplace_variant",
    ]


def attribute(path: str) -> Any:
    """What a dotted name under torch is; None where it is nothing."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def input_lines(inputs: Any) -> list[str]:
    """The body of a function that makes the inputs, those that share memory from one storage."""
    storages: dict[int, str] = {}
    lines: list[str] = []

    def name(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return Text(tensor_text(leaf, storages, lines))

    tree = pytree.tree_map(name, inputs)
    return [f"    {line}" for line in (*lines, f"return {tree!r}")]


class Text(str):
    """Shows itself without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def tensor_text(tensor: Tensor, storages: dict[int, str], lines: list[str]) -> str:
    """An expression for a tensor; adds the line that makes its storage."""
    gradient = ".requires_grad_()" if tensor.requires_grad else ""
    if not is_plain(tensor):
        return f"torch.{tensor.detach()!r}{gradient}"
    storage = tensor.untyped_storage()
    key = storage._cdata
    if key not in storages:
        storages[key] = f"s{len(storages)}"
        lines.append(f"{storages[key]} = {storage_text(tensor)}")
    place = f"{tuple(tensor.shape)}, {tensor.stride()}, {tensor.storage_offset()}"
    return f"{storages[key]}.as_strided({place}).detach(){gradient}"


def storage_text(tensor: Tensor) -> str:
    """The whole storage behind a tensor as one dim."""
    count = tensor.untyped_storage().nbytes() // tensor.itemsize
    if count > MOST_WRITTEN_OUT:
        return f"torch.testing.make_tensor({count}, dtype={tensor.dtype}, device='cpu')"
    flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, (count,), (1,))
    numbers = str(flat.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
    return f"torch.tensor({numbers}, dtype={tensor.dtype})"
