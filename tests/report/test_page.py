"""The page in a real browser: it draws, filters, keeps quiet, and is small at 64 layers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ascend_passes import Report
from ascend_passes.report.page import page_of
from ascend_passes.report.value import CaptureEvent, Left, Place
from tests.report.browser import PROGRAM, Browser
from tests.report.shards import RANKS, sharded
from tests.report.stack import LAYERS, report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium")
MOST_BYTES, MOST_SECONDS = 3_000_000, 2.0
"""Of the page of 64 layers; a layer of W8A8 has up to 171 kernels before and 19 after."""
EVIL = (
    "</script><script>document.title='broken'</script><img src=x onerror=document.title='broken'>"
)
CAPTURED = replace(
    report(),
    captures=(
        CaptureEvent("warm_up", 8),
        CaptureEvent("capture", 8),
        CaptureEvent("replay", 8, 41),
    ),
    left=(Left("capture", Place(line="model.py:3 in f: x.item()"), "it reads x", "keep x there"),),
)


def many_layers(count: int = 64, times: int = 9) -> Report:
    """As many layers, each of as many kernels as W8A8 has; all names differ."""
    found = report()

    def copies(kernels):
        for layer in range(count):
            for again in range(times):
                for one in kernels:
                    if not one.place.module.startswith("layers.1"):
                        continue
                    suffix = f"_{layer}_{again}"
                    yield replace(
                        one,
                        name=one.name + suffix,
                        inputs=tuple(name + suffix for name in one.inputs),
                        covers=tuple(name + suffix for name in one.covers),
                        place=Place(
                            f"model.layers.{layer}.part{again}", f"{again} {one.place.line}"
                        ),
                    )

    before, after = tuple(copies(found.before)), tuple(copies(found.after))
    assert len(before) >= 64 * 160
    return replace(found, before=before, after=after)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of some reports and says what it took."""

    def open_page(reports, title="a model", fragment=""):
        browser.complaints.clear()
        browser.requests.clear()
        path = tmp_path / "page.html"
        path.write_text(page_of(reports, title), encoding="utf-8")
        return browser.open(path, fragment)

    yield open_page
    assert not browser.complaints
    assert all(address.startswith(("file://", "data:")) for address in browser.requests)
    assert browser.value("document.title") != "broken"


def wait_for(browser, expression):
    end = time.monotonic() + 30
    while not (found := browser.value(expression)):
        assert time.monotonic() < end, expression
        time.sleep(0.02)
    return found


def open_layer(browser, path):
    browser.value(
        "document.querySelectorAll('details.group').forEach((one) => { one.open = true; })"
    )
    every = "[...document.querySelectorAll('details.layer')]"
    named = f"{every}.find((one) => one.innerText.includes('{path}'))"
    wait_for(browser, f"!!{named}")
    browser.value(f"{named}.open = true")
    wait_for(browser, f"!!{named}.querySelector('svg')")
    return named


def texts(browser, selector):
    return browser.value(
        f"[...document.querySelectorAll('{selector}')].map((one) => one.textContent)"
    )


