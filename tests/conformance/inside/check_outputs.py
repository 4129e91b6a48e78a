"""Our fakes against what the wheel's C++ operators allocate on the device, kernels empty."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from ascend_passes import npu
from tests.conformance import wheel_faults
from tests.conformance.inside import fakes, inputs, wheel

COLLECTIVE = {name for name in npu.of_cann() if "reduce" in name or "gather" in name}
"""Operators that ask HCCL for a group, which the stand-in has not."""
OTHER_LIBRARY = {"_npu_reshape_and_cache"}
"""Operators of ATB, whose C++ classes the stand-in does not make."""
RUNNABLE = set(npu.of_cann()) - COLLECTIVE - OTHER_LIBRARY


def on_device(tensor: Tensor) -> Tensor:
    """A device tensor of the same layout."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="npu:0")


def allocated(name: str, call: inputs.Call) -> list[fakes.Description]:
    """What the wheel's operator gives back for a call."""
    args, kwargs = pytree.tree_map_only(Tensor, on_device, (call.args, call.kwargs))
    return fakes.describe(wheel.overload(npu.OPERATORS[name])(*args, **kwargs))


@pytest.mark.parametrize("name", sorted(RUNNABLE - set(wheel_faults.ALLOCATED)))
def test_fake_agrees_with_what_is_allocated(name):
    @settings(
        max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def agrees(data):
        call = inputs.CALLS[name](inputs.Draw(data.draw))
        assert allocated(name, call) == fakes.describe(
            npu.OPERATORS[name].fake(*call.args, **call.kwargs)
        )

    agrees()


@pytest.mark.parametrize("name", sorted(wheel_faults.ALLOCATED))
def test_faults_are_there(name):
    @settings(max_examples=5, deadline=None, database=None)
    @given(st.data())
    def ends_differently(data):
        call = inputs.CALLS[name](inputs.Draw(data.draw))
        if "smooth_scale2" in call.kwargs:
            return  # every result is on
        if wheel.wants_mask(name):
            with pytest.raises(RuntimeError, match="fixed-size array of size 2"):
                allocated(name, call)
            return
        ours = fakes.describe(npu.OPERATORS[name].fake(*call.args, **call.kwargs))
        theirs = allocated(name, call)
        assert theirs[0] == ours[0]
        assert theirs != ours

    ends_differently()


@pytest.mark.parametrize("name", sorted(wheel_faults.KEEPS_STRIDES))
def test_results_are_contiguous_where_meta_says_otherwise(name):
    transposed = inputs.meta(32, 32, dtype=torch.half).t()
    call = inputs.transposed_call(name, transposed)
    assert allocated(name, call) == fakes.describe(
        npu.OPERATORS[name].fake(*call.args, **call.kwargs)
    )
