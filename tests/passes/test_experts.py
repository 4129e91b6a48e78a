"""Each part of a layer of experts becomes its operator, or stays for a reason that is told."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from ascend_passes.frontends.experts import experts
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context
from tests.graphs import reasons, traced
from tests.passes.expert_layer import CHOSEN, EXPERTS, PARTS, TOKENS, WIDTH, Layer, compiled, counts
from tests.registered import registered

aten = torch.ops.aten


def test_all_four_fire():
    assert counts(compiled(Layer())) == (1, 1, 2, 1)


def test_the_groups_are_the_counts_of_the_routing():
    after = str(compiled(Layer()).graph_after)
    assert after.count("group_list_type = 1") == 2
    assert "cumsum" not in after and "histc" not in after and "sort" not in after


def test_the_groups_are_offsets_where_the_routing_stays_spelled_out():
    after = str(compiled(Layer(), passes="-experts.init_routing").graph_after)
    assert after.count("npu_grouped_matmul") and "group_list_type = 1" not in after
    assert "cumsum" in after


def test_the_order_is_given_where_it_is_read_besides():
    report = compiled(Layer(), passes="-experts.finalize_routing")
    assert counts(report) == (1, 1, 2, 0)
    assert "row_idx_type = 1" in str(report.graph_after)
    assert "row_idx_type = 0" in str(compiled(Layer()).graph_after)


class RoundedScores(Layer):
    def scores(self, x):
        return torch.softmax(x @ self.router.T, -1)

    def choose(self, x):
        weights, chosen = self.scores(x).topk(CHOSEN, -1)
        return weights, chosen


class Smallest(Layer):
    def choose(self, x):
        weights, chosen = self.scores(x).topk(CHOSEN, -1, largest=False)
        return weights.to(x.dtype), chosen


class OtherDim(Layer):
    def scores(self, x):
        return torch.softmax(x @ self.router.T, 0, dtype=torch.float32)


class Foreign(Layer):
    """Experts that are no choice of the largest scores."""

    def choose(self, x):
        weights, _ = super().choose(x)
        return weights, torch.arange(TOKENS * CHOSEN).view(TOKENS, CHOSEN) % EXPERTS


class Clamped(Layer):
    """As with experts of other ranks, whose rows the groups leave out."""

    def count(self, ordered):
        return torch.histc(ordered.float(), bins=EXPERTS, min=0, max=EXPERTS)


class OwnOffsets(Layer):
    def offsets(self, counts):
        return (counts.cumsum(0) + 0.25).to(torch.int32)


class Descending(Layer):
    def sort(self, slots):
        return torch.sort(slots, descending=True)

    def offsets(self, counts):
        return counts.cumsum(0, dtype=torch.int32).clamp(min=0)


class ReadBesides(Layer):
    """Sorted experts are read for a bias as well."""

    def count(self, ordered):
        self.seen = ordered
        return super().count(ordered)

    def product(self, rows, weights, offsets):
        bias = self.router.sum(1)[self.seen]
        return super().product(rows, weights, offsets) + bias.unsqueeze(-1) / 8


class WideWeights(Layer):
    """Weights stay float32, as Mixtral's."""

    def choose(self, x):
        weights, chosen = self.scores(x).topk(CHOSEN, -1)
        return weights / weights.sum(-1, keepdim=True), chosen


class Means(Layer):
    def total(self, rows):
        return rows.view(CHOSEN, TOKENS, WIDTH).sum(0)


STAYS = {
    RoundedScores: ((0, 1, 2, 1), "experts are chosen by scores that torch.bfloat16 rounds"),
    Smallest: ((0, 1, 2, 1), ""),
    OtherDim: ((0, 1, 2, 1), ""),
    Foreign: ((1, 0, 0, 1), "the experts are no choice of the largest scores"),
    Clamped: ((1, 0, 0, 1), "its histogram has no bin for each expert"),
    OwnOffsets: ((1, 1, 0, 1), "its offsets are no running sum"),
    Descending: ((1, 0, 0, 1), "its experts do not ascend"),
    ReadBesides: ((1, 0, 2, 1), "its sorted experts are read besides"),
    WideWeights: ((1, 1, 2, 1), ""),
    Means: ((1, 1, 2, 0), ""),
}
"""Another spelling -> what fires of `PARTS`, and the reason of what does not."""


