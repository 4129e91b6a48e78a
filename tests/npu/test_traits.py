"""Each trait of each operator is what its reference does, and what it does is in its traits."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ascend_passes import npu
from ascend_passes.compile.pass_names import PARTS
from tests.npu.draw import generator
from tests.npu.examples import named_call
from tests.npu.limit_cases import LEGAL

ROWS, WIDTH = 6, 5
OTHER_VALUES = {"quant_mode": ("pertensor", "perchannel", 0, 1)}
"""Values of arguments that are no dimensions, of which some may work over rows."""
NO_ROWS = {
    "npu_trans_quant_param": "its entries are channels of a weight, not tokens",
    "npu_mrope": "its table has two dimensions and serves every row",
    "npu_rotary_mul": "its rows come second, behind a batch of one",
    "decode_attention": "its mask may be one for all sequences",
    "qk_norm_rope": "its tables may have fewer rows, which then serve several tokens",
    "npu_apply_rotary_pos_emb": "it writes its arguments, so others' rows would stay as they were",
}
"""Operators that work row by row and do not say so, each with the reason."""
CHOOSING = ("npu_moe_gating_top_k_softmax", "npu_moe_init_routing_v2")
"""Operators of routers: their softmax is no MLP's activation, and their integers are experts."""
ATTENDING = ("decode_attention",)
"""Operators whose softmax is attention's."""
SATURATING = ("npu_add_rms_norm_quant", "npu_quantize", "npu_rms_norm_quant")
"""Operators whose stored scale clamps, so that doubling says nothing of what is inside."""
NAMES = [name for name, operator in npu.OPERATORS.items() if not operator.collective]
WITH_RESULTS = [
    name
    for name in NAMES
    if npu.packet(name).default._schema.returns and npu.OPERATORS[name].matmul is None
]


