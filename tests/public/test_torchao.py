"""W8A8 by torchao: saved, loaded by transformers' from_pretrained, and fused as it is."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("torchao.quantization")

from torchao.quantization import Int8DynamicActivationInt8WeightConfig
from transformers import AutoModelForCausalLM, TorchAoConfig

import ascend_passes
from ascend_passes.models.build import small_model

LAYERS, LINEARS = 2, 7


def loaded(folder, config):
    """A small Qwen3 of a checkpoint that torchao has quantized."""
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": 256, "intermediate_size": 256}
    small_model("qwen3", torch.bfloat16, **sizes).save_pretrained(folder / "float")
    given = TorchAoConfig(config)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "float", dtype=torch.bfloat16, quantization_config=given
    )
    model.save_pretrained(folder / "int8")
    return AutoModelForCausalLM.from_pretrained(folder / "int8", dtype=torch.bfloat16)


@pytest.mark.parametrize("count", [17, 1], ids=["prompt", "one token"])
@torch.no_grad()
def test_rows_of_their_own_scales_are_fused(tmp_path, count):
    model = loaded(tmp_path, Int8DynamicActivationInt8WeightConfig())
    ids = torch.randint(512, (1, count), generator=torch.Generator().manual_seed(1))
    torch._dynamo.reset()
    ascend_passes.reset()
    mine = torch.compile(model, backend="ascend_dense", dynamic=False)(ids, use_cache=False).logits
    (report,) = ascend_passes.reports()
    assert not report.errors and not report.left, str(report)
    calls = Counter(kernel.operator.rpartition(":")[2] for kernel in report.after)
    assert calls["npu_quant_matmul"] == LAYERS * LINEARS, calls
    assert calls["npu_add_rms_norm_dynamic_quant"] == 2 * LAYERS - 1, calls
    eager = model(ids, use_cache=False).logits
    apart = (mine.double() - eager.double()).norm() / eager.double().norm()
    assert apart <= 0.04  # rows are rounded to int8 by other steps: half a step each, 1/127
