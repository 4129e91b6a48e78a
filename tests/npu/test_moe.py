from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_passes import npu
from ascend_passes.npu import bound
from tests.npu.draw import floats, generator, seeds, tokens
from tests.numerics import ulp_distance

GATHER, SCATTER = 0, 1


def logits_of(source, rows, experts, dtype):
    """Logits within 8 of each other, no two in a row alike."""
    steps = torch.rand(rows, experts, generator=source).argsort(-1)
    return (steps / max(experts, 1) * 8 - 4).to(dtype)


@given(seeds, tokens, st.integers(1, 30), floats)
def test_the_choice_is_the_softmax_of_the_largest_logits(seed, rows, experts, dtype):
    source = generator(seed)
    x = logits_of(source, rows, experts, dtype)
    k = 1 + int(torch.randint(experts, (), generator=source))
    y, chosen, slots = npu.npu_moe_gating_top_k_softmax(x, k=k)
    weights = torch.exp(x.double())
    exact = weights / weights.sum(-1, keepdim=True)
    assert y.dtype == dtype and chosen.dtype == slots.dtype == torch.int32
    assert ulp_distance(y, exact.sort(-1, descending=True).values[:, :k]) <= bound(
        "npu_moe_gating_top_k_softmax", "y", dtype
    )
    for row in range(rows):
        largest = sorted(range(experts), key=lambda expert: -float(x[row, expert]))
        assert chosen[row].tolist() == largest[:k]
        assert slots[row].tolist() == [row + column * rows for column in range(k)]


def test_the_choice_is_of_scores_that_are_not_rounded():
    """Logits a bfloat16 step of 2^-9 apart, whose softmax in bfloat16 is the same for several."""
    source = generator(4)
    order = torch.randperm(128, generator=source)
    x = (0.25 + order / 512).bfloat16()[None]
    assert len(x.unique()) == 128 and len(x.softmax(-1).unique()) < 100
    _, chosen, _ = npu.npu_moe_gating_top_k_softmax(x, k=8)
    assert order[chosen[0].long()].tolist() == list(range(127, 119, -1))


def test_the_choice_of_three_dims_is_that_of_rows():
    x = torch.randn(2, 3, 9)
    for whole, flat in zip(
        npu.npu_moe_gating_top_k_softmax(x, k=4),
        npu.npu_moe_gating_top_k_softmax(x.flatten(0, 1), k=4),
        strict=True,
    ):
        assert torch.equal(whole, flat.view(2, 3, 4))


def routed(x, chosen, experts, kind):
    """The operator as the passes call it."""
    return npu.npu_moe_init_routing_v2(
        x,
        chosen,
        active_num=chosen.numel(),
        expert_num=experts,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        active_expert_range=[0, experts],
        row_idx_type=kind,
    )


@given(seeds, tokens, st.integers(1, 9), st.integers(1, 4), floats)
def test_the_routing_is_a_loop_over_experts(seed, rows, experts, choices, dtype):
    source = generator(seed)
    x = torch.randn(rows, 5, generator=source).to(dtype)
    chosen = torch.randint(experts, (rows, choices), generator=source).to(torch.int32)
    slots = [
        (token, choice)
        for expert in range(experts)
        for token in range(rows)
        for choice in range(choices)
        if chosen[token, choice] == expert
    ]
    found, gathered, counts, scale = routed(x, chosen, experts, GATHER)
    again, scattered, *_ = routed(x, chosen, experts, SCATTER)
    expected = [x[token] for token, _ in slots]
    assert torch.equal(found, torch.stack(expected) if expected else x.new_zeros(0, 5))
    assert torch.equal(found, again)
    assert scattered.tolist() == [token * choices + choice for token, choice in slots]
    assert [gathered[slot].item() for slot in scattered.tolist()] == list(range(len(slots)))
    assert counts.tolist() == [int((chosen == expert).sum()) for expert in range(experts)]
    assert counts.dtype == torch.int64 and not scale.any()


@given(seeds, tokens, st.integers(1, 9), st.integers(1, 4))
def test_what_was_routed_comes_back(seed, rows, experts, choices):
    """Weights of one for the first choice and of zero for others give the tokens themselves."""
    source = generator(seed)
    x = torch.randn(rows, 5, generator=source)
    chosen = torch.randint(experts, (rows, choices), generator=source).to(torch.int32)
    expanded, places, *_ = routed(x, chosen, experts, GATHER)
    weights = torch.zeros(rows, choices)
    weights[:, 0] = 1
    by_choice = places.view(rows, choices).T.reshape(-1)
    back = npu.npu_moe_finalize_routing(expanded, None, None, None, weights, by_choice, None)
    assert torch.equal(back, x)


def test_what_has_no_reference_is_an_error():
    x = torch.randn(4, 8)
    with pytest.raises(NotImplementedError, match="finished rows"):
        npu.npu_moe_gating_top_k_softmax(x, torch.zeros(4, dtype=torch.bool), k=2)
    places = torch.arange(4, dtype=torch.int32)
    with pytest.raises(NotImplementedError, match="only the weighted sum"):
        npu.npu_moe_finalize_routing(x, None, None, None, None, places, None)
