"""Small checkpoints made on the spot: float32, bfloat16 and W8A8, with a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel

from ascend_passes.models.build import small_model
from ascend_passes.models.quantize import quantize_model

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SPECIAL = ("<pad>", "<s>", "</s>")


def make(folder: Path, family: str, dtype: str, activations: str = "", **changes: int) -> Path:
    """Write a checkpoint.

    Args:
        folder: where to.
        family: as in `small_model`.
        dtype: "f32" or "bf16".
        activations: "", "static" or "dynamic"; the latter two quantize to W8A8.
    """
    model = spread(small_model(family, DTYPES[dtype], **changes))
    compressor = None
    if activations:
        compressor = quantize_model(model, activations, torch.randint(3, 512, (2, 64)))
    model.save_pretrained(folder)
    if compressor is not None:
        compressor.update_config(str(folder))
    write_tokenizer(folder, model.config.vocab_size)
    return folder


@torch.no_grad()
def spread(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights of unit gain, in place: the default range is so small that all layers
    together change little."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embed" not in name:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def write_tokenizer(folder: Path, size: int) -> None:
    """One token for each byte; the rest of the vocabulary has names only."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"word{index}" for index in range(len(words), size)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
