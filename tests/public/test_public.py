"""Models of other code bases get all their operators, and stay as exact as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.public import packages, written
from tests.public.measure import ONE_ROUNDING, Whole, assert_whole, measured

ROTATED_APART = ("apply_rotary_pos_emb at",)
"""Queries and keys that no one operator turns: pairs of neighbours, heads that lie transposed, or
that are written into a cache. Each is turned by `npu_rotary_mul`."""
LLAMA = Whole(norms=5, rotations=4, gates=2, adds=4)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_torchtune():
    found = measured(packages.torchtune_llama, packages.torchtune_step)
    assert_whole(found, LLAMA, ROTATED_APART, ONE_ROUNDING)


@pytest.mark.parametrize(
    ("config", "whole", "left"),
    [
        ({}, LLAMA, ROTATED_APART),
        ({"rotary_percentage": 0.5}, LLAMA, ROTATED_APART),
        ({"norm_qk": True}, replace(LLAMA, norms=9), ROTATED_APART),
        (
            {"mlp_class_name": "GemmaMLP", "post_attention_norm": True, "post_mlp_norm": True},
            replace(LLAMA, norms=9, gates=0),
            (*ROTATED_APART, "npu_geglu takes one packed value, and these are two"),
        ),
    ],
    ids=["Llama", "part of a head", "Qwen3", "Gemma 2"],
)
def test_litgpt(config, whole, left):
    found = measured(lambda: packages.litgpt_model(**config), packages.litgpt_step)
    assert_whole(found, whole, left, ONE_ROUNDING)


def test_x_transformers():
    """Positions of zeros are added to its words, and are told."""
    found = measured(packages.x_transformers_model, packages.x_transformers_step)
    left = ("residual is 0, not a tensor", "x + 0.0 is 0.0 where x is -0.0", "add has 2 users")
    assert_whole(found, LLAMA, (*ROTATED_APART, *left))


@pytest.mark.parametrize(
    ("kind", "whole", "left"),
    [
        (written.PairsModel, LLAMA, ROTATED_APART),
        (written.GainlessModel, Whole(norms=10, rotations=4, gates=0, adds=4), ()),
        (written.FlatModel, LLAMA, ROTATED_APART),
        (written.TokensFirstModel, LLAMA, ROTATED_APART),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_models_in_the_layouts_of_others(kind, whole, left):
    assert_whole(measured(lambda: written.model_of(kind), written.step), whole, left)
