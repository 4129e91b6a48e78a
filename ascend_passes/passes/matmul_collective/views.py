"""What stands between a collective and its matmul: waits, padding cut off, and views."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from ascend_passes.distributed.groups import Group, family_of, group_name, plain_collective, resolve
from ascend_passes.ir.graph import is_call, operator_name, value
from ascend_passes.ir.traits import ALL_GATHER
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.product import UNPADDED, VIEWS, read_product, upwards

aten = torch.ops.aten


def awaited(node: fx.Node) -> fx.Node:
    """The wait for a collective, or the collective itself where it needs none."""
    wait = torch.ops._c10d_functional.wait_tensor.default
    return next((user for user in node.users if is_call(user, wait)), node)


def views_of(node: fx.Node) -> Iterator[fx.Node]:
    """A gathered value, its unpadding and their views."""
    yield node
    for user in node.users:
        cut = (
            is_call(user, aten.slice.Tensor)
            and user.args[1:3] == (0, 0)
            and user.args[4:] in ((), (1,))
        )
        if cut or operator_name(user) in VIEWS:
            yield from views_of(user)


def products_of(gathered: fx.Node) -> Iterator[fx.Node]:
    """The matmuls whose left operand is the gathered rows."""
    for view in views_of(gathered):
        for user in view.users:
            product = read_product(user)
            if product is not None and product.left is view:
                yield user


def readers_of(gathered: fx.Node, author: str) -> Iterator[fx.Node]:
    """Whoever reads the gathered rows, other than their views and what `author` adds on trial."""
    views = set(views_of(gathered))
    for view in views:
        readers = (user for user in view.users if user not in views)
        yield from (reader for reader in readers if reader.meta.get("ascend_rule") != author)


def gathered_from(node: fx.Node, group: Group) -> fx.Node | None:
    """This rank's rows of a value that was gathered over the same group; None where it was not."""
    for link in upwards(node, UNPADDED):
        if plain_collective(link) == ALL_GATHER:
            same = resolve(group_name(link), family_of(link)) == group
            local = link.args[0]
            return local if same and isinstance(local, fx.Node) else None
    return None


def repeated_views(build: Build, gathered: fx.Node, whole: fx.Node) -> dict[fx.Node, fx.Node]:
    """The views of the gathered rows again, over the rows that the fused operator gives."""
    again = {gathered: whole}
    for view in list(views_of(gathered))[1:]:
        source = view.args[0]
        assert isinstance(source, fx.Node)
        again[view] = build.known(value(view), view.target, again[source], *view.args[1:])
    return again
