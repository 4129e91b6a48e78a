"""Every scheme of compressed-tensors: run as the library runs it, or refused by its field."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM

from ascend_passes.cli.run import compare_directory
from ascend_passes.models import ModelError, load
from ascend_passes.models.build import small_model
from ascend_passes.models.compare import Error
from ascend_passes.models.generate import logits_of, new_cache
from ascend_passes.models.limits import EXACT
from ascend_passes.models.load import load_model, load_original
from ascend_passes.models.quantize import observe, quantized_layers
from ascend_passes.models.reference import InDouble, in_double, logits_in_double
from ascend_passes.models.schemes import check_quantization

SMALLEST = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "head_dim": 32,
    "vocab_size": 64,
}
WEIGHTS = [
    {"strategy": "tensor"},
    {"strategy": "channel"},
    {"strategy": "group", "group_size": 16},
    {"strategy": "channel", "actorder": "weight"},
    {"strategy": "block", "block_structure": [16, 16]},
    {"strategy": "tensor_group", "group_size": 16},
    {"strategy": "group", "group_size": 16, "actorder": "group"},
    {"strategy": "channel", "num_bits": 4},
    {"strategy": "channel", "type": "float"},
    None,
]
ACTIVATIONS = [
    {"strategy": "tensor"},
    {"strategy": "tensor", "dynamic": True},
    {"strategy": "token", "dynamic": True},
    {"strategy": "group", "group_size": 16, "dynamic": True},
    {"strategy": "tensor_group", "group_size": 16, "dynamic": "local"},
    {"strategy": "tensor", "num_bits": 4},
    {"strategy": "tensor", "type": "float"},
    None,
]
READ_WEIGHTS, READ_ACTIVATIONS = WEIGHTS[:4], ACTIVATIONS[:3]
W8A8 = ({"strategy": "channel"}, {"strategy": "tensor"})
BOTH = (True, False)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
"""A scheme of activations for each, with and without a zero point; `down_proj` stays float."""


def token_ids(count, seed=0):
    return torch.randint(64, (1, count), generator=torch.Generator().manual_seed(seed))


def arguments(given, symmetric):
    return None if given is None else QuantizationArgs(**given, symmetric=symmetric)


def scheme_of(weights, activations, symmetric=(True, True), target="Linear"):
    return QuantizationScheme(
        targets=[target],
        weights=arguments(weights, symmetric[0]),
        input_activations=arguments(activations, symmetric[1]),
    )


def stored_config(scheme, **changes):
    """The `quantization_config` of a checkpoint of one group."""
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format="int-quantized", quantization_status="compressed"
    )
    return {**config.model_dump(mode="json"), **changes}


def write_numbers(layer, ranges):
    """Scales and zero points by the library's formula from what the layer's tensors reach."""
    scheme, weight = layer.quantization_scheme, layer.weight
    rows = {
        "tensor": weight.reshape(1, -1),
        "channel": weight[:, None],
        "group": weight.unflatten(1, (-1, scheme.weights.group_size or 1)),
    }[scheme.weights.strategy]
    low, high = rows.amin(-1), rows.amax(-1)
    parts = {"weight": (low.reshape(-1) if scheme.weights.strategy == "tensor" else low, high)}
    if not scheme.input_activations.dynamic:
        parts["input"] = ranges
    for base, found in parts.items():
        args = scheme.weights if base == "weight" else scheme.input_activations
        scale, zero = calculate_qparams(*found, args)
        getattr(layer, f"{base}_scale").copy_(scale)
        getattr(layer, f"{base}_zero_point").copy_(zero)
    layer.quantization_status = QuantizationStatus.FROZEN


@torch.no_grad()
def save(folder, *schemes, dtype=torch.float32, ignore=("lm_head",), seed=0):
    """A small Qwen3 that the library quantized and saved; returns its float weights by layer."""
    model = small_model("qwen3", dtype, seed, **SMALLEST)
    source = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():  # off zero, so that a lost zero point shows
        if parameter.dim() == 2:
            parameter.add_(torch.rand(parameter.shape, generator=source).to(dtype) * 0.1)
    groups = {f"group_{index}": scheme for index, scheme in enumerate(schemes)}
    ranges = observe(model, token_ids(32, seed=1))
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=list(ignore)))
    weights = {}
    for name, layer in quantized_layers(model):
        weights[name] = layer.weight.detach().clone()
        write_numbers(layer, ranges[name])
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    return weights


def librarys(folder):
    """The model as transformers and compressed-tensors run it, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.to(torch.float64)
    with torch.no_grad():
        model(token_ids(2), use_cache=False)  # its own hook reads the weights back
    return dict(quantized_layers(model))


