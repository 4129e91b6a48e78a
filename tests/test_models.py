import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

from ascend_passes.cli.demo import save_model
from ascend_passes.models import ModelError
from ascend_passes.models.build import FAMILIES, small_model
from ascend_passes.models.compare import Error
from ascend_passes.models.generate import generate, logits_of, new_cache
from ascend_passes.models.load import load_model
from ascend_passes.models.quantize import largest_scale, quantize_model, quantized_layers
from ascend_passes.models.reference import reference_logits

SMALLEST = {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 128}


def tokens(count, seed=0):
    return torch.randint(512, (1, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_a_cache_agrees_with_one_forward_without(family):
    model = small_model(family, **SMALLEST)
    prompt, following = tokens(5), tokens(3, seed=1)
    cache = new_cache(model, 1, 8)
    stepwise = logits_of(model, model, cache, prompt, following)
    with torch.no_grad():
        at_once = model(torch.cat([prompt, following], 1), use_cache=False).logits
    assert Error.between(stepwise, at_once.double()).relative < 1e-5


def test_seeds_decide_the_weights_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, second, third = (small_model("qwen3", seed=seed, **SMALLEST) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, third.lm_head.weight)


def test_the_reference_is_float64_throughout():
    model = small_model("qwen3", **SMALLEST)
    prompt, following = tokens(5), tokens(2, seed=1)
    reference = reference_logits(model, prompt, following)
    eager = logits_of(model, model, new_cache(model, 1, 7), prompt, following)
    assert reference.dtype == torch.float64
    assert model.dtype == torch.float32
    # Were one norm or table of the reference rounded to float32, moving the weights by less than
    # float32's resolution could not move its result smoothly.
    moved = copy.deepcopy(model).double()
    moved.model.embed_tokens.weight.data.mul_(1 + 2**-40)
    change = (reference_logits(moved, prompt, following) - reference).abs().max()
    assert 0 < change < 1e-9
    assert 1e-9 < Error.between(eager, reference).relative < 1e-5


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_a_saved_w8a8_model_loads_with_int8_weights_and_equal_logits(tmp_path, activations):
    save_model(tmp_path / "model", torch.bfloat16, activations, seed=3)
    model = load_model(tmp_path / "model")
    again = load_model(tmp_path / "model")
    layers = dict(quantized_layers(model))
    assert len(layers) == 14
    prompt = tokens(6)
    cache = new_cache(model, 1, 8)
    chosen = generate(model, model, cache, prompt, 2)
    assert torch.equal(chosen, generate(again, again, new_cache(again, 1, 8), prompt, 2))
    assert all(layer.weight.dtype == torch.int8 for layer in layers.values())
    assert "lm_head" not in layers


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_quantizing_moves_the_logits_little_but_does_move_them(activations):
    model = small_model("qwen3", **SMALLEST)
    prompt, nothing = tokens(16), torch.empty(1, 0, dtype=torch.int64)
    full = reference_logits(model, prompt, nothing)
    quantize_model(model, activations, prompt)
    assert 1e-4 < Error.between(reference_logits(model, prompt, nothing), full).relative < 0.1


def test_largest_scales_are_the_librarys_but_for_the_divisor():
    value = torch.randn(2, 3, 64)
    args = next(layer for _, layer in quantized_layers(quantized())).quantization_scheme
    theirs, _ = compute_dynamic_scales_and_zp(value, args.input_activations, None)
    torch.testing.assert_close(largest_scale(value) * 127, theirs * 127.5)
    assert torch.equal(largest_scale(torch.zeros(1, 4)), torch.ones(1, 1))


def quantized():
    model = small_model("qwen3", **SMALLEST)
    quantize_model(model, "dynamic", tokens(8))
    return model


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "holds no config.json"),
        ("{", "is no valid JSON"),
        ("[]", "must hold a JSON object"),
        ({"model_type": "qwen2_moe"}, "supported models: .*qwen3.* Did you mean 'qwen3_moe'"),
        ({}, "model_type None is not supported"),
        ({"model_type": "gemma3"}, "load the text model"),
        ({"model_type": "qwen3"}, r"holds no \*.safetensors"),
        ({"model_type": "qwen3", "quantization_config": {"quant_method": "gptq"}}, "by 'gptq'"),
        (
            {
                "model_type": "qwen3",
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "format": "pack-quantized",
                },
            },
            "format 'pack-quantized' is not supported",
        ),
    ],
)
def test_a_directory_that_cannot_be_loaded_says_why(tmp_path, config, reason):
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=reason):
        load_model(tmp_path)


def test_a_missing_directory_and_an_unknown_dtype_say_what_is_valid(tmp_path):
    with pytest.raises(ModelError, match="is no directory"):
        load_model(tmp_path / "absent")
    save_model(tmp_path / "model", torch.float32, None, seed=0)
    with pytest.raises(ModelError, match="valid values: bfloat16"):
        load_model(tmp_path / "model", dtype="int4")
    assert load_model(tmp_path / "model", dtype="bfloat16").dtype == torch.bfloat16


def test_a_missing_weight_is_an_error_and_not_a_random_one(tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(tmp_path / "model", torch.float32, None, seed=0)
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights, such as model\.norm\.weight"):
        load_model(tmp_path / "model")


def test_a_damaged_weight_file_is_an_error_and_not_random_weights(tmp_path):
    save_model(tmp_path / "model", torch.float32, None, seed=0)
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path / "model")
