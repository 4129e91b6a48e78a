"""The traits of others' operators are what they do; asking for traits is asking by any name."""

from __future__ import annotations

import secrets

import pytest
import torch
from torch import Tensor

from ascend_passes.compile.pass_names import PARTS
from ascend_passes.ir import traits
from ascend_passes.ir.graph import has_effect, is_boundary, written
from ascend_passes.ir.traits import ATEN, NOTHING, OTHERS, declared, name_of, traits_of

aten = torch.ops.aten
ROWS, COLUMNS, INNER = 6, 10, 4
ROW_WISE = {
    "rms_norm": lambda x: aten.rms_norm.default(x, [COLUMNS], torch.arange(1.0, COLUMNS + 1)),
    "layer_norm": lambda x: aten.layer_norm.default(x, [COLUMNS], torch.arange(1.0, COLUMNS + 1)),
    "mean": lambda x: aten.mean.dim(x, [-1]),
    "sum": lambda x: aten.sum.dim_IntList(x, [1], True),
    "amax": lambda x: aten.amax.default(x, [1]),
    "amin": lambda x: aten.amin.default(x, [-1]),
    "slice": lambda x: aten.slice.Tensor(x, 1, 2, 7, 2),
    "split": lambda x: aten.split.Tensor(x, 3, 1),
    "split_with_sizes": lambda x: aten.split_with_sizes.default(x, [3, 7], -1),
}
OVER_ROWS = {
    "rms_norm": lambda x: aten.rms_norm.default(x, [ROWS, COLUMNS]),
    "layer_norm": lambda x: aten.layer_norm.default(x, [ROWS, COLUMNS]),
    "mean": lambda x: aten.mean.dim(x, [0], True),
    "sum": lambda x: aten.sum.dim_IntList(x, [0, 1], True),
    "amax": lambda x: aten.amax.default(x, [0], True),
    "amin": lambda x: aten.amin.default(x, [0], True),
    "slice": lambda x: aten.slice.Tensor(x, 0, 0, 3),
    "split": lambda x: aten.split.Tensor(x, 3, 0),
    "split_with_sizes": lambda x: aten.split_with_sizes.default(x, [2, 4], 0),
}
IN_ORDER = {
    "view": lambda x: aten.view.default(x, [-1, 5]),
    "_unsafe_view": lambda x: aten._unsafe_view.default(x, [-1, 5]),
    "reshape": lambda x: aten.reshape.default(x, [4, -1]),
    "_reshape_alias": lambda x: aten._reshape_alias.default(x, [ROWS * COLUMNS], [1]),
    "flatten": lambda x: aten.flatten.using_ints(x),
    "view_copy": lambda x: aten.view_copy.default(x, [5, -1]),
    "unsqueeze": lambda x: aten.unsqueeze.default(x, 1),
    "squeeze": lambda x: aten.squeeze.dim(x, 0),
    "alias": lambda x: aten.alias.default(x),
    "detach": lambda x: aten.detach.default(x),
    "clone": lambda x: aten.clone.default(x),
    "contiguous": lambda x: aten.contiguous.default(x),
    "lift_fresh_copy": lambda x: aten.lift_fresh_copy.default(x),
    "expand": lambda x: aten.expand.default(x, [ROWS, -1]),
}
PRODUCTS = {
    "mm": aten.mm.default,
    "bmm": lambda a, b: aten.bmm.default(a[None], b[None])[0],
    "_int_mm": lambda a, b: aten._int_mm.default(integers(a), integers(b)),
    "matmul": aten.matmul.default,
    "addmm": lambda a, b: aten.addmm.default(torch.zeros(b.shape[1]), a, b),
    "linear": lambda a, b: aten.linear.default(a, b.T),
}


def integers(x: Tensor) -> Tensor:
    return (x * 9).to(torch.int8)


def rows() -> Tensor:
    source = torch.Generator().manual_seed(secrets.randbelow(2**31))
    return torch.randn(ROWS, COLUMNS, generator=source)


def listed(found) -> list[Tensor]:
    return list(found) if isinstance(found, (list, tuple)) else [found]


