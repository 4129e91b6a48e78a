"""Our declarations are the wheel's: schemas, fakes, writes, legality."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import torch_npu
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from ascend_passes import npu
from ascend_passes.ir.traits import declared
from tests.conformance import wheel_faults
from tests.conformance.inside import fakes, inputs, wheel

OPERATORS = list(npu.of_cann().values())
NAMES = [operator.name for operator in OPERATORS]
UNDECLARED = {name: traits.writes for name, traits in declared().items() if traits.writes}
by_operator = pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)
random_calls = settings(
    max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def test_every_operator_has_random_calls():
    assert set(inputs.CALLS) == set(NAMES)


@by_operator
def test_schema_is_the_wheels(operator):
    name = operator.name
    ours = wheel_faults.OLDER[name] if wheel.older(name) else wheel.normalized(operator.schema)
    assert ours == wheel.schema(operator)


def test_every_release_takes_what_our_rule_emits():
    """And gives what we read, the results that are on, the shapes that ours have."""
    operator = npu.OPERATORS[wheel_faults.MASKED]
    x, gamma = (
        torch.empty(4, 64, dtype=torch.half, device="meta"),
        torch.empty(64).half().to("meta"),
    )
    given = {"smooth_scale1": gamma, "epsilon": 1e-5, "output_mask": [True, False]}
    theirs = wheel.overload(operator)(x, x, gamma, **given)
    ours = operator.fake(x, x, gamma, **given)
    for index in (0, 2, 3):
        assert (theirs[index].shape, theirs[index].dtype) == (ours[index].shape, ours[index].dtype)


def with_one_other_default(schema: str) -> Iterator[str]:
    """A schema with each of its defaults in turn changed, but None, the only one of its kind."""
    for found in re.finditer(r"=([^,)]+)", schema):
        default = found[1]
        if default == "None":
            continue
        if default in ("True", "False"):
            other = str(default == "False")
        elif default == "[]":
            other = "[1, 2]"
        elif default[-1] in "\"'":
            other = f"{default[:-1]}x{default[-1]}"
        else:
            other = f"{float(default) + 1:g}"
        yield schema[: found.start(1)] + other + schema[found.end() :]


CHANGED = [(o, schema) for o in OPERATORS for schema in with_one_other_default(o.schema)]


@pytest.mark.parametrize(("operator", "schema"), CHANGED, ids=[o.name for o, _ in CHANGED])
def test_a_schema_changed_by_one_default_is_seen(operator, schema):
    assert wheel.normalized(schema) != wheel.schema(operator)


@by_operator
def test_meta_is_where_we_think(operator):
    assert wheel.has_meta(operator) == (operator.name not in wheel_faults.NO_META)


@pytest.mark.parametrize("difference", [fakes.difference, fakes.symbolic_difference])
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(wheel_faults.NO_META)))
def test_fake_agrees_with_meta(name, difference):
    operator = npu.OPERATORS[name]
    if difference is fakes.symbolic_difference and name in wheel_faults.SYMBOLIC:
        difference = fakes.hinted_difference  # test_symbolic_faults_are_there says why

    @random_calls
    @given(st.data())
    def agrees(data):
        call = inputs.CALLS[name](inputs.Draw(data.draw))
        assume(not wheel.wants_mask(name) or "smooth_scale2" in call.kwargs)
        assert difference(operator.fake, wheel.overload(operator), call) == ""

    agrees()


@pytest.mark.parametrize("name", sorted(wheel_faults.SYMBOLIC))
def test_a_wrong_fake_is_seen_where_meta_has_the_symbolic_fault(name):
    operator = npu.OPERATORS[name]

    def wrong(*args, **kwargs):
        return pytree.tree_map_only(
            torch.Tensor,
            lambda t: t.new_empty((t.shape[0] + 1, *t.shape[1:])),
            operator.fake(*args, **kwargs),
        )

    @random_calls
    @given(st.data())
    def seen(data):
        call = inputs.CALLS[name](inputs.Draw(data.draw))
        assert fakes.hinted_difference(wrong, wheel.overload(operator), call)

    seen()


def test_a_fake_with_a_wrong_dtype_is_seen():
    operator = npu.OPERATORS["npu_rms_norm"]
    call = inputs.Call((inputs.meta(4, 32, dtype=torch.half), inputs.meta(32, dtype=torch.half)))

    def wrong(*args, **kwargs):
        y, rstd = operator.fake(*args, **kwargs)
        return y.float(), rstd

    changed = dataclasses.replace(operator, fake=wrong)
    assert "float32" in fakes.difference(changed.fake, wheel.overload(operator), call)
    assert fakes.difference(operator.fake, wheel.overload(operator), call) == ""


@pytest.mark.parametrize("name", sorted(wheel_faults.SYMBOLIC))
def test_symbolic_faults_are_there(name):
    operator = npu.OPERATORS[name]

    @random_calls
    @given(st.data())
    def differs(data):
        draw = inputs.Draw(data.draw)
        if draw.tokens == 1:
            return  # a size of 1 is no symbol
        call = inputs.CALLS[name](draw)
        assert fakes.symbolic_difference(operator.fake, wheel.overload(operator), call)

    differs()


@pytest.mark.parametrize("name", sorted(wheel_faults.KEEPS_STRIDES))
def test_stride_faults_are_there(name):
    operator = npu.OPERATORS[name]
    call = inputs.transposed_call(name, inputs.meta(32, 32, dtype=torch.half).t())
    found = fakes.difference(operator.fake, wheel.overload(operator), call)
    assert "(32, 1)" in found and "(1, 32)" in found


def test_a_meta_that_needs_its_optional_arguments():
    operator = npu.OPERATORS["npu_rms_norm_quant_v2"]
    x, gamma = inputs.meta(4, 32, dtype=torch.half), inputs.meta(32, dtype=torch.half)
    scale = inputs.meta(1, dtype=torch.float32)
    with pytest.raises(TypeError, match="'offset' and 'beta'"):
        wheel.overload(operator)(x, gamma, scale)
    assert operator.fake(x, gamma, scale)[0].dtype == torch.int8


def undeclared_writes() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Operators whose CANN declaration returns an input and whose torch schema writes nothing.

    CANN declares a kernel that works in place by an output with the name of an input; torchair
    carries those declarations as docstrings. Arguments under other names (`scatter_update`'s `var`)
    belong to out-of-place operators that torch_npu makes from the same kernel with a copy.
    """
    file = "dynamo/torchair/_ge_concrete_graph/auto_generated_ge_raw_ops.py"
    text = (Path(torch_npu.__file__).parent / file).read_text()
    in_place = {}
    for kernel, body in re.findall(r'"""REG_OP\((\w+)\)(.*?)"""', text, re.DOTALL):
        taken = re.findall(r"\.(?:\w+_)?INPUT\((\w+)", body)
        returned = re.findall(r"\.(?:\w+_)?OUTPUT\((\w+)", body)
        in_place[kernel.lower()] = set(taken) & set(returned)
    for name in torch._C._dispatch_get_all_op_names():
        space, _, short = name.partition("::")
        if space != "npu" or "." in short:
            continue
        schema = getattr(torch.ops.npu, short).default._schema
        written = in_place.get(short.replace("npu_", "").replace("_", ""), set())
        arguments = tuple(a.name for a in schema.arguments if a.name in written)
        if arguments and not schema.is_mutable:
            yield name, arguments


def unknown_writes(known: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The undeclared writes of the wheel that a table lacks or has otherwise, and those that only
    the table has."""
    found = dict(undeclared_writes())
    return dict(found.items() ^ known.items())


def test_every_undeclared_write_is_known():
    assert unknown_writes(UNDECLARED) == {}


@pytest.mark.parametrize("name", sorted(UNDECLARED))
def test_a_missing_undeclared_write_is_seen(name):
    known = {k: v for k, v in UNDECLARED.items() if k != name}
    assert list(unknown_writes(known)) == [name]
