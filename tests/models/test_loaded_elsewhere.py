"""Checkpoints that transformers' from_pretrained loads: fused, or told how to load them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from transformers import AutoModelForCausalLM

import ascend_passes
from ascend_passes import Report
from ascend_passes.frontends.compressed_tensors_layers import FIX, REASON
from ascend_passes.models.load import load_model
from ascend_passes.models.quantize import keep_compressed
from tests.models.test_checkpoints import ACTIVATIONS, save, scheme_of, token_ids

KINDS = {"static": ACTIVATIONS[0], "dynamic": ACTIVATIONS[2]}
LINEARS = 7
"""Quantized linear layers of one decoder layer."""


def from_pretrained(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def kept(folder):
    model = from_pretrained(folder)
    keep_compressed(model)
    return model


@torch.no_grad()
def compiled(model):
    """What is told of all graphs of one prompt."""
    torch._dynamo.reset()
    ascend_passes.reset()
    torch.compile(model.eval(), backend="ascend_dense")(token_ids(5), use_cache=False)
    return sum(ascend_passes.reports(), Report())


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """(kind of activations, a saved checkpoint)."""
    made = tmp_path_factory.mktemp(request.param)
    scheme = scheme_of({"strategy": "channel"}, KINDS[request.param])
    save(made, scheme, dtype=torch.bfloat16)
    return request.param, made


def test_what_the_library_runs_is_told_with_the_way_to_load_it(folder):
    _, made = folder
    report = compiled(from_pretrained(made))
    assert not report.fired.keys() & {"quant_matmul_static", "quant_matmul_dynamic"}
    assert (REASON, FIX) in {(one.reason, one.fix) for one in report.left}
    assert FIX in str(report) and "load_model(folder)" in FIX and "keep_compressed(model)" in FIX


@pytest.mark.parametrize("loaded", [load_model, kept], ids=["load_model", "keep_compressed"])
def test_loaded_as_told_it_is_fused_and_nothing_is_told(folder, loaded):
    kind, made = folder
    report = compiled(loaded(made))
    assert report.fired[f"quant_matmul_{kind}"] == LINEARS
    assert REASON not in {one.reason for one in report.left}
