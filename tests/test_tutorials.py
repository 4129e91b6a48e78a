"""Every block of the tutorials and of the systems' pages runs, and prints what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("compressed_tensors")

from ascend_passes.options.value import Options
from tests.tutorials import PAGES, ROOT, blocks, told

SECTIONS = (
    *("What it does", "Its switch", "How to see that it acts"),
    *("Cost and gain", "When it does not help"),
)
RUNS = [page for page in PAGES if blocks(page.read_text())]


@pytest.mark.parametrize("page", RUNS, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_says(page):
    for block, said, printed in told(page):
        assert said == printed, f"{page.name}: run `python -m tests.tutorials {page}`\n{block.text}"


def test_each_of_the_eight_systems_has_a_page_of_one_form():
    pages = sorted((ROOT / "docs/systems").glob("*.md"))
    assert len(pages) == 9  # and the list of them
    for page in pages:
        heads = re.findall(r"^## (.+)$", page.read_text(), re.M)
        assert page.stem == "index" or tuple(heads) == SECTIONS, page


@pytest.mark.parametrize(
    ("system", "page"), [("rope", "rope"), ("AddRMSNormQuant", "add-rms-norm-quant")]
)
def test_what_turns_a_system_off_is_the_same_on_every_page(system, page):
    whole = (ROOT / f"docs/systems/{page}.md").read_text()
    for table in (ROOT / "README.md", ROOT / "docs/vllm.md"):
        (switch,) = re.findall(rf'^\| {system}.*?`(\w+="-.*?")`', table.read_text(), re.M)
        assert switch in whole


def texts():
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_configurations_for_vllm_are_options():
    page = (ROOT / "docs/tutorials/vllm.md").read_text()
    sections = re.findall(r"--additional-config '(.+?)'", page)
    assert len(sections) == 3
    for section in sections:
        Options.read(json.loads(section)["ascend_passes"])
    for text in re.findall(r"--compilation-config '(.+?)'", page):
        assert json.loads(text)["cudagraph_mode"] == "FULL_DECODE_ONLY"
    for key in ("explain", "dump"):
        assert f'"{key}"' in page and key in Options.__dataclass_fields__


def test_links_between_pages_lead_somewhere():
    for path in texts():
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_a_block_that_prints_something_else_is_found(tmp_path):
    page = Path(tmp_path / "page.md")
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    ((_, said, printed),) = told(page)
    assert (said, printed) == ("3", "2")
    page.write_text("```python\nraise ValueError('no')\n```\n")
    with pytest.raises(AssertionError, match="no"):
        list(told(page))
