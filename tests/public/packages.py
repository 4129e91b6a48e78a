"""Two-layer models of installed packages, and how each is called for the next tokens."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.public.measure import LONGEST, WORDS, seeded

WIDTH, HIDDEN, HEADS, GROUPS, HEAD, LAYERS = 256, 256, 4, 2, 64, 2


def torchtune_folders() -> None:
    """torchtune's packages without what they import themselves: its data sets want libraries that
    no decoder needs, its fine-tuning a module that torchao 0.18 does not have."""
    try:
        root = Path(str(distribution("torchtune").locate_file("torchtune")))
    except PackageNotFoundError:
        pytest.skip("torchtune is not installed")
    for name in ("torchtune", "torchtune.modules", "torchtune.utils"):
        if name not in sys.modules:
            package = ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package


def torchtune_llama() -> nn.Module:
    """Llama 3 of torchtune's own parts, with its cache."""
    torchtune_folders()
    from torchtune.modules.attention import MultiHeadAttention
    from torchtune.modules.feed_forward import FeedForward
    from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings
    from torchtune.modules.rms_norm import RMSNorm

    sys.modules["torchtune.modules"].MultiHeadAttention = MultiHeadAttention
    from torchtune.modules.transformer import TransformerDecoder, TransformerSelfAttentionLayer

    rope = RotaryPositionalEmbeddings(HEAD, LONGEST)

    def linear(given, made):
        return nn.Linear(given, made, bias=False)

    def layer():
        attention = MultiHeadAttention(
            embed_dim=WIDTH,
            num_heads=HEADS,
            num_kv_heads=GROUPS,
            head_dim=HEAD,
            q_proj=linear(WIDTH, HEADS * HEAD),
            k_proj=linear(WIDTH, GROUPS * HEAD),
            v_proj=linear(WIDTH, GROUPS * HEAD),
            output_proj=linear(HEADS * HEAD, WIDTH),
            pos_embeddings=rope,
            max_seq_len=LONGEST,
        )
        mlp = FeedForward(
            gate_proj=linear(WIDTH, HIDDEN),
            down_proj=linear(HIDDEN, WIDTH),
            up_proj=linear(WIDTH, HIDDEN),
        )
        return TransformerSelfAttentionLayer(
            attention, mlp, sa_norm=RMSNorm(WIDTH), mlp_norm=RMSNorm(WIDTH)
        )

    model = TransformerDecoder(
        tok_embeddings=nn.Embedding(WORDS, WIDTH),
        layers=nn.ModuleList(layer() for _ in range(LAYERS)),
        max_seq_len=LONGEST,
        num_heads=HEADS,
        head_dim=HEAD,
        norm=RMSNorm(WIDTH),
        output=linear(WIDTH, WORDS),
    )
    model = seeded(model)
    rope.rope_init()  # whose table bfloat16 has rounded
    model.setup_caches(batch_size=1, dtype=torch.bfloat16)
    return model


def torchtune_step(model, tokens, start):
    positions = torch.arange(start, start + tokens.shape[1])[None]
    mask = torch.arange(LONGEST)[None, None] <= positions[..., None]
    return model(tokens, mask=mask, input_pos=positions)


def litgpt_model(**given) -> nn.Module:
    """A litgpt GPT with its cache."""
    litgpt = pytest.importorskip("litgpt.model")
    config = pytest.importorskip("litgpt.config").Config(
        block_size=LONGEST,
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        n_query_groups=GROUPS,
        head_size=HEAD,
        vocab_size=WORDS,
        padded_vocab_size=WORDS,
        intermediate_size=HIDDEN,
        rotary_percentage=given.pop("rotary_percentage", 1.0),
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name=given.pop("mlp_class_name", "LLaMAMLP"),
        **given,
    )
    model = seeded(litgpt.GPT(config))
    model.set_kv_cache(batch_size=1, dtype=torch.bfloat16)
    return model


def litgpt_step(model, tokens, start):
    return model(tokens, torch.arange(start, start + tokens.shape[1]))


def x_transformers_model() -> nn.Module:
    """A Llama-like decoder of x-transformers."""
    package = pytest.importorskip("x_transformers")
    model = package.TransformerWrapper(
        num_tokens=WORDS,
        max_seq_len=LONGEST,
        use_abs_pos_emb=False,
        attn_layers=package.Decoder(
            dim=WIDTH,
            depth=LAYERS,
            heads=HEADS,
            attn_dim_head=HEAD,
            rotary_pos_emb=True,
            use_rmsnorm=True,
            ff_glu=True,
            ff_swish=True,
            ff_no_bias=True,
        ),
    )
    return seeded(model)


def x_transformers_step(model, tokens, start):
    """Without a cache: the token behind the prompt is a prompt of its own."""
    return model(tokens)
