"""Run a model eagerly, compiled and in float64, and say how far apart they are.

Two questions, one yardstick: the model in float64, whose quantized layers the library runs that
made them. Whether the formula is kept, by the passes and by the loading of the checkpoint: the
rewritten graphs computed in float64, equal to the last digits. Whether the precision is: the
compiled model in its own dtype, within a limit and no further from float64 than eager.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

import ascend_passes
from ascend_passes.models.generate import Forward, generate, logits_of, new_cache
from ascend_passes.models.limits import EXACT, NO_WORSE, limit_of
from ascend_passes.models.quantize import quantized_layers
from ascend_passes.models.reference import in_double, logits_in_double
from ascend_passes.report.value import Report

Stage = Callable[[str, int, int], None]
"""Told what is running, how many steps are done and how many there are."""


@dataclass(frozen=True)
class Error:
    """Distance of logits from the float64 reference."""

    largest: float
    """The largest absolute difference of one logit."""
    relative: float
    """Root mean square of the differences over that of the reference."""
    typical: float = 0.0
    """The same of one token, the median over tokens."""

    @classmethod
    def between(cls, logits: Tensor, reference: Tensor) -> Error:
        """The distance of `logits` from `reference`, both of one shape; 0 where they are equal."""
        difference = logits.double() - reference
        if not difference.any():  # a reference of zeros has no scale, and needs none
            return cls(0.0, 0.0)
        relative = difference.square().mean().sqrt() / reference.square().mean().sqrt()
        typical = (difference.norm(dim=-1) / reference.norm(dim=-1)).median()
        return cls(difference.abs().max().item(), relative.item(), typical.item())


@dataclass(frozen=True)
class Comparison:
    """What one model did, eagerly and compiled."""

    dtype: str
    quantized: bool
    eager_tokens: tuple[tuple[int, ...], ...]
    compiled_tokens: tuple[tuple[int, ...], ...]
    eager: Error
    compiled: Error
    exact: Error
    """Of the rewritten graphs computed in float64."""
    limit: float
    """Largest relative error of the compiled model that is accepted."""
    compile_seconds: float
    """Prefill and first decode steps, compilation included."""
    reports: tuple[Report, ...]
    not_finite: tuple[str, ...] = ()
    """Of "eager", "compiled" and "float64 reference", those whose logits hold NaN or infinity."""
    routed: bool = False
    """Whether tokens choose experts."""

    def size(self, error: Error) -> float:
        """What is compared of an error. Tokens near a tie between experts go to others, whoever
        rounds: few are far from float64 then, which says nothing of the others."""
        return error.typical if self.routed else error.relative

    @property
    def equal_tokens(self) -> int:
        """Positions at which both chose the same token."""
        pairs = zip(self.eager_tokens, self.compiled_tokens, strict=True)
        return sum(a == b for left, right in pairs for a, b in zip(left, right, strict=True))

    @property
    def tokens(self) -> int:
        """Tokens that each of them chose."""
        return sum(map(len, self.eager_tokens))

    @property
    def no_worse(self) -> bool:
        """Whether the compiled logits are as near to the reference as eager's; see `NO_WORSE`."""
        return self.size(self.compiled) <= NO_WORSE * self.size(self.eager)

    @property
    def same_formula(self) -> bool:
        """Whether the passes changed nothing but rounding; see `EXACT`."""
        return self.exact.relative <= EXACT

    @property
    def passed(self) -> bool:
        """The same formula, within the limit and, where near-ties cannot hide a defect, no worse
        and token for token.

        A float32 model must choose equal tokens. One changed rounding of an int8 activation moves a
        float32 W8A8 model by more than all its other rounding, so that eager is no yardstick there.
        """
        single = self.dtype == "float32"
        return (
            not self.not_finite
            and self.same_formula
            and self.size(self.compiled) <= self.limit
            and (single or self.no_worse)
            and (not single or self.quantized or self.equal_tokens == self.tokens)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {name: value for name, value in vars(self).items() if name != "reports"}
        return {
            **found,
            "eager": asdict(self.eager),
            "compiled": asdict(self.compiled),
            "exact": asdict(self.exact),
            "equal_tokens": self.equal_tokens,
            "tokens": self.tokens,
            "no_worse": self.no_worse,
            "same_formula": self.same_formula,
            "passed": self.passed,
            "reports": [report.to_dict() for report in self.reports],
        }


def compare(
    model: PreTrainedModel,
    forward: Forward,
    exact: Forward,
    prompt: Tensor,
    count: int,
    stage: Stage,
    original: Callable[[], PreTrainedModel] | None = None,
) -> Comparison:
    """Generate and teacher-force with both, and compare logits with float64.

    Args:
        model: the uncompiled model.
        forward: what `torch.compile` made of it.
        exact: what `exact_forward` made of it.
        prompt: `[batch, tokens]`.
        count: tokens to generate, at least 1.
        stage: told about progress.
        original: loads the model again for the float64 reference, without this project's part in
            it; None where `model` itself is all there is.
    """

    def step(what: str) -> Callable[[int], None]:
        stage(what, 0, count)
        return lambda done: stage(what, done, count)

    batch, length = prompt.shape
    cache = new_cache(model, batch, length + count)
    ascend_passes.reset()
    chosen = generate(model, model, cache, prompt, count, step("eager tokens"))
    eager = logits_of(model, model, cache, prompt, chosen, step("eager logits"))
    started = time.perf_counter()
    compiled_chosen = generate(forward, model, cache, prompt, count, step("compile, then tokens"))
    seconds = time.perf_counter() - started
    compiled = logits_of(forward, model, cache, prompt, chosen, step("compiled logits"))
    reports = tuple(ascend_passes.reports())
    double = in_double(original() if original is not None else copy.deepcopy(model))
    reference = logits_in_double(double, prompt, chosen, step("float64 reference"))
    own = new_cache(model, batch, length + count)
    rewritten = logits_of(exact, model, own, prompt, chosen, step("rewritten in float64"))
    quantized = any(True for _ in quantized_layers(model))
    every = {"eager": eager, "compiled": compiled, "float64 reference": reference}
    return Comparison(
        dtype=str(model.dtype).removeprefix("torch."),
        quantized=quantized,
        eager_tokens=tuple(map(tuple, chosen.tolist())),
        compiled_tokens=tuple(map(tuple, compiled_chosen.tolist())),
        eager=Error.between(eager, reference),
        compiled=Error.between(compiled, reference),
        exact=Error.between(rewritten, reference),
        limit=limit_of(model.dtype, quantized),
        compile_seconds=seconds,
        reports=reports,
        not_finite=tuple(name for name, logits in every.items() if not logits.isfinite().all()),
        routed=bool(getattr(model.config.get_text_config(), "num_experts", 0)),
    )
