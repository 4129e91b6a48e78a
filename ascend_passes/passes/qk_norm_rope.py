"""Norm and rotation of query and key heads become one kernel that reads the packed projection.

A projection gives queries, keys and values in one row. Spelled out, queries and keys are each cut
off, normalized and rotated: some six kernels of a few microseconds, of which a decode step has
little else. CANN has no operator for it, so `ascend_passes::qk_norm_rope` is ours, where its Triton
kernel runs: on CUDA, and on an NPU with triton-ascend. It is on for CUDA graphs of known sizes,
where a step of an H200 takes as long or up to 2 percent less. Elsewhere `passes="+qk_norm_rope"`
asks for it: with symbolic sizes it is a call of its own that Inductor cannot launch, and on an NPU
it has not run.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.engine.normalize import normalize, remove_dead
from ascend_passes.engine.site import Refused, Site, refuse_unless
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import (
    Context,
    first,
    is_call,
    place,
    plain_size,
    same_size,
    same_sizes,
    value,
)
from ascend_passes.ir.moving import written_between
from ascend_passes.npu.cuda.choose import has_triton, has_triton_ascend
from ascend_passes.npu.rotary import HALF
from ascend_passes.options.value import switched_on
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
RULE = "qk_norm_rope"
VIEWS = (aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim)
"""What keeps the elements and their order."""


@dataclass(frozen=True)
class PackedHeads:
    """Columns of packed rows that are normalized and rotated head by head."""

    rotation: fx.Node
    packed: fx.Node
    start: int
    end: int
    gain: fx.Node
    cos: fx.Node
    sin: fx.Node
    epsilon: float

    @property
    def shared(self) -> tuple[Any, ...]:
        """What the heads of queries and of keys must have in common."""
        return self.packed, self.cos, self.sin, self.epsilon

    @property
    def count(self) -> int:
        """How many."""
        return (self.end - self.start) // int(value(self.gain).shape[0])

    @property
    def path(self) -> Iterator[fx.Node]:
        """What lies between the rotation and the packed rows."""
        node = first(self.rotation)
        while node is not self.packed:
            yield node
            node = first(node)


def fuse_packed_heads(graph: fx.Graph, context: Context) -> Report:
    """Rewrite each pair of query and key heads of one packed projection, in place."""
    passes = context.options.passes
    if not switched_on(RULE, passes, pays(graph, context)):
        return Report()
    normalize(graph, context.options.strict)  # recognition leaves permutes that undo each other
    fired = 0
    misses: list[Miss] = []
    for query, key in list(pairs(graph)):
        try:
            fuse_pair(query, key, context)
        except Refused as refused:
            node = query.rotation
            misses.append(Miss(RULE, node.name, place(node), str(refused)))
        else:
            fired += 1
    remove_dead(graph)
    return Report(fired={RULE: fired} if fired else {}, misses=tuple(misses))


def pays(graph: fx.Graph, context: Context) -> bool:
    """Whether the kernel runs as a launch of Inductor's own."""
    inductor = context.device == "cuda" and context.options.executor in ("auto", "inductor")
    return inductor and has_triton() and not has_symbols(graph)


def has_symbols(graph: fx.Graph) -> bool:
    """Whether a rotation has a size that is not known."""
    rotations = graph.find_nodes(op="call_function", target=torch.ops.npu.npu_rotary_mul.default)
    return any(plain_size(size) is None for node in rotations for size in value(node).shape)


def pairs(graph: fx.Graph) -> Iterator[tuple[PackedHeads, PackedHeads]]:
    """Heads at the start of packed rows, and those that follow them."""
    rotations = graph.find_nodes(
        op="call_function", target=torch.ops.npu.npu_rotary_mul.default, sort=True
    )
    found = [heads for heads in map(heads_of, rotations) if heads is not None]
    starts = {(heads.shared, heads.start): heads for heads in found}
    for heads in found:
        following = starts.get((heads.shared, heads.end))
        if heads.start == 0 and following is not None:
            yield heads, following


def heads_of(rotation: fx.Node) -> PackedHeads | None:
    """The heads that a rotation turns; None where they are no normalized columns of packed rows."""
    given = npu.complete("npu_rotary_mul", named_arguments(rotation))
    if given["rotary_mode"] != HALF or given["rotate"] is not None:
        return None
    item = behind_views(given["input"])
    if not is_call(item, operator.getitem) or item.args[1] != 0 or not read_once(item):
        return None
    norm = first(item)
    if not is_call(norm, torch.ops.npu.npu_rms_norm.default) or len(norm.users) != 1:
        return None
    normed = npu.complete("npu_rms_norm", named_arguments(norm))
    columns = behind_views(normed["input"])
    bounds = column_bounds(columns)
    if bounds is None or not work_on_heads(given, normed, bounds):
        return None
    gain, epsilon = normed["gamma"], normed["epsilon"]
    return PackedHeads(rotation, first(columns), *bounds, gain, given["r1"], given["r2"], epsilon)


def behind_views(node: fx.Node) -> fx.Node:
    """What views lead back to, of which each serves the next alone."""
    while is_call(node, *VIEWS) and read_once(node):
        node = first(node)
    return node