@pytest.mark.parametrize("kind", STAYS, ids=lambda kind: kind.__name__)
def test_what_is_spelled_otherwise_stays_or_is_right(kind):
    fired, reason = STAYS[kind]
    report = compiled(kind())
    assert counts(report) == fired
    told = reasons(report)
    assert reason in told
    if not reason:
        assert not [miss for miss in report.misses if miss.rule in PARTS]


class LookedUpTwice(Layer):
    """The order is read for other rows as well."""

    def sort(self, slots):
        ordered, self.order = super().sort(slots)
        return ordered, self.order

    def forward(self, x):
        total, other = super().forward(x), x[self.order // CHOSEN] * 2
        return total + other.mean() / 64


def test_another_lookup_takes_the_order_of_the_operator():
    report = compiled(LookedUpTwice())
    assert counts(report) == (1, 1, 2, 1)
    assert "row_idx_type = 1" in str(report.graph_after)


WRITES = torch.library.Library("written_experts", "FRAGMENT")
WRITES.define("double_(Tensor! x) -> ()")
WRITES.impl("double_", lambda x: x.mul_(2) and None, "CPU")


def written_between(graph, where):
    """Double the tensor that a node gives in place, in front of another node."""
    source, reader = where(graph)
    with graph.inserting_before(reader):
        graph.call_function(torch.ops.written_experts.double_.default, (source,))


def logits_of(graph):
    (softmax,) = graph.find_nodes(op="call_function", target=aten._softmax.default)
    (topk,) = graph.find_nodes(op="call_function", target=aten.topk.default)
    return softmax.args[0], topk


def tokens_of(graph):
    (sort,) = graph.find_nodes(op="call_function", target=aten.sort.default)
    placeholder = next(iter(graph.nodes))
    return placeholder, sort.next


def rows_of_sum(graph):
    *_, product = graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    (total,) = [
        node
        for node in graph.find_nodes(op="call_function", target=aten.sum.dim_IntList)
        if node.meta["val"].dim() == 2 and node.meta["val"].shape[1] == WIDTH
    ]
    return product.args[0], total


def traced_layer():
    """The graph of a layer whose weights are inputs."""
    layer = Layer()

    def function(x, router, up, down):
        layer.router, layer.up, layer.down = router, up, down
        return layer(x)

    x = torch.randn(TOKENS, WIDTH).bfloat16()
    return traced(function, [x, layer.router, layer.up, layer.down])


@pytest.mark.parametrize(
    ("where", "part"),
    [
        (logits_of, "gating_top_k_softmax"),
        (tokens_of, "init_routing"),
        (rows_of_sum, "finalize_routing"),
    ],
)
def test_what_is_written_in_between_is_not_read_at_another_time(where, part):
    gm = traced_layer()
    assert set(experts(copied(gm.graph), Context()).fired) == set(PARTS)
    written_between(gm.graph, where)
    report = experts(gm.graph, Context())
    assert part not in report.fired
    assert "writes what is read earlier or later then" in reasons(report)
    assert set(report.fired) == set(PARTS) - {part}


def test_the_limits_of_an_operator_are_told():
    report = compiled(Layer(), soc="Ascend950")
    assert counts(report) == (0, 0, 0, 0)
    assert reasons(report).count("the limits on Ascend950 are not known here") == 5


def test_experts_of_others_are_counted():
    schema = "fused_experts(Tensor(a!) x, Tensor logits) -> Tensor"
    with registered({"others_experts": [schema]}, {"others_experts": [lambda x, logits: x + 1]}):
        operator = torch.ops.others_experts.fused_experts
        gm = traced(lambda x: operator(x * 2, x) + operator(x * 3, x), [torch.ones(2, 3)])
        with mock.patch(
            "ascend_passes.frontends.experts.WHOLE", ("others_experts::fused_experts",)
        ):
            assert experts(gm.graph, Context()).kept == {"others_experts::fused_experts": 2}
    assert not experts(traced_layer().graph, Context()).kept


def test_a_report_expects_its_parts():
    report = compiled(Layer(), expect={"grouped_matmul": 2, "finalize_routing": 1})
    assert counts(report) == (1, 1, 2, 1)


def test_a_choice_among_words_is_none_of_experts():
    def likeliest(logits):
        return logits.softmax(-1).topk(5, -1)

    graph = traced(likeliest, [torch.ones(3, 2000)]).graph
    report = experts(graph, Context())
    assert not report.fired and not report.misses
