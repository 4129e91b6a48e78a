import subprocess
import sys
from pathlib import Path

import torch

import ascend_passes
from ascend_passes.compile import pipeline
from ascend_passes.compile.stages import Stage

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_up_to_date():
    command = [sys.executable, ROOT / "docs" / "make.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}{done.stderr}"


def test_the_pass_of_the_page_runs(monkeypatch):
    page = (ROOT / "docs" / "add-a-pass.md").read_text()
    _, source, _ = page.replace("```python\n", "```").split("```", 2)
    names = {}
    exec(source, names)
    added = Stage("double", names["double"])
    monkeypatch.setattr(pipeline, "STAGES", (*pipeline.STAGES, added))
    torch._dynamo.reset()
    ascend_passes.reset()
    x = torch.randn(4)
    model = lambda x: ((x + x).sin(), torch.add(x, x, alpha=3))  # noqa: E731
    for one, other in zip(torch.compile(model, backend="ascend_dense")(x), model(x), strict=True):
        assert torch.equal(one, other)
    (report,) = ascend_passes.reports()
    assert report.fired["double"] == 1
    assert "it adds a multiple" in {miss.reason for miss in report.misses}
