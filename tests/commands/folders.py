"""Files and folders that nobody would give to a command on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ascend_passes.cli.new import TEMPLATE
from ascend_passes.cost.profiles import ATLAS_800_A2

SPIN = "while True:\n    pass\n"
RULES = {
    "sound": TEMPLATE,
    "loops": SPIN,
    "sleeps": "import time\ntime.sleep(1e6)\n",
    "catches": "while True:\n    try:\n        while True:\n            pass\n"
    "    except BaseException:\n        pass\n",
    "exits": "import sys\nsys.exit(7)\n",
    "syntax": "def pattern(:\n",
    "raises": "raise ValueError('no\\n rule \\x1b[31m')\n",
    "divides": "1 / 0\n",
    "recursion": "def f():\n    f()\nf()\n",
    "imports": "import no_such_module\n",
    "nothing": "",
    "number": "rule = 3\n",
    "binary": "\x00\x01\x02",
    "unsized": TEMPLATE.replace('"... H"', "3"),
    "no_replacement": TEMPLATE.replace("    replacement,\n    where,\n", ""),
    "pattern_raises": TEMPLATE.replace("return silu(gate) * up", "raise KeyError('x')"),
    "pattern_exits": TEMPLATE.replace("return silu(gate) * up", "raise SystemExit(0)"),
    "pattern_loops": TEMPLATE.replace(
        "    return silu(gate) * up", "    while True:\n        pass"
    ),
    "replacement_raises": TEMPLATE.replace("return npu.npu_swiglu(", "return undefined("),
    "where_raises": TEMPLATE.replace("H % 2 == 0", "H % 0 == 0"),
}
"""Folder -> the rule file `mine.py` in it."""
FIGURES: dict[str, Any] = json.loads(ATLAS_800_A2.to_json())
PROFILES = {
    "empty": "",
    "text": "profile",
    "list": "[]",
    "null": "null",
    "number": "3",
    "object": "{}",
    "deep": "[" * 60000,
    "deep_object": '{"name":' * 8000,
    "digits": f'{{"name": {"9" * 5000}}}',
    "large": " " * 70000,
    "unknown": json.dumps(FIGURES | {"memory_bandwith": 1e12}),
    "without_rates": json.dumps(FIGURES | {"matmul_rates": {}}),
    "rates_list": json.dumps(FIGURES | {"matmul_rates": [1]}),
    "rate_text": json.dumps(FIGURES | {"matmul_rates": {"int8": "1e12"}}),
    "rate_zero": json.dumps(FIGURES | {"matmul_rates": {"int8": 0}}),
    "rate_nan": json.dumps(FIGURES | {"matmul_rates": {"int8": float("nan")}}),
    "rate_infinite": json.dumps(FIGURES | {"matmul_rates": {"int8": float("inf")}}),
    "name_list": json.dumps(FIGURES | {"name": ["x"]}),
    "source_null": json.dumps(FIGURES | {"source": None}),
    "zero": json.dumps(FIGURES | {"memory_bandwidth": 0}),
    "negative": json.dumps(FIGURES | {"link_bandwidth": -1}),
    "boolean": json.dumps(FIGURES | {"link_bandwidth": True}),
    "latency_text": json.dumps(FIGURES | {"hop_latency": "1"}),
    "latency_negative": json.dumps(FIGURES | {"hop_latency": -1e-6}),
    "latency_large": json.dumps(FIGURES | {"hop_latency": 1e9}),
    "missing": json.dumps({k: v for k, v in FIGURES.items() if k != "matmul_launch"}),
}
"""Name -> what a profile's file holds."""
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 128,
    "head_dim": 32,
}
CONFIGS: dict[str, Any] = {
    "mamba": {"model_type": "mamba"},
    "untyped": {},
    "list": [],
    "type_list": {"model_type": ["qwen3"]},
    "awq": QWEN3 | {"quantization_config": {"quant_method": "awq"}},
    "float8": QWEN3
    | {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
    "quantization_text": QWEN3 | {"quantization_config": "int8"},
    "quantization_list": QWEN3 | {"quantization_config": [1]},
    "quantization_number": QWEN3 | {"quantization_config": 3},
    "without_weights": QWEN3,
    "kernel": QWEN3 | {"attn_implementation": "someone/kernel"},
    "layers_text": QWEN3 | {"num_hidden_layers": "two"},
    "layers_negative": QWEN3 | {"num_hidden_layers": -1},
    "heads_zero": QWEN3 | {"num_attention_heads": 0},
    "hidden_null": QWEN3 | {"hidden_size": None},
    "hidden_float": QWEN3 | {"hidden_size": 64.5},
    "hidden_odd": QWEN3 | {"hidden_size": 63},
    "vocabulary_zero": QWEN3 | {"vocab_size": 0},
    "vocabulary_list": QWEN3 | {"vocab_size": [1]},
    "activation": QWEN3 | {"hidden_act": "no_such_activation"},
    "rope_text": QWEN3 | {"rope_theta": "large"},
    "rope_kind": QWEN3 | {"rope_scaling": {"rope_type": "no_such_rope", "factor": 2.0}},
    "dtype": QWEN3 | {"dtype": "float12"},
    "epsilon_text": QWEN3 | {"rms_norm_eps": "small"},
    "types_list": QWEN3 | {"layer_types": ["no_such_attention"]},
}
"""Name -> `config.json` of a model's folder; none has weights that fit."""
TEXTS = {
    "config_text": b"model",
    "config_empty": b"",
    "config_utf16": '{"model_type": "qwen3"}'.encode("utf-16"),
    "config_deep": b"[" * 100000,
    "config_digits": b'{"vocab_size": ' + b"9" * 1000000 + b"}",
    "config_zeros": b"\x00" * 100,
}
WEIGHTS = {
    "weights_empty": b"",
    "weights_text": b"weights",
    "weights_header": b"\xff" * 8 + b"{}",
    "weights_cut": b"\x40\x00\x00\x00\x00\x00\x00\x00{",
    "weights_none": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
}


FUNCTIONS = """
import torch
def build(): return torch.nn.Linear(2, 2), (torch.ones(3, 2),)
def raises(): raise ValueError("mine")
def one(): return torch.nn.Linear(2, 2)
def number(): return 3, ()
def unfit(): return torch.nn.Linear(2, 2), (torch.ones(3, 3),)
"""
"""A file for `bisect`, of which one function alone is right."""
REPORTS = {
    "version_99.json": {"schema": "ascend_passes.report", "version": 99},
    "half_a_report.json": {"schema": "ascend_passes.report", "version": 1, "fired": {}},
}


def make(root: Path) -> None:
    """Write all of them below a folder."""
    for name, text in RULES.items():
        write(root / "rules" / name / "mine.py", text.encode())
    write(root / "rules" / "twin" / "add_rms_norm.py", TEMPLATE.encode())
    write(root / "rules" / "recognition" / "swiglu.py", TEMPLATE.encode())
    (root / "rules" / "empty").mkdir()
    write(root / "rules" / "directory" / "mine.py" / "inside.txt", b"")
    for name, text in PROFILES.items():
        write(root / "profiles" / f"{name}.json", text.encode())
    write(root / "profiles" / "binary.json", b"\xff\xfe\x00")
    for name, config in CONFIGS.items():
        write(root / "models" / name / "config.json", json.dumps(config).encode())
        if name != "without_weights":
            write(root / "models" / name / "model.safetensors", WEIGHTS["weights_none"])
    for name, text in TEXTS.items():
        write(root / "models" / name / "config.json", text)
    for name, weights in WEIGHTS.items():
        write(root / "models" / name / "config.json", json.dumps(QWEN3).encode())
        write(root / "models" / name / "model.safetensors", weights)
    (root / "models" / "config_folder" / "config.json").mkdir(parents=True)
    (root / "models" / "nothing").mkdir()
    write(root / "a_file", b"")
    write(root / "functions.py", FUNCTIONS.encode())
    for name, held in REPORTS.items():
        write(root / name, json.dumps(held).encode())
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    # What stands in the current folder under the name of a rule, and must not be run.
    write(root / "swiglo" / "x.py", b"open('RAN', 'w')\n")
    write(root / "swiglu" / "x.py", b"open('RAN', 'w')\n")


def write(path: Path, content: bytes) -> None:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
