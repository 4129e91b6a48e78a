"""Kernels in lists, and what may be expected of a model."""

from __future__ import annotations

from ascend_passes import Options, Report
from ascend_passes.report.expected import expected_counts, expected_text
from ascend_passes.report.layers import layers_of
from ascend_passes.report.listing import diff_lines, kernel_lines_of, layer_lines
from tests.report.stack import LAYERS, report


def test_every_kernel_of_a_kind_of_layer_is_listed_once():
    lines = list(kernel_lines_of(report()))
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.split(":")[0] for line in heads] == [
        "layer 0",
        "layers 1-2, each",
        "outside layers",
    ]
    layers = layers_of(report())
    assert len(lines) - len(heads) == sum(len(layers[n].after) for n in (0, 1, LAYERS))
    (norm,) = (line for line in lines if "layers.1.q_norm" in line)
    assert norm.startswith("  npu::npu_rms_norm float32[4, 4, 16] at layers.1.q_norm by rms_norm")
    assert " for pow, mean, add, rsqrt, 2 mul, " in norm and norm.endswith("µs")


def test_a_layer_has_its_models_lines():
    layer = layers_of(report())[2]
    lines = list(layer_lines(report(), layer))
    assert lines[0] == f"layers.2: {len(layer.before)} kernels before"
    assert len(lines) == 2 + len(layer.before) + 2 * len(layer.after)
    assert all("stack.py:" in line for line in lines[1 : len(layer.before) + 1])


def test_a_diff_has_each_kernel_of_the_layer_once():
    lines = list(diff_lines(report()))
    starts = [index for index, line in enumerate(lines) if line.startswith("@@")]
    part = lines[starts[1] + 1 : starts[2]]
    layer = layers_of(report())[1]
    new = [line for line in part if line[0] in "+ "]
    assert len(new) == len(layer.after)
    assert sum(line.startswith("  aten::mm") for line in part) == 3
    norm = part.index("+ npu::npu_rms_norm float32[4, 4, 16] by " + author("layers.1.q_norm"))
    assert [line.split()[1] for line in part[norm - 6 : norm]] == [
        *("aten::pow", "aten::mean", "aten::add", "aten::rsqrt", "aten::mul", "aten::mul")
    ]
    assert any(line.endswith("computed once") for line in lines)


def author(module):
    return next(one.author for one in report().after if one.place.module == module)


def test_what_may_be_expected_holds_in_every_graph():
    least = expected_counts([report(), report(shares=True)])
    assert least == {"add_rms_norm": LAYERS, "rms_norm": 2 * LAYERS + 1}
    assert expected_counts([report(), Report()]) == {}
    text = expected_text(least)
    assert Options.read({"expect": least}).expect == least
    assert text == f"add_rms_norm={LAYERS},rms_norm={2 * LAYERS + 1}"
