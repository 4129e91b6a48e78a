"""A layer of experts as transformers spells it, compiled on its own."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

import ascend_passes

TOKENS, WIDTH, EXPERTS, CHOSEN = 6, 16, 5, 2
PARTS = ("gating_top_k_softmax", "init_routing", "grouped_matmul", "finalize_routing")


class Layer(torch.nn.Module):
    """Experts as transformers spells them; methods are the places where others spell otherwise."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        source = torch.Generator().manual_seed(1)
        self.router = torch.randn(EXPERTS, WIDTH, generator=source).to(dtype)
        self.up = torch.randn(EXPERTS, 2 * WIDTH, WIDTH, generator=source).to(dtype) / 4
        self.down = torch.randn(EXPERTS, WIDTH, WIDTH, generator=source).to(dtype) / 4

    def scores(self, x):
        return torch.softmax(x @ self.router.T, -1, dtype=torch.float32)

    def choose(self, x):
        weights, chosen = self.scores(x).topk(CHOSEN, -1)
        return (weights / weights.sum(-1, keepdim=True)).to(x.dtype), chosen

    def sort(self, slots):
        return torch.sort(slots)

    def count(self, ordered):
        return torch.histc(ordered.float(), bins=EXPERTS, min=0, max=EXPERTS - 1)

    def offsets(self, counts):
        return counts.cumsum(0, dtype=torch.int32)

    def product(self, rows, weights, offsets):
        return torch._grouped_mm(rows, weights.mT, offs=offsets)

    def total(self, rows):
        return rows.view(TOKENS, CHOSEN, WIDTH).sum(1)

    def forward(self, x):
        weights, chosen = self.choose(x)
        ordered, order = self.sort(chosen.reshape(-1))
        offsets = self.offsets(self.count(ordered))
        rows = self.product(x[order // CHOSEN], self.up, offsets)
        gate, up = rows.chunk(2, -1)
        rows = self.product(silu(gate) * up, self.down, offsets)
        rows = rows * weights.reshape(-1)[order].unsqueeze(-1)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        return self.total(rows[inverse]).to(x.dtype)


def compiled(layer, dtype=torch.bfloat16, **options):
    """The report of a compiled layer, whose result is near eager's; every stage is validated."""
    torch._dynamo.reset()
    ascend_passes.reset()
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(2)).to(dtype)
    options = {"validate": True, "verify_each_stage": True, **options}
    with torch.no_grad():
        found = torch.compile(layer, backend="ascend_dense", options=options)(x)
        wanted = layer(x)
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
    (report,) = ascend_passes.reports()
    assert not report.errors
    assert not [note for note in report.notes if "not compared" in note]
    return report


def counts(report):
    return tuple(report.fired.get(part, 0) for part in PARTS)