@pytest.mark.parametrize("symmetric", BOTH)
@pytest.mark.parametrize("weights", READ_WEIGHTS, ids=str)
def test_a_scheme_that_is_read_gives_what_the_library_gives(tmp_path, weights, symmetric):
    kinds = list(itertools.product(READ_ACTIVATIONS, BOTH))
    schemes = [
        scheme_of(weights, kind, (symmetric, even), f"re:.*{name}$")
        for name, (kind, even) in zip(PROJECTIONS, kinds, strict=True)
    ]
    originals, theirs = save(tmp_path, *schemes), librarys(tmp_path)
    ours = dict(quantized_layers(load_model(tmp_path).to(torch.float64)))
    assert len(ours) == len(PROJECTIONS) and ours.keys() == theirs.keys() == originals.keys()
    value = torch.randn(2, 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    value += 0.5
    for name, layer in ours.items():
        assert layer.weight.dtype == torch.int8
        weight, step = theirs[name].weight, layer.weight_scale.max()
        assert (weight - originals[name]).abs().max() <= 0.51 * step
        with InDouble():
            apart = (layer(value) - theirs[name](value)).abs().max()
        kind = layer.quantization_scheme.input_activations
        # A symmetric dynamic scale is the runtime's own choice: each input may be a step apart.
        chosen = value.abs().max() / 127 * weight.abs().sum(1).max()
        assert apart <= (chosen if kind.dynamic and kind.symmetric else 1e-12)


REFUSED = [
    (weights, activations)
    for weights, activations in itertools.product(WEIGHTS, ACTIVATIONS)
    if not (weights in READ_WEIGHTS and activations in READ_ACTIVATIONS)
]


@pytest.mark.parametrize("symmetric", list(itertools.product(BOTH, repeat=2)), ids=str)
@pytest.mark.parametrize(("weights", "activations"), REFUSED, ids=str)
def test_any_other_scheme_is_refused_by_its_field(weights, activations, symmetric):
    scheme = scheme_of(weights, activations, symmetric)
    with pytest.raises(ModelError) as refused:
        check_quantization(stored_config(scheme))
    text = str(refused.value)
    fields = {"weights": weights not in READ_WEIGHTS}
    fields["input_activations"] = activations not in READ_ACTIVATIONS
    assert any(wrong and f"config_groups.group_0.{name}" in text for name, wrong in fields.items())
    assert text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": "pack-quantized"}, "format 'pack-quantized'"),
        ({"format": "mixed-precision"}, "format 'mixed-precision'"),
        ({"format": "dense"}, "format 'dense'"),
        ({"format": None}, "format None"),
        ({"quantization_status": "frozen"}, "quantization_status is 'frozen'"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}, "transform_config"),
        ({"config_groups": {}}, "config_groups is empty"),
        ({"config_groups": {"NOT_A_PRESET": ["Linear"]}}, "NOT_A_PRESET"),
        ({"config_groups": {"W4A16": ["Linear"]}}, "W4A16.weights has type 'int' and num_bits 4"),
        ({"config_groups": [1]}, "cannot be read"),
        ({"config_groups": {"a": {"targets": ["Linear"], "weights": 8}}}, "cannot be read"),
        ({"dequantize": True}, "dequantize"),
        ({"run_compressed": False}, "run_compressed"),
        ({"quant_method": "gptq"}, "by 'gptq'"),
        ({"quant_method": ["compressed-tensors"]}, "by "),
    ],
    ids=str,
)
def test_what_stands_beside_the_schemes_is_refused_by_its_field(changes, field):
    config = stored_config(scheme_of(*W8A8))
    check_quantization(config)
    check_quantization({**config, "sparsity_config": {}, "transform_config": {"config_groups": {}}})
    with pytest.raises(ModelError, match=field) as refused:
        check_quantization({**config, **changes})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "part", ["format", "output_activations"], ids=["a group's format", "its outputs"]
)
def test_what_stands_in_a_group_is_refused_by_its_field(part):
    config = stored_config(scheme_of(*W8A8))
    config["config_groups"]["group_0"][part] = {
        "format": "float-quantized",
        "output_activations": {"num_bits": 8},
    }[part]
    with pytest.raises(ModelError, match=rf"config_groups\.group_0\.{part}"):
        check_quantization(config)


