from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from ascend_passes import npu
from ascend_passes.ir import trace
from tests.npu import fakes
from tests.npu.draw import halves, seeds
from tests.npu.examples import call_of

COLLECTIVE = {name for name, operator in npu.OPERATORS.items() if "hcom" in operator.schema}


NAMES = [name for name in npu.OPERATORS if name not in COLLECTIVE]


@pytest.mark.parametrize("name", npu.OPERATORS)
def test_registered_schema_is_the_declared_one(name):
    operator = npu.OPERATORS[name]
    declared = torch._C.parse_schema(f"{operator.namespace}::{operator.schema}")
    assert npu.packet(name).default._schema == declared
    assert operator.schema.startswith(f"{name}(")


@pytest.mark.parametrize("name", NAMES)
def test_fake_equals_real(name):
    @given(seeds, st.integers(0, 5), st.integers(1, 9), halves)
    def check(seed, rows, width, dtype):
        arguments, keywords = call_of(name, seed, rows, width, dtype)
        fakes.call(name, *arguments, **keywords)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_fake_keeps_symbols_and_adds_no_guard(name):
    """Sizes are primes, so that no two of them share a symbol by chance."""
    rows, width = 13, 17
    flat, tree = pytree.tree_flatten(call_of(name, 0, rows, width, torch.float16))
    tensors = [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]
    symbolic = iter(
        trace.symbolic_inputs([t.shape for t in tensors], [t.dtype for t in tensors], "cpu")
    )
    leaves = [next(symbolic) if isinstance(leaf, torch.Tensor) else leaf for leaf in flat]
    mode = next(t for t in leaves if isinstance(t, torch.Tensor)).fake_mode
    (arguments, keywords), before = pytree.tree_unflatten(leaves, tree), len(mode.shape_env.guards)
    with mode:
        results = npu.call(name, *arguments, **keywords)
    assert len(mode.shape_env.guards) == before
    (real_arguments, real_keywords) = call_of(name, 0, rows, width, torch.float16)
    real = npu.call(name, *real_arguments, **real_keywords)
    for fake, result in zip(pytree.tree_leaves(results), pytree.tree_leaves(real), strict=True):
        if fake is not None:
            assert [int(size) for size in fake.shape] == list(result.shape)
            assert rows not in result.shape or any(
                isinstance(size, torch.SymInt) for size in fake.shape
            )


def test_compiled_code_can_call_them():
    def model(x, gamma):
        y, _, total = npu.npu_add_rms_norm(x, x, gamma)
        return npu.npu_dynamic_quant(y), total

    x, gamma = torch.randn(3, 8).bfloat16(), torch.ones(8).bfloat16()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(
        pytree.tree_leaves(compiled(x, gamma)), pytree.tree_leaves(model(x, gamma)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_parameters_and_gradients():
    gamma = torch.nn.Parameter(torch.ones(8))
    y, _ = npu.npu_rms_norm(torch.randn(3, 8), gamma)
    assert y.isfinite().all()
    query = torch.nn.Parameter(torch.randn(1, 1, 64))
    with torch.no_grad():
        npu.npu_apply_rotary_pos_emb(query, query.clone(), query, query, "TND")


def test_importing_twice_registers_once():
    code = "import importlib; from ascend_passes import npu; importlib.reload(npu); npu.npu_swiglu"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_errors():
    with pytest.raises(AttributeError, match="npu_nothing"):
        npu.npu_nothing  # noqa: B018
    with pytest.raises(TypeError, match="no argument weight"):
        npu.legality("npu_swiglu", {"weight": 1}, "Ascend910B")
    with pytest.raises(TypeError, match="needs input"):
        npu.legality("npu_swiglu", {}, "Ascend910B")