def call(name: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Fresh arguments of a call, none of which shares memory with another."""
    given = named_call(name, secrets.randbelow(2**31), ROWS, WIDTH, dtype)
    return {key: fresh(argument) for key, argument in given.items()}


def fresh(argument: Any) -> Any:
    """A contiguous tensor of its own memory, summed in one order; anything else as it is."""
    if not isinstance(argument, Tensor):
        return argument
    return argument.clone(memory_format=torch.contiguous_format)


def results(name: str, given: dict[str, Any]) -> list[Tensor]:
    """The results of the reference, which leaves `given` as it is."""
    found = npu.OPERATORS[name].reference(**{key: fresh(one) for key, one in given.items()})
    return [one for one in pytree.tree_leaves(found) if isinstance(one, Tensor)]


def tensors(given: dict[str, Any]) -> dict[str, Tensor]:
    """The arguments that are tensors."""
    return {key: one for key, one in given.items() if isinstance(one, Tensor)}


def row_wise(name: str, given: dict[str, Any], rows: tuple[str, ...]) -> bool:
    """Whether the call on some rows of these arguments gives those rows of every result."""
    order = torch.randperm(ROWS, generator=generator(secrets.randbelow(2**31)))
    whole = results(name, given)
    for chosen in (order, order[: ROWS // 2]):
        some = {key: one[chosen] if key in rows else one for key, one in given.items()}
        try:
            found = results(name, some)
        except (RuntimeError, IndexError, ValueError):
            return False
        if not all(map(torch.equal, found, (one[chosen] for one in whole if one.dim()))):
            return False
    return bool(whole) and all(one.dim() and one.shape[0] == ROWS for one in whole)


@pytest.mark.parametrize("name", [name for name in WITH_RESULTS if npu.OPERATORS[name].rows])
def test_the_rows_are_rows(name):
    given, rows = call(name), npu.OPERATORS[name].rows
    present = tuple(key for key in rows if given.get(key) is not None)
    assert set(rows) <= {entry.name for entry in npu.packet(name).default._schema.arguments}
    assert row_wise(name, given, present)
    for one in present:  # each of them is needed
        assert not row_wise(name, given, tuple(key for key in present if key != one))


@pytest.mark.parametrize("name", [name for name in WITH_RESULTS if not npu.OPERATORS[name].rows])
def test_who_has_no_rows_does_not_work_by_rows_or_has_a_reason(name):
    given = call(name)
    able = [key for key, one in tensors(given).items() if one.dim() and one.shape[0] == ROWS]
    choices = (
        chosen
        for count in range(1, len(able) + 1)
        for chosen in itertools.combinations(able, count)
    )
    works = any(row_wise(name, given, chosen) for chosen in choices)
    assert not works or name in NO_ROWS, f"{name} works by rows; say so in `rows`"


def test_no_reason_is_left_over():
    assert all(name in npu.OPERATORS and not npu.OPERATORS[name].rows for name in NO_ROWS)


@pytest.mark.parametrize("name", [name for name in WITH_RESULTS if npu.OPERATORS[name].rows])
def test_what_works_over_rows_is_a_column_or_a_condition(name):
    operator = npu.OPERATORS[name]
    entries = npu.packet(name).default._schema.arguments
    numbers = [entry.name for entry in entries if str(entry.type) == "int"]
    tried = [(key, 0) for key in numbers] + [
        (key, value) for key, values in OTHER_VALUES.items() for value in values
    ]
    for key, value in tried:
        given = call(name)
        if key not in {entry.name for entry in entries}:
            continue
        try:
            results(name, given | {key: value})
        except (RuntimeError, ValueError, KeyError, IndexError, NotImplementedError, TypeError):
            continue
        present = tuple(one for one in operator.rows if given.get(one) is not None)
        refused = key in operator.columns or value not in operator.rows_if.get(key, (value,))
        assert refused or row_wise(name, given | {key: value}, present), (key, value)
    for key in operator.columns:
        assert key in numbers


@pytest.mark.parametrize("name", [name for name in NAMES if npu.OPERATORS[name].rows_if])
def test_conditions_allow_the_defaults(name):
    entries = {entry.name: entry for entry in npu.packet(name).default._schema.arguments}
    for key, values in npu.OPERATORS[name].rows_if.items():
        assert entries[key].default_value in values


@pytest.mark.parametrize("name", NAMES)
def test_the_writes_are_all_that_changes(name):
    operator, given = npu.OPERATORS[name], call(name)
    before = {key: one.clone() for key, one in tensors(given).items()}
    found = operator.reference(**given)
    changed = {key for key, one in before.items() if not torch.equal(one, given[key])}
    shown = {
        entry.name
        for entry in npu.packet(name).default._schema.arguments
        if entry.alias_info is not None and entry.alias_info.is_write
    }
    assert changed == {*operator.writes, *shown}
    assert not shown & {*operator.writes}, "the schema says so already"
    memory = {one.untyped_storage().data_ptr() for one in tensors(given).values()}
    leaves = [one for one in pytree.tree_leaves(found) if isinstance(one, Tensor)]
    shares = any(one.untyped_storage().data_ptr() in memory for one in leaves if one.numel())
    assert shares == operator.returns_input


@pytest.mark.parametrize("name", npu.OPERATORS)
def test_effects_are_of_operators_that_show_none(name):
    operator, schema = npu.OPERATORS[name], npu.packet(name).default._schema
    shows_nothing = not schema.returns and not schema.is_mutable and not operator.writes
    assert operator.effect == shows_nothing
    assert not operator.free or not schema.returns


@pytest.mark.parametrize("name", npu.OPERATORS)
def test_the_factors_are_those_of_the_shapes(name):
    """By shapes: of [M, K] and [K, N], with M, K and N different, the result is [..., N]."""
    operator = npu.OPERATORS[name]
    given = LEGAL[name] if operator.collective else call(name)
    given = {key: fresh(one) for key, one in given.items()}
    fakes = {key: one.to("meta") if isinstance(one, Tensor) else one for key, one in given.items()}
    found = pytree.tree_leaves(operator.fake(**fakes))
    pairs = [
        (left, right)
        for (left, a), (right, b) in itertools.permutations(tensors(given).items(), 2)
        if found and a.dim() >= 2 and b.dim() == 2 and 1 < a.shape[-1] == b.shape[-2]
        if found[0].dim() >= 2 and found[0].shape[-1] == b.shape[-1]
    ]
    if operator.matmul is None:
        assert not pairs
        return
    assert pairs == [(operator.matmul.left, operator.matmul.right)]
    entries = {entry.name: str(entry.type) for entry in npu.packet(name).default._schema.arguments}
    matmul = operator.matmul
    for key in filter(None, (matmul.bias, matmul.scale, matmul.row_scale)):
        assert "Tensor" in entries[key]
    for key in matmul.shows:
        assert "int" in entries[key]


def test_lists_of_weights_are_what_is_multiplied_and_not_named():
    """Such as those of experts, of which `matmul` names no two-dimensional one."""
    lists = {
        name
        for name, operator in npu.OPERATORS.items()
        if "Tensor[] weight" in operator.schema and operator.matmul is None
    }
    assert lists == {name for name, operator in npu.OPERATORS.items() if operator.multiplies}


SCALED = ("npu_quant_matmul",)


@pytest.mark.parametrize("name", SCALED)
def test_the_scales_are_of_columns_and_of_rows(name):
    """Twice one column's scale is twice that column, and twice one row's that row."""
    matmul, given = npu.OPERATORS[name].matmul, call(name)
    (plain,) = results(name, given)
    for key, dim in ((matmul.scale, -1), (matmul.row_scale, -2)):
        scale = given[key].clone()
        scale[1] *= 2
        (found,) = results(name, given | {key: scale})
        expected = plain.clone()
        expected.select(dim, 1).mul_(2)
        assert torch.equal(found, expected)


def test_every_matmul_without_a_group_has_its_scales_tried():
    alone = [name for name in NAMES if npu.OPERATORS[name].matmul is not None]
    assert sorted(alone) == sorted(SCALED)


@pytest.mark.parametrize("name", npu.OPERATORS)
def test_collectives_take_a_group(name):
    arguments = {entry.name for entry in npu.packet(name).default._schema.arguments}
    operator = npu.OPERATORS[name]
    assert bool(operator.collective) == ("hcom" in arguments)
    if not operator.collective:
        return
    given = {key: one for key, one in LEGAL[name].items()}
    rows = given[operator.matmul.left].shape[0]
    made = pytree.tree_leaves(operator.fake(**given))[0].shape[0]
    ranks = given.get("world_size", 1)
    factor = {"all_gather": ranks, "reduce_scatter": 1 / ranks, "all_reduce": 1}
    assert made == rows * factor[operator.collective]
    assert ranks > 1 or operator.collective == "all_reduce"


@pytest.mark.parametrize(
    "name",
    [name for name in WITH_RESULTS if not name.startswith((*SATURATING, *CHOOSING, *ATTENDING))],
)
def test_activations_are_not_homogeneous(name):
    """Doubling what a norm, a rotation or a dynamic quantize reads doubles or keeps its result."""
    operator = npu.OPERATORS[name]
    given = call(name, torch.float16)
    doubled = {
        key: one * 2 if one.dtype in (torch.float16, torch.int32) and one.dim() > 1 else one
        for key, one in given.items()
        if isinstance(one, Tensor)
    }
    plain, twice = (dequantized(results(name, one)) for one in (given, given | doubled))
    factors = [factor for factor in (1.0, 2.0, 4.0) if near(twice, factor * plain)]
    assert operator.activation == (not factors)


def dequantized(found: list[Tensor]) -> Tensor:
    """The first result, times the scale that comes with it."""
    first, *rest = (one.double() for one in found)
    scale = rest[-1] if found[0].dtype == torch.int8 and rest else None
    return first if scale is None or not scale.any() else first * scale.unsqueeze(-1)


def near(one: Tensor, other: Tensor) -> bool:
    """Whether two results differ by no more than int8 and float16 round."""
    return bool((one - other).abs().max() <= 0.02 * other.abs().max())


@pytest.mark.parametrize("name", npu.OPERATORS)
def test_identities_and_lists_are_known(name):
    operator = npu.OPERATORS[name]
    assert operator.identity in PARTS["sequence_parallel"]
    entries = {entry.name: str(entry.type) for entry in npu.packet(name).default._schema.arguments}
    assert all("List[int]" in entries[key] for key in operator.host_lists)
