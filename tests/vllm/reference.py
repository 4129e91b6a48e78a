"""Log-probabilities of vLLM against those of the same weights in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ascend_passes.models.load import load_model
from ascend_passes.models.reference import reference_logits


def error(checkpoint: str, batches: list[list[list[int]]], result: dict[str, Any]) -> float:
    """`error_under` of a checkpoint's own weights."""
    return error_under(load_model(Path(checkpoint)), batches, result)


def error_under(
    model: PreTrainedModel, batches: list[list[list[int]]], result: dict[str, Any]
) -> float:
    """Root mean square error of every log-probability that an engine gave, in nats.

    Each step is compared under the tokens that the engine itself had chosen before it.
    """
    prompts = [prompt for batch in batches for prompt in batch]
    squares: list[float] = []
    for prompt, tokens, steps in zip(prompts, result["tokens"], result["logprobs"], strict=True):
        logits = reference_logits(model, torch.tensor([prompt]), torch.tensor([tokens]))
        exact = torch.log_softmax(logits[0].double(), -1)[len(prompt) - 1 :]
        for row, step in zip(exact, steps, strict=False):  # the last row has no step
            squares += [(float(row[int(token)]) - value) ** 2 for token, value in step.items()]
    assert len(squares) >= 5 * sum(map(len, result["tokens"]))
    return math.sqrt(sum(squares) / len(squares))
