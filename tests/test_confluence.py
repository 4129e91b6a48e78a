"""Where rules overlap, the graph they end in does not depend on who is asked first."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from ascend_passes import npu
from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.registry import rules
from ascend_passes.engine.rewrite import rewrite
from ascend_passes.ir.blueprint import copied_module
from ascend_passes.ir.graph import Context
from ascend_passes.meaning.recognize import by_meaning
from ascend_passes.models.merged import trace_merged
from ascend_passes.options.value import Options
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.verify.firing import firing
from ascend_passes.verify.mutate import structure

RULES = rules(Options())
SEED = 0


def backwards(chosen):
    """The same rules with names in the opposite order: it decides between rules of one length."""
    return tuple(
        dataclasses.replace(rule, name=f"{len(chosen) - index:03}_{rule.name}")
        for index, rule in enumerate(sorted(chosen, key=lambda rule: rule.name))
    )


BACKWARDS = backwards(RULES)


def ended(gm, chosen):
    """The form of the graph after the rules, and how often each fired by its own name."""
    after, _ = copied_module(gm)
    report = rewrite(after.graph, chosen, Context())
    deduplicate(after.graph, Context())
    normalize(after.graph)
    fired = Counter(
        {name[4:] if name[:3].isdigit() else name: n for name, n in report.fired.items()}
    )
    return operators(after.graph), fired


def operators(graph):
    """Each call with the calls that it reads, without an order among calls that do not need one."""
    seen: dict = {}
    for node, (target, given) in zip(graph.nodes, structure(graph), strict=True):
        sources = tuple(seen[source] for source in node.all_input_nodes)
        literals = str([item for item in given[0] if not str(item).startswith("node ")])
        known = str(node.target) if node.op == "placeholder" else literals
        seen[node] = hash((str(target), sources, known))
    return Counter(seen.values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_order_of_rules_does_not_matter(rule):
    gm = firing(rule, rule.spellings[0], SEED).graph()
    one, other = ended(gm, RULES), ended(gm, BACKWARDS)
    assert one == other, (one[1], other[1])
    assert one[1], "no rule fires on the pattern"


def test_the_order_of_rules_does_not_matter_to_a_model():
    gm = trace_merged(2, 16, False)
    normalize(gm.graph)
    deduplicate(gm.graph, Context())
    by_meaning(gm.graph, Context())
    deduplicate(gm.graph, Context())
    one, other = ended(gm, RULES), ended(gm, BACKWARDS)
    assert one == other, (one[1], other[1])
    assert one[1]["add_rms_norm_quant"] == 3


def test_rules_that_take_each_others_nodes_are_found():
    (right,) = (rule for rule in RULES if rule.name == "swiglu_quant_dynamic")
    other = dataclasses.replace(
        right,
        replacement=lambda packed: npu.npu_swiglu_quant(packed, activate_left=True, quant_mode=1),
        name="other",
    )
    gm = firing(right, right.spellings[0], SEED).graph()
    assert ended(gm, (right, other))[1] != ended(gm, backwards((right, other)))[1]