@pytest.mark.parametrize("quantization", ["int8", 8, [], ["a"], True], ids=str)
def test_a_configuration_that_is_no_object_is_refused(quantization):
    with pytest.raises(ModelError, match="quantization_config must be a JSON object"):
        check_quantization(quantization)


def changed(folder, change):
    """Apply a change to the `quantization_config` of a saved checkpoint."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config["quantization_config"])
    file.write_text(json.dumps(config))


def test_int8_weights_that_the_configuration_leaves_out_are_no_float_weights(tmp_path):
    save(tmp_path, scheme_of(*W8A8))
    changed(tmp_path, lambda q: q["ignore"].append("model.layers.0.mlp.up_proj"))
    with pytest.raises(ModelError, match=r"mlp\.up_proj\.input_scale belongs to a quantized layer"):
        load_model(tmp_path)


def test_zero_points_beside_a_symmetric_scheme_are_refused(tmp_path):
    save(tmp_path, scheme_of(*W8A8, symmetric=(False, True)))
    changed(tmp_path, lambda q: q["config_groups"]["group_0"]["weights"].update(symmetric=True))
    with pytest.raises(ModelError, match=r"weight_zero_point in .* is not zero"):
        load_model(tmp_path)


def test_a_scheme_that_stores_less_than_it_says_is_refused(tmp_path):
    save(tmp_path, scheme_of(*W8A8))
    changed(tmp_path, lambda q: q["config_groups"]["group_0"]["weights"].update(symmetric=False))
    with pytest.raises(ModelError, match=r"lacks weights, such as .*weight_zero_point"):
        load_model(tmp_path)


def test_a_quantized_embedding_is_refused(tmp_path):
    save(tmp_path, scheme_of(*W8A8))
    changed(tmp_path, lambda q: q["config_groups"]["group_0"]["targets"].append("Embedding"))
    with pytest.raises(ModelError):
        load_model(tmp_path)


def loses_its_zero_points(folder):
    """The model, loaded as if the scheme of its weights were symmetric."""
    model = load_model(folder)
    for _, layer in quantized_layers(model):
        del layer.weight_zero_point
    return model


@pytest.mark.parametrize("symmetric", BOTH)
@pytest.mark.parametrize("activations", READ_ACTIVATIONS, ids=str)
def test_the_reference_equals_a_right_forward_and_tells_a_lost_zero_point(
    tmp_path, activations, symmetric
):
    save(tmp_path, scheme_of({"strategy": "channel"}, activations, (False, symmetric)))
    prompt, nothing = token_ids(6), torch.empty(1, 0, dtype=torch.int64)
    reference = logits_in_double(in_double(load_original(tmp_path)), prompt, nothing)

    def error(model):
        model.to(torch.float64)
        with InDouble():
            logits = logits_of(model, model, new_cache(model, 1, 6), prompt, nothing)
        return Error.between(logits, reference).relative

    assert error(load_model(tmp_path)) <= EXACT
    assert error(loses_its_zero_points(tmp_path)) > 0.3


def test_run_fails_where_a_zero_point_is_lost(tmp_path, monkeypatch):
    save(tmp_path, scheme_of(*W8A8, symmetric=(False, True)))
    monkeypatch.setattr(load, "load_model", lambda folder, *_: loses_its_zero_points(folder))
    result = compare_directory(tmp_path, {}, None, "cpu", (1, 6), 1, 0, None)
    assert min(result.eager.relative, result.compiled.relative, result.exact.relative) > 0.3
    assert result.no_worse and result.equal_tokens == result.tokens  # eager alone tells nothing
    assert not result.passed


def test_the_reference_for_a_scheme_of_stored_scales_is_the_librarys_model(tmp_path):
    save(tmp_path, scheme_of(*W8A8, symmetric=(False, False)))
    prompt, nothing = token_ids(6), torch.empty(1, 0, dtype=torch.int64)
    mine = logits_in_double(in_double(load_original(tmp_path)), prompt, nothing)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).to(torch.float64)
    with InDouble():
        logits = logits_of(theirs, theirs, new_cache(theirs, 1, 6), prompt, nothing)
    assert Error.between(mine, logits).relative < 1e-12
