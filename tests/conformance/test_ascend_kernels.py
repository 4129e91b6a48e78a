"""Every kernel of ours compiles for Ascend with Huawei's own compiler, and what it makes for the
910B1 gives float64's numbers on a CPU. See `tests/conformance/ascend`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.ascend import toolchain
from tests.conformance.ascend.kernels_page import GOLDEN, PAGE, counts_of, page
from tests.slow import slow
from tests.soundness.today import seed_of_the_day

SOURCES = toolchain.ROOT / "ascend_passes" / "npu" / "kernels"
FOR_CUDA = {"int8_matmul_tma", "attention"}
"""Kernels that have no form for Ascend; their files say why."""
HELPERS = {"arithmetic"}
CAUGHT = {"flag removed": 1.0, "vector call removed": 0.6, "address moved": 0.4}
"""The share of damaged texts that must show; the rest of the damage changes no result."""


@pytest.fixture(scope="session", autouse=True)
def tools():
    try:
        toolchain.set_up()
    except toolchain.MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def found(tools, tmp_path_factory):
    return toolchain.prove(tmp_path_factory.mktemp("ascend"), str(seed_of_the_day()))


def test_every_kernel_compiles_for_every_chip(found):
    for name, kernel in found["kernels"].items():
        assert set(kernel["targets"].values()) == {"compiles"}, (name, kernel["targets"])
        assert len(kernel["targets"]) == 6


def test_no_kernel_is_left_out(found):
    proved = {kernel["kernel"] for kernel in found["kernels"].values()}
    public = {"norm_rows", "norm_rows_static", "norm_rows_dynamic", "quantize_rows", "swiglu_rows"}
    public |= {"swiglu_rows_dynamic", "swiglu_rows_static", "rotary_heads", "int8_matmul"}
    public |= {"int8_matmul_few", "int8_matmul_sum", "packed_heads"}
    assert proved == public
    files = {path.stem for path in SOURCES.glob("*.py")} - {"__init__", *HELPERS, *FOR_CUDA}
    assert files == {"norm_rows", "quantize_rows", "swiglu_rows", "rotary_heads", "packed_heads",
                     "int8_matmul"}  # fmt: skip


def test_what_is_compiled_gives_the_numbers_of_float64(found):
    for name, kernel in found["kernels"].items():
        for result, (error, bound) in kernel.get("errors", {}).items():
            assert error <= bound, (name, result, error, bound)


def test_what_is_compiled_has_no_fault(found):
    ran = [kernel for kernel in found["kernels"].values() if "counts" in kernel]
    assert len(ran) >= 16
    assert all(kernel["counts"]["faults"] == 0 for kernel in ran)


def test_a_block_that_is_too_big_is_refused(found):
    assert "ub overflow" in found["refused"]


def test_instructions_and_bytes_are_those_of_the_table(found):
    """What changes here is said: `python -m tests.conformance.write_kernels`."""
    golden = json.loads(GOLDEN.read_text())
    assert counts_of(found) == golden
    assert Path(PAGE).read_text() == page(golden)


@slow
@pytest.mark.parametrize("name", ["quantize per token", "add + RMSNorm + quantize, one scale"])
def test_damage_to_what_is_compiled_shows(name, tmp_path):
    noticed = toolchain.prove(tmp_path, "--mutants", name, "5", str(seed_of_the_day()))
    for kind, (caught, of) in noticed.items():
        assert of > 0
        assert caught >= CAUGHT[kind] * of, noticed
