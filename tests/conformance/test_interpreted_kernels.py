"""The tests of our kernels in Triton's interpreter, which runs the kernels' source on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conformance.build import ROOT, UNREACHABLE, folder
from tests.made_once import install_wheels, made_once
from tests.shared_objects import BuildError

FILES = [f"tests/npu/test_{name}.py" for name in ("kernels", "packed_heads", "attention")]
WHEELS = ("triton==3.6.0", "numpy<2.4")
"""The interpreter of 3.6 takes arrays of one element for numbers, as NumPy before 2.4 did."""


@pytest.fixture(scope="module")
def site():
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    target = folder() / f"triton-3.6.0-{version}"
    try:
        return made_once(target, lambda into: install_wheels(into, *WHEELS))
    except BuildError as error:
        if not UNREACHABLE.search(str(error)):
            raise
        pytest.skip("the package registry, which has triton, cannot be reached")


def test_kernels_in_the_interpreter(site):
    words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:warnings")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*words, *FILES],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout or "[100%]" in done.stdout
    assert "failed" not in done.stdout