def read_once(node: fx.Node) -> bool:
    """Whether one node reads the elements of a value, beside those that ask for a size."""
    return len(node.users) - len(list(asked_sizes(node))) == 1


def asked_sizes(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that ask for a size of a value."""
    return (user for user in node.users if is_call(user, aten.sym_size.int))


def column_bounds(node: fx.Node) -> tuple[int, int] | None:
    """The first column and the one behind the last, of a slice of rows with a known width."""
    if not is_call(node, aten.slice.Tensor) or not read_once(node):
        return None
    given, rows = named_arguments(node), value(first(node))
    width = plain_size(rows.shape[-1])
    bounds = given["start"] or 0, given["end"]
    if width is None or given.get("step", 1) != 1 or given["dim"] % rows.dim() != rows.dim() - 1:
        return None
    if not all(isinstance(bound, int) and bound >= 0 for bound in bounds):
        return None
    return bounds[0], min(bounds[1], width)


def work_on_heads(
    given: Mapping[str, Any], normed: Mapping[str, Any], bounds: tuple[int, int]
) -> bool:
    """Whether norm and rotation work on the heads that these columns consist of."""
    heads, gain = value(given["input"]), value(normed["gamma"])
    if gain.dim() != 1 or plain_size(gain.shape[0]) is None:
        return False
    size = int(gain.shape[0])
    sizes = heads.shape[-1], value(normed["input"]).shape[-1], value(given["r1"]).shape[-1]
    return all(same_size(one, size) for one in sizes) and same_size(
        heads.shape[-2] * size, bounds[1] - bounds[0]
    )


def fuse_pair(query: PackedHeads, key: PackedHeads, context: Context) -> None:
    """Put one call in the place of both norms and rotations.

    Raises:
        Refused: no kernel runs it, or it is not provably the same.
    """
    refuse_unless(context.options.executor != "torchair", "torchair has no converter for it")
    usable = context.device != "npu" or has_triton_ascend()
    refuse_unless(usable, "its kernel needs triton-ascend, which is not installed")
    early, late = sorted((query.rotation, key.rotation))
    require_same_values(query, key, early, late)
    require_rows_of_tables(query)
    site = Site(early, context.options.soc, RULE)
    call = site.npu(
        RULE,
        qkv=query.packed,
        query_gain=query.gain,
        key_gain=key.gain,
        cos=query.cos,
        sin=query.sin,
        query_heads=query.count,
        key_heads=key.count,
        epsilon=query.epsilon,
    )
    for index, heads in enumerate((query, key)):
        take_sizes_elsewhere(heads, context)
        result = shaped_as(site, site.item(call, index), heads.rotation)
        heads.rotation.replace_all_uses_with(result)


def require_same_values(
    query: PackedHeads, key: PackedHeads, early: fx.Node, late: fx.Node
) -> None:
    """Check that all that is read is there at the first rotation and as it was; errors as in
    `fuse_pair`."""
    read = (query.packed, query.gain, key.gain, query.cos, query.sin)
    refuse_unless(all(node < early for node in read), "a gain is made behind the first rotation")
    dense = all(value(node).is_contiguous() for node in read)
    refuse_unless(dense, "the kernel reads contiguous tensors, and one that it needs is not")
    changed = written_between(min(read), late, read)
    refuse_unless(not changed, "what it reads is written before the second rotation")


def require_rows_of_tables(heads: PackedHeads) -> None:
    """Check that token t, counted over all leading sizes, has row `t % rows` of the tables; errors
    as in `fuse_pair`."""
    batch, tokens, *_ = value(heads.rotation).shape
    for table in (heads.cos, heads.sin):
        first_size, second_size, shared, _ = value(table).shape
        refuse_unless(same_size(shared, 1), "each head has cosines of its own")
        repeats = same_size(first_size, 1)
        whole = same_size(first_size, batch) and same_size(second_size, tokens)
        refuse_unless(repeats or whole, "the tokens of a sequence share a row of cosines")


def take_sizes_elsewhere(heads: PackedHeads, context: Context) -> None:
    """Have the sizes of what goes asked of the packed rows, which stay; errors as in
    `fuse_pair`."""
    for node in heads.path:
        for asked in list(asked_sizes(node)):
            site = Site(asked, context.options.soc, RULE)
            same = size_from(site, heads.packed, value(asked))
            if isinstance(same, fx.Node):  # a number is nobody's argument by now
                asked.replace_all_uses_with(same)


def shaped_as(site: Site, source: fx.Node, like: fx.Node) -> fx.Node:
    """A view of `source` in the shape of another node; errors as in `fuse_pair`."""
    wanted, found = value(like).shape, value(source).shape
    if same_sizes(wanted, found):
        return source
    shape = [size_from(site, source, size) for size in wanted]
    return site.view_as(source, shape, like)


def size_from(site: Site, source: fx.Node, size: Any) -> int | fx.Node:
    """A size; a node that gives it where it is a symbol, which `source` has as well."""
    if isinstance(size, int):
        return size
    for dim, found in enumerate(value(source).shape):
        if same_size(found, size):
            return site.call(aten.sym_size.int, source, dim)
    raise Refused("the tokens of queries and keys are counted in two ways")
