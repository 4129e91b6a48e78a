"""The documentation as a site: built without a warning, searched, and asking nothing of others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    find_spec("mkdocs") is None, reason="no MkDocs: pip install 'ascend-passes[dev]'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page


def test_the_search_knows_options_rules_and_docstrings(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"options.html", "rules/swiglu.html", "systems/flashcomm.html"} <= found
    text = " ".join(entry["text"] for entry in index["docs"])
    assert "flashcomm_tokens" in text
    assert "Compile a model for these arguments and say what happened" in text


def test_the_reference_has_what_the_package_gives(site):
    page = (site / "reference.html").read_text()
    for name in ("ascend_dense", "explain", "optimize", "reports", "refresh", "decode_loop"):
        assert f".{name}" in page
    assert "write_expect" not in page


def test_a_page_loads_nothing_from_elsewhere(site):
    page = (site / "index.html").read_text()
    loaded = re.findall(r'<(?:script|img|link rel="(?:stylesheet|icon|preconnect)")[^>]*>', page)
    assert loaded
    assert not [one for one in loaded if re.search(r'(?:src|href)="(?:https?:)?//', one)]
