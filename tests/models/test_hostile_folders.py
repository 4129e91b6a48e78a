"""A model folder that is wrong or hostile is one clear line, and no code of it is run."""

from __future__ import annotations

import json
import pickle
import struct
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from safetensors.torch import load_file, save_file
from transformers import modeling_utils

from ascend_passes.models import ModelError
from ascend_passes.models.build import small_model
from ascend_passes.models.generate import new_cache, step_inputs
from ascend_passes.models.load import load_model

SMALLEST = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 32,
}
KERNEL = "kernels-community/flash-attn"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    small_model("qwen3", **SMALLEST).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A right model, for a test to spoil."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def configured(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(folder):
    """The line of the error, which names the folder."""
    with pytest.raises(ModelError) as error:
        load_model(folder)
    text = str(error.value)
    assert "\n" not in text and len(text) < 700
    return text


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": KERNEL},
        {"_attn_implementation": KERNEL},
        {"_attn_implementation_internal": KERNEL},
        {"attn_implementation": f"paged|{KERNEL}"},
        {"attn_implementation": {"": "sdpa", "text_config": KERNEL}},
        {"text_config": {"attn_implementation": KERNEL}},
        {"sub_configs": [{"deep": {"_attn_implementation": {"vision": KERNEL}}}]},
    ],
    ids=str,
)
def test_attention_code_of_a_repository_is_refused(folder, changes, monkeypatch):
    asked = []
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", asked.append)
    configured(folder, **changes)
    assert "asks for attention code of a repository" in refused(folder)
    assert str(folder) in refused(folder) and not asked


@pytest.mark.parametrize("name", ["eager", "flash_attention_2", "flex_attention", "nonsense", 7])
def test_any_other_attention_is_ignored(folder, name):
    configured(folder, attn_implementation=name, _attn_implementation=name)
    assert load_model(folder).config._attn_implementation == "sdpa"


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_no_code_of_a_folder_is_run(folder, tmp_path_factory, monkeypatch):
    ran = tmp_path_factory.mktemp("ran") / "RAN"
    code = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n"
    for name in ("modeling_evil", "configuration_evil", "qwen3", "sitecustomize", "kernels"):
        (folder / f"{name}.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    pickled = pickle.dumps(Payload(ran))
    for name in ("pytorch_model.bin", "model.bin", "training_args.bin", "tokenizer.pkl"):
        (folder / name).write_bytes(pickled)
    configured(
        folder,
        auto_map={
            "AutoConfig": "configuration_evil.Config",
            "AutoModelForCausalLM": "modeling_evil.Model",
        },
        trust_remote_code=True,
        custom_generate="custom_generate",
        use_kernels=True,
        architectures=["modeling_evil.Model"],
    )
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    load_model(folder)
    assert not ran.exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name]


def test_a_pickle_that_an_index_names_is_not_opened(folder, tmp_path_factory):
    ran = tmp_path_factory.mktemp("ran") / "RAN"
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "weights.bin").write_bytes(pickle.dumps(Payload(ran)))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "weights.bin")}
    for file in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (folder / file).write_text(json.dumps(index))
    assert str(folder) in refused(folder)
    assert not ran.exists()


WRONG_CONFIGS = [
    {"hidden_size": "x"},
    {"hidden_size": None},
    {"hidden_size": -8},
    {"hidden_size": 0},
    {"hidden_size": 10**12},
    {"num_attention_heads": 0},
    {"num_attention_heads": [2]},
    {"num_key_value_heads": 0},
    {"num_hidden_layers": -1},
    {"num_hidden_layers": "1"},
    {"vocab_size": -1},
    {"hidden_act": "nonsense"},
    {"hidden_act": 3},
    {"rope_parameters": 5},
    {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1.0}},
    {"rope_scaling": "yes"},
    {"layer_types": ["nonsense"]},
    {"layer_types": 3},
    {"layer_types": ["linear_attention"]},
    {"layer_types": ["sliding_attention"]},
    {"layer_types": ["sliding_attention"], "use_sliding_window": True, "sliding_window": 4},
    {"return_dict": False},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 0}},
    {"head_dim": None},
    {"dtype": "nonsense"},
    {"dtype": 5},
    {"torch_dtype": ["float32"]},
    {"rms_norm_eps": "tiny"},
    {"pad_token_id": 10**9},
    {"id2label": 3},
    {"quantization_config": "int8"},
    {"quantization_config": []},
    {"quantization_config": 8},
    {"quantization_config": {"quant_method": 8}},
    {"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}},
    {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "quantization_status": "compressed",
            "config_groups": "W8A8",
        }
    },
]


@pytest.mark.parametrize("changes", WRONG_CONFIGS, ids=str)
def test_a_wrong_configuration_is_one_line_or_a_model(folder, changes):
    configured(folder, **changes)
    try:
        model = load_model(folder)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        inputs = step_inputs(model, torch.tensor([[1, 2]]), 0, new_cache(model, 1, 4))
        assert model(**inputs).logits.shape == (1, 2, 32)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"qwen3"',
        b"\xff\xfe\x00",
        '{"model_type": "qwen3"}'.encode("utf-16"),
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"model_type": "qwen3", "hidden_size": ' + b"9" * 1_000_000 + b"}",
        b'{"model_type": "qwen3", "hidden_size": NaN}',
        b'{"model_type": {"qwen3": 1}}',
    ],
    ids=lambda content: str(content[:24]),
)
def test_a_configuration_that_is_no_json_object_is_one_line(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refused(folder) or content[:2] in (b'{"', b"\xff\xfe")


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


WRONG_FILES = {
    "empty": b"",
    "short": b"\x08",
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 10 GB": struct.pack("<Q", 10**10) + b"{}",
    "no json": struct.pack("<Q", 4) + b"abcd",
    "offsets behind the end": header(
        {"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}
    ),
    "huge shape": header(
        {"model.norm.weight": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}, b"abcd"
    ),
    "unknown dtype": header(
        {"model.norm.weight": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, b"abcd"
    ),
    "pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("content", WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_damaged_weight_file_is_one_line(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert str(folder) in refused(folder)


def test_a_truncated_weight_file_is_one_line(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (7, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "3",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        '{"metadata": {}, "weight_map": {"model.norm.weight": 5}}',
        '{"metadata": {}, "weight_map": {"model.norm.weight": "absent.safetensors"}}',
        '{"metadata": {}, "weight_map": {"model.norm.weight": "../../absent.safetensors"}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_wrong_index_is_one_line(folder, index):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("shape", [(16,), (32, 1), (0,)], ids=str)
def test_a_weight_of_another_shape_is_one_line(folder, shape):
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] = torch.zeros(shape)
    save_file(weights, file, metadata={"format": "pt"})
    assert str(folder) in refused(folder)
