"""What a process loads before it is needed, told by `sys.modules`, and what works without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ascend_passes

HEAVY = ("torch._dynamo", "torch._inductor", "sympy")


def loaded_by(code):
    """The modules of a fresh process after some code, beside those of `import torch` alone."""
    ending = "; import sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(last_line(code + ending)) - set(last_line("import torch" + ending))


def last_line(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def of(modules, names):
    """Those of some modules that are one of the names, or inside it."""
    return {m for m in modules if any(m == name or m.startswith(f"{name}.") for name in names)}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import torch, ascend_passes", ("ascend_passes.backend", "ascend_passes.npu", *HEAVY)),
        ("import torch, ascend_passes.options.value", HEAVY),
        ("import torch; from ascend_passes import Rule, npu; npu.npu_rms_norm", HEAVY),
        ("import torch, ascend_passes.backend", ("torch._inductor.compile_fx",)),
    ],
)
def test_an_import_loads_nothing_heavy(code, absent):
    assert not of(loaded_by(code), absent)


def test_the_package_alone_does_not_load_torch():
    found = last_line("import ascend_passes, sys, json; print(json.dumps(sorted(sys.modules)))")
    assert not of(found, ("torch", "numpy"))


@pytest.mark.parametrize(
    "words",
    [["--help"], ["bench", "--help"], ["lst"], ["bench", "compil"], []],
    ids=" ".join,
)
def test_words_that_call_no_command_load_no_torch(words):
    code = f"""
import json, sys
from ascend_passes.__main__ import main
try:
    main({words!r})
except SystemExit:
    pass
print()
print(json.dumps(sorted(sys.modules)))
"""
    assert not of(last_line(code), ("torch", "numpy", "sympy"))


def test_every_public_name_is_there_when_it_is_asked_for():
    for name in ascend_passes.__all__:
        assert getattr(ascend_passes, name) is not None
        assert name in dir(ascend_passes)
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        ascend_passes.optimise  # noqa: B018


def test_the_backend_needs_no_import_by_the_user():
    code = """
import json, sys, torch
def norm(x, gain):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return gain * wide.to(x.dtype)
inputs = torch.randn(3, 64).bfloat16(), torch.randn(64).bfloat16()
with torch.no_grad():
    ours = torch.compile(norm, backend="ascend_dense")(*inputs)
torch.testing.assert_close(ours, norm(*inputs))
import ascend_passes
print(json.dumps([report.fired["rms_norm"] for report in ascend_passes.reports()]))
"""
    assert last_line(code) == [1]


def test_a_checkout_in_front_of_an_installed_one_has_its_own_rules(tmp_path):
    root = Path(ascend_passes.__file__).parent.parent
    unwritten = shutil.ignore_patterns("__pycache__")
    for folder in ("ascend_passes", "patterns"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=unwritten)
    (tmp_path / "patterns" / "fuse" / "add_rms_norm.py").unlink()
    code = """
import json
from ascend_passes.engine.registry import find, pattern_folders
print(json.dumps([rule.source for folder in pattern_folders() for rule in find(folder)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sources = json.loads(done.stdout)
    assert sources and all(Path(source).is_relative_to(tmp_path) for source in sources)
    assert not any(Path(source).name == "add_rms_norm.py" for source in sources)
