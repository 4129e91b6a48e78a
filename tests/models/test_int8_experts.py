"""A W8A8 Qwen3-MoE: read as it is stored, fused as a dense model round its experts, and right."""

from __future__ import annotations

import json
import re

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from safetensors.torch import load_file, save_file

import ascend_passes
from ascend_passes.models import ModelError
from ascend_passes.models.compare import Error
from ascend_passes.models.exact import exact_forward
from ascend_passes.models.generate import logits_of, new_cache
from ascend_passes.models.limits import EXACT, NO_WORSE, W8A8
from ascend_passes.models.load import load_model, load_original
from ascend_passes.models.reference import reference_logits
from tests.models.expert_checkpoints import save_w8a8
from tests.models.test_experts import calls_of

LAYERS = 4
FIRED = {
    "quant_matmul_dynamic": 4 * LAYERS,
    "quantize_dynamic": 4 * LAYERS,
    "add_rms_norm_dynamic_quant": LAYERS - 1,
    "add_rms_norm": 2 * LAYERS,
    "rms_norm": 4 * LAYERS + 1,
    "apply_rotary_pos_emb": LAYERS,
    "gating_top_k_softmax": LAYERS,
    "init_routing": LAYERS,
    "grouped_matmul": 2 * LAYERS,
    "quantized_experts": 2 * LAYERS,
    "swiglu_quant_dynamic": LAYERS,
    "finalize_routing": LAYERS,
}
"""As in a dense layer: the four products of attention, and the norm in front of the first three,
which adds nothing in the first layer. Router and experts take the other norm's rows as they are."""
FLOATS = ("aten._grouped_mm", "aten.round", "aten.amax", "aten.silu", "aten.sort", "aten.topk")
"""Operators that only the spelling has."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_w8a8(tmp_path_factory.mktemp("w8a8") / "model", num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """The folder of a model of one layer."""
    return save_w8a8(tmp_path_factory.mktemp("w8a8") / "model", num_hidden_layers=1)


PROMPT = torch.randint(3, 512, (1, 15), generator=torch.Generator().manual_seed(1))
NOTHING = PROMPT[:, :0]
"""What follows the prompt."""


def prefill(model, run):
    return logits_of(run, model, new_cache(model, 1, 16), PROMPT, NOTHING)


def compiled(model):
    """The report of a compilation, and the logits."""
    torch._dynamo.reset()
    ascend_passes.reset()
    logits = prefill(model, torch.compile(model, backend="ascend_dense", dynamic=False))
    (report,) = ascend_passes.reports()
    assert not report.errors
    return report, logits


def test_every_expert_is_packed_as_it_is_stored(folder):
    stored = load_file(folder / "model.safetensors")
    model = load_model(folder)
    for layer in (0, LAYERS - 1):
        experts = model.model.layers[layer].mlp.experts
        for number in (0, 3, 7):
            name = f"model.layers.{layer}.mlp.experts.{number}"
            for end, held in (("", ""), ("_scale", "_scale")):
                gate, up, down = (
                    stored[f"{name}.{part}_proj.weight{end}"] for part in ("gate", "up", "down")
                )
                packed = getattr(experts, f"gate_up_proj{held}")[number]
                assert torch.equal(packed, torch.cat([gate, up]))
                assert torch.equal(getattr(experts, f"down_proj{held}")[number], down)
        assert experts.gate_up_proj.dtype == experts.down_proj.dtype == torch.int8


@pytest.fixture(scope="module")
def made(folder):
    """A loaded model, and what became of it."""
    model = load_model(folder)
    return model, *compiled(model)


def test_all_fuses_and_experts_multiply_int8(made):
    _, report, _ = made
    assert {name: report.fired.get(name) for name in FIRED} == FIRED
    calls = calls_of(report)
    assert calls["npu.npu_grouped_matmul"] == 2 * LAYERS
    assert str(report.graph_after).count("output_dtype = 15") >= 2 * LAYERS
    assert not [name for name in FLOATS if calls[name]]
    assert calls["aten.mm"] == LAYERS + 1, "the routers and the head"
    assert not report.left


def test_it_is_as_near_to_float64_as_eager(folder, made):
    """The formula to the last digits; in bfloat16 the median token within the bound of W8A8, since
    few go to other experts."""
    model, _, logits = made
    exact = reference_logits(load_original(folder), PROMPT, NOTHING)
    compiled_error, eager_error = (
        Error.between(one, exact) for one in (logits, prefill(model, model))
    )
    assert Error.between(prefill(model, exact_forward(model, {})), exact).relative <= EXACT
    assert compiled_error.typical <= min(W8A8, NO_WORSE * eager_error.typical)


def test_in_float32_experts_stay_floats_and_that_is_told(layer):
    report, _ = compiled(load_model(layer, dtype="float32"))
    assert "quantized_experts" not in report.fired
    assert report.fired["grouped_matmul"] == 2
    (reason,) = {one.reason for one in report.left if one.family == "quantized_experts"}
    assert reason == "its weight is int8, but its rows are no int8 with scales"


def rewritten_config(source, target, change):
    """The same weights beside another `quantization_config`."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    change(config["quantization_config"])
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").symlink_to(source / "model.safetensors")
    return target


def static(quantization):
    quantization["config_groups"]["group_0"]["input_activations"] |= {
        "dynamic": False,
        "strategy": "tensor",
    }


def of_tensors(quantization):
    quantization["config_groups"]["group_0"]["input_activations"]["strategy"] = "tensor"


@pytest.mark.parametrize("change", [static, of_tensors])
def test_other_schemes_of_experts_are_refused(folder, tmp_path, change):
    other = rewritten_config(folder, tmp_path / "model", change)
    with pytest.raises(ModelError, match=r"quantizes model\.layers\.0\.mlp\.experts; of experts"):
        load_model(other)


def test_float_experts_beside_int8_layers(layer, tmp_path):
    """As a quantization that ignores the experts leaves them."""
    ignore = "re:.*experts.*"
    other = rewritten_config(layer, tmp_path / "model", lambda one: one["ignore"].append(ignore))
    stored, floats = load_file(layer / "model.safetensors"), {}
    for name, tensor in stored.items():
        expert = re.search(r"\.experts\.\d", name)
        if expert and name.endswith(".weight"):
            floats[name] = (tensor.float() * stored[f"{name}_scale"].float()).bfloat16()
        elif not expert:
            floats[name] = tensor
    (other / "model.safetensors").unlink()
    save_file(floats, other / "model.safetensors", metadata={"format": "pt"})
    report, _ = compiled(load_model(other))
    assert "quantized_experts" not in report.fired
    assert report.fired["grouped_matmul"] == 2
    assert report.fired["quant_matmul_dynamic"] == 4