def test_a_page_needs_nothing_from_elsewhere():
    page = report().to_html("one")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:,)""", page)
    assert "@import" not in page and "url(" not in page and "fetch(" not in page


def test_the_page_tells_what_the_text_tells(browser, opened):
    opened({"prefill": report(), "decode": report(), "shared": report(shares=True)}, "A & B")
    assert texts(browser, "h1") == ["A & B"]
    assert texts(browser, "#graph option") == ["prefill, decode", "shared"]
    before, after = len(report().before), len(report().after)
    assert f"{before} -> {after}" in browser.value("document.getElementById('totals').textContent")
    assert ["rms_norm", str(2 * LAYERS + 1)] in browser.value(
        "[...document.querySelectorAll('#fused tr')]"
        ".map((row) => [...row.children].slice(0, 2).map((cell) => cell.textContent))"
    )
    assert browser.value("document.querySelector('#left')") is None
    browser.value(
        "const chosen = document.getElementById('graph');"
        "chosen.value = 1; chosen.dispatchEvent(new Event('change'))"
    )
    (row,) = texts(browser, "#left tbody tr")
    assert row.startswith(f"{LAYERS}gatedlayers.{{0-2}}") and "silu has 2 users" in row


def test_a_layer_shows_both_graphs_and_the_models_line(browser, opened):
    opened({"graph": report()})
    layer = open_layer(browser, "layers.1")
    (wanted,) = (one for one in report().after if one.place.module == "layers.1.q_norm")
    count = sum(
        one.place.module.startswith("layers.1") for one in (*report().before, *report().after)
    )
    assert browser.value(f"{layer}.querySelectorAll('g.kernel').length") == count
    every = f"[...{layer}.querySelectorAll('g.kernel')]"
    norm = f"{every}.filter((one) => one.dataset.module === 'layers.1.q_norm')"
    fills = browser.value(f"{norm}.map((one) => one.querySelector('rect').getAttribute('fill'))")
    assert len(fills) == len(wanted.covers) + 1 and len(set(fills)) == 1
    grey = browser.value(
        f"[...{layer}.querySelectorAll('g.kernel:not(.fused) rect')]"
        ".map((one) => one.getAttribute('fill'))"
    )
    assert set(grey) == {"var(--panel)"} != set(fills)
    x, y = browser.value(
        f"(() => {{ const n = {norm}[0]; n.scrollIntoView({{block: 'center'}});"
        "const box = n.getBoundingClientRect(); return [box.x + 9, box.y + 5]; })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tip = wait_for(
        browser,
        "!document.getElementById('tip').hidden && document.getElementById('tip').textContent",
    )
    assert "stack.py:" in tip and "wide = " in tip and "layers.1.q_norm" in tip
    assert browser.value(f"{layer}.querySelectorAll('g.kernel.same').length") == len(fills)
    rows = browser.value(f"[...{layer}.querySelectorAll('tbody tr')].map((one) => one.textContent)")
    (row,) = (one for one in rows if "q_norm" in one)
    assert row.startswith("npu_rms_norm") and "pow, mean, add, rsqrt, 2 mul" in row


def test_the_filter_leaves_the_modules_that_it_names(browser, opened):
    opened({"graph": report()})
    typed = (
        "(text) => { const filter = document.getElementById('filter');"
        "filter.value = text; filter.dispatchEvent(new Event('input')); }"
    )
    browser.value(f"({typed})('layers.2.q')")
    assert (
        browser.value("document.getElementById('found').textContent") == f"1 of {LAYERS + 1} layers"
    )
    layer = open_layer(browser, "layers.2")
    shown = browser.value(
        f"[...{layer}.querySelectorAll('g.kernel:not(.dim)')].map((one) => one.dataset.module)"
    )
    assert set(shown) == {"layers.2.q_norm"}
    browser.value(f"({typed})('no such module')")
    assert browser.value("document.querySelectorAll('details.layer').length") == 0
    browser.value(f"({typed})('')")
    assert browser.value("document.getElementById('found').textContent") == f"{LAYERS + 1} layers"


def test_an_address_can_name_the_module(browser, opened):
    opened({"graph": report()}, fragment="#module=layers.0")
    assert (
        browser.value("document.getElementById('found').textContent") == f"1 of {LAYERS + 1} layers"
    )


def test_the_page_follows_its_readers_liking_for_dark(browser, opened):
    light = "getComputedStyle(document.body).backgroundColor"
    browser.dark(False)
    opened({"graph": report()})
    assert browser.value(light) == "rgb(255, 255, 255)"
    browser.dark(True)
    opened({"graph": report()})
    assert wait_for(browser, f"{light} !== 'rgb(255, 255, 255)' && {light}") == "rgb(21, 24, 28)"
    browser.value("document.getElementById('theme').click()")
    assert browser.value(light) == "rgb(255, 255, 255)"
    browser.dark(False)


def test_bytes_by_rank(browser, opened):
    opened({"graph": sharded()})
    lanes = texts(browser, "#bytes-by-rank .lane > span")
    assert lanes == [f"rank {rank}" for rank in range(RANKS)]
    before = sum(one.wire_bytes for one in sharded().before) / 2**20
    after = sum(one.wire_bytes for one in sharded().after) / 2**20
    assert 0 < after < before
    assert f"{before:.2f} MiB → {after:.2f} MiB" in texts(browser, "#bytes-by-rank p")[0]
    kinds = " ".join(texts(browser, "#bytes-by-rank .lane:first-of-type .flow span"))
    assert "all_reduce" in kinds and "reduce_scatter" in kinds and "all_gather int8" in kinds


def test_a_graph_without_ranks_and_capture_says_nothing_of_them(browser, opened):
    opened({"graph": report()})
    assert (
        browser.value(
            "document.querySelector('#bytes-by-rank') || document.querySelector('#capture')"
        )
        is None
    )


def test_the_timeline_of_capture(browser, opened):
    opened({"graph": CAPTURED})
    assert texts(browser, "#capture .event") == ["warm up 8", "capture 8", "replay 8 × 41"]
    assert texts(browser, "#capture p.bad") == [
        "it reads x, at model.py:3 in f: x.item(); fix: keep x there"
    ]


def test_texts_are_no_html(browser, opened):
    place = Place(EVIL, EVIL)
    kernels = tuple(replace(one, place=place, operator=EVIL) for one in report().before)
    opened({EVIL: replace(CAPTURED, before=kernels, notes=(EVIL,), errors=(EVIL,))}, EVIL)
    assert texts(browser, "h1") == [EVIL]
    assert browser.value("document.images.length") == 0
    assert EVIL in texts(browser, "#errors p")


def test_sixty_four_layers_are_small_and_open_at_once(browser, opened, tmp_path):
    found = many_layers()
    assert len(page_of({"graph": found}, "64").encode()) < MOST_BYTES
    took = min(opened({"graph": found}) for _ in range(3))
    assert took < MOST_SECONDS
    assert browser.value("document.getElementById('found').textContent") == "64 layers"
    assert browser.value("document.querySelectorAll('svg').length") == 0  # folded
    layer = open_layer(browser, "layers.37")
    assert browser.value(f"{layer}.querySelectorAll('svg g.kernel').length") == 9 * (
        sum(one.place.module.startswith("layers.1") for one in (*report().before, *report().after))
    )


def test_an_empty_report_has_a_page(browser, opened):
    opened({"graph": Report()})
    assert "kernels were not counted" in browser.value(
        "document.getElementById('totals').textContent"
    )


def test_a_screenshot_is_a_picture(browser, opened, tmp_path):
    opened({"graph": report()})
    path = Path(tmp_path / "page.png")
    browser.screenshot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