def by_rows(call) -> bool:
    x, order = rows(), torch.randperm(ROWS)
    whole = listed(call(x))
    if any(one.shape[0] != ROWS for one in whole):
        return False
    try:
        found = [(chosen, listed(call(x[chosen]))) for chosen in (order, order[: ROWS // 2])]
    except RuntimeError:  # it counts the rows
        return False
    expected = [one[chosen] for chosen, _ in found for one in whole]
    return all(map(torch.allclose, (one for _, some in found for one in some), expected))


def named(trait) -> set[str]:
    return {name for name, one in ATEN.items() if trait(one)}


def test_every_operator_of_torch_that_has_rows_is_tried():
    assert named(lambda one: one.rows) == ROW_WISE.keys() == OVER_ROWS.keys()
    assert named(lambda one: one.keeps_order) == IN_ORDER.keys()
    assert named(lambda one: one.matmul) == PRODUCTS.keys()


@pytest.mark.parametrize("name", ROW_WISE)
def test_rows_are_rows_over_columns_alone(name):
    assert by_rows(ROW_WISE[name])
    assert not by_rows(OVER_ROWS[name])
    one = ATEN[name]
    assert one.identity in PARTS["sequence_parallel"]
    assert bool(one.columns) != bool(one.trailing)
    for overload in getattr(aten, name).overloads():
        names = {entry.name for entry in getattr(getattr(aten, name), overload)._schema.arguments}
        assert {*one.rows} <= names or overload.endswith(("out", "bool", "int", "str", "t"))


@pytest.mark.parametrize("name", IN_ORDER)
def test_views_keep_the_order(name):
    x = rows()
    assert torch.equal(IN_ORDER[name](x).reshape(-1), x.reshape(-1))


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_of_these_factors(name):
    a, b = rows(), rows().T[:, :INNER]
    exact = name == "_int_mm"
    expected = integers(a).int() @ integers(b).int() if exact else a @ b
    assert torch.allclose(PRODUCTS[name](a, b), expected, atol=1e-5)
    matmul = ATEN[name].matmul
    overload = getattr(aten, name).default
    order = [entry.name for entry in overload._schema.arguments]
    assert order.index(matmul.left) < order.index(matmul.right)
    assert not matmul.bias or matmul.bias in order
    assert matmul.transposed == (name == "linear")


@pytest.mark.parametrize("name", sorted(named(lambda one: one.activation)))
def test_activations_are_no_linear_functions(name):
    x, call = rows(), getattr(aten, name).default
    assert not torch.allclose(call(2 * x), 2 * call(x), atol=0.1)


@pytest.mark.parametrize("name", sorted(named(lambda one: one.asserts)))
def test_assertions_have_an_effect_that_others_cross(name):
    for overload in getattr(aten, name).overloads():
        graph = torch.fx.Graph()
        node = graph.call_function(getattr(getattr(aten, name), overload), ())
        assert has_effect(node) and not is_boundary(node)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_named_arguments_are_in_the_schema(name):
    """For what torch knows here; the others are checked against torch_npu's wheel."""
    namespace, _, short = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), short, None)
    one = OTHERS[name]
    if packet is None:
        assert namespace in ("npu", "npugraph_ex", "vllm")
        return
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    given = {entry.name for schema in schemas for entry in schema.arguments}
    assert {*one.rows, *one.columns, *one.writes, *one.host_lists} <= given
    assert one.collective == "" or short.startswith(one.collective)


def test_traits_are_asked_by_overload_by_packet_and_by_name():
    for target in (aten.mm.default, aten.mm, "aten::mm"):
        assert traits_of(target) is ATEN["mm"]
    assert traits_of("x") is traits_of(len) is traits_of(aten.cos.default) is NOTHING
    assert name_of(torch.ops.aten.mm) == "aten::mm" and name_of("output") == ""


def test_what_is_declared_later_counts_at_once():
    name = f"mine::operator_{secrets.token_hex(4)}"
    assert traits_of(name) is NOTHING
    mine = traits.Traits(writes=("x",))
    traits.declare(name, mine)
    try:
        assert traits_of(name) is mine and declared()[name] is mine
    finally:
        traits._declared.pop(name)
        traits_of.cache_clear()


def test_a_write_that_is_declared_later_is_seen():
    with torch.library._scoped_library("mine", "FRAGMENT") as library:
        library.define("silent(Tensor x) -> Tensor")
        target = torch.ops.mine.silent.default
        graph = torch.fx.Graph()
        x = graph.placeholder("x")
        node = graph.call_function(target, (x,))
        assert written(node) == () and not has_effect(node)
        traits.declare("mine::silent", traits.Traits(writes=("x",)))
        try:
            assert written(node) == (x,) and has_effect(node)
        finally:
            traits._declared.pop("mine::silent")
            traits_of.cache_clear()
