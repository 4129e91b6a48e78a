"""Greedy decoding with a static cache, one step ahead of the host."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, fx, nn

from ascend_passes.capture.check import faults
from ascend_passes.capture.device import Launcher, Pending, device_for
from ascend_passes.capture.fault import Fault
from ascend_passes.capture.watch import WAITS, waits
from ascend_passes.options.plans import capture_sizes, padded_size
from ascend_passes.options.value import Options

CAPTURED_AFTER = 2
"""Steps after which a size is captured: the first compiles and warms up, the second captures."""
Backend = str | Callable[..., Any] | None


def greedy_step(model: Callable[..., Any], tokens: Tensor, cache: Any) -> None:
    """One step: `tokens` int64 [B, 1] in, the most likely next tokens in the same memory out."""
    logits = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1]
    tokens.copy_(logits.argmax(-1, keepdim=True))


@dataclass(frozen=True)
class Decoder:
    """A model with the cache and the token memory of one batch size, for many prompts.

    The addresses stay, so a graph that one prompt captured is replayed for the next.
    """

    model: Callable[..., Any]
    step: Callable[..., None]
    """`greedy_step`, compiled."""
    tokens: Tensor
    """int64 [rows, 1], the input of the next step."""
    cache: Any
    length: int
    """Tokens that the cache holds for each row."""
    counts: set[str] = field(default_factory=set)
    """Attributes of the cache's layers that are Python integers and grow; `prefill` finds them."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batch: int,
        length: int,
        *,
        backend: Backend = "ascend_dense",
        options: Mapping[str, Any] | None = None,
    ) -> Decoder:
        """A decoder for `batch` sequences of at most `length` tokens.

        The rows are padded to a captured size here, because a cache used in place cannot grow.

        Args:
            model: a Hugging Face causal language model.
            batch: sequences.
            length: tokens of each sequence, prompt and continuation.
            backend: compiles the step; None runs it as it is.
            options: of the backend; for `ascend_dense`, `cudagraph_mode` is FULL_DECODE_ONLY where
                not given, and with `capture_warm_up` eager the decoder comes with `warm_up` done.
        """
        from transformers import StaticCache

        rows, eager = batch, False
        if backend == "ascend_dense":
            options = {"cudagraph_mode": "FULL_DECODE_ONLY", **(options or {})}
            read = Options.read(options)
            rows = padded_size(batch, capture_sizes(read)) or batch
            eager = read.capture_warm_up == "eager"
        step = greedy_step
        if backend is not None:
            step = torch.compile(greedy_step, backend=backend, options=dict(options or {}) or None)
        plain: Any = getattr(model, "_orig_mod", model)
        tokens = torch.zeros((rows, 1), dtype=torch.int64, device=plain.device)
        cache = StaticCache(config=plain.config, max_cache_len=length)
        decoder = cls(plain, step, tokens, cache, length)
        if eager:
            decoder.warm_up()
        return decoder

    def prefill(self, input_ids: Tensor) -> Tensor:
        """Fill the cache with prompts int64 [B, S] and choose the first tokens, [rows, 1].

        The rows beyond B repeat the last prompt: their values are valid and nobody reads them.
        """
        missing = self.tokens.shape[0] - input_ids.shape[0]
        prompts = torch.cat([input_ids, input_ids[-1:].expand(missing, -1)])
        self.cache.reset()
        before = integers(self.cache)
        logits = self.model(
            prompts, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        after = integers(self.cache)
        self.counts.update(key[1] for key, was in before.items() if after.get(key) != was)
        return self.tokens.copy_(logits[:, -1].argmax(-1, keepdim=True))

    def warm_up(self, progress: bool = True) -> None:
        """Compile the step and capture its graph before the first prompt; the cache ends empty.

        Args:
            progress: whether to show a bar.
        """
        steps = min(CAPTURED_AFTER, self.length - 1)
        with torch.no_grad():
            self.prefill(torch.zeros((1, 1), dtype=torch.int64, device=self.tokens.device))
            for _ in track(range(steps), "Capturing", disable=not progress, transient=True):
                self.advance()
        self.cache.reset()

    def advance(self) -> Tensor:
        """One step; returns the tokens' memory."""
        with growing(self.counts) if self.counts else contextlib.nullcontext():
            self.step(self.model, self.tokens, self.cache)
        return self.tokens


def integers(cache: Any) -> dict[tuple[int, str], int]:
    """The integers in the attributes of a cache's layers, by layer and name."""
    return {
        (index, name): found
        for index, layer in enumerate(getattr(cache, "layers", ()))
        for name, found in vars(layer).items()
        if type(found) is int
    }


@contextlib.contextmanager
def growing(names: Collection[str]) -> Iterator[None]:
    """Compile attributes of these names as numbers that change.

    Dynamo takes an integer for a constant until it sees another one, and the graph of the first
    step would serve no other.
    """
    given = torch.compiler.config.dynamic_sources
    sources = ",".join(filter(None, [given, *(rf".*\.{re.escape(n)}$" for n in sorted(names))]))
    config: Any = torch.compiler.config
    with config.patch(dynamic_sources=sources):
        yield


def decode_loop(
    model_or_step: nn.Module | Decoder | Callable[[Tensor], None],
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int | Collection[int] | None = None,
    pad_token_id: int = 0,
    stream: Callable[[Tensor], None] | None = None,
    asynchronous: bool = True,
    backend: Backend = "ascend_dense",
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Greedy continuation of prompts of one length, int64 [B, S + new] in host memory.

    Step n+1 is launched before the tokens of step n are read: the sampled token stays on the device
    and is the input of the next step, so the device does not wait for the host between steps. The
    host learns of an end of sequence one step late and drops the surplus step; the result is that
    of the synchronous loop.

    Args:
        model_or_step: a Hugging Face causal language model; a `Decoder`, to use its cache and its
            captured graphs again; or a function that overwrites tokens int64 [B, 1] with the next
            ones, whose caches the caller filled.
        input_ids: int64 [B, S] on the model's device, no padding; [B, 1] for a step function, whose
            memory is the function's input.
        max_new_tokens: steps at most; fewer where every sequence ends.
        eos_token_id: tokens that end a sequence; None for no early stop.
        pad_token_id: what follows the end of a sequence in the result.
        stream: called with each step's tokens, int64 [B] in host memory, as they arrive.
        asynchronous: False waits for each step before the next one.
        backend: compiles a model's step; see `Decoder.of`.
        options: of the backend.

    Raises:
        ValueError: no tokens are asked for, or the prompts do not fit.
    """
    if input_ids.dim() != 2 or 0 in input_ids.shape or max_new_tokens < 1:
        shape = list(input_ids.shape)
        raise ValueError(
            f"token ids {shape}, {max_new_tokens} new tokens: need [B, S] and one token"
        )
    batch, length = input_ids.shape[0], input_ids.shape[1] + max_new_tokens
    prompt = input_ids.to("cpu", copy=True)  # a step function overwrites its input
    if isinstance(model_or_step, nn.Module):
        model_or_step = Decoder.of(model_or_step, batch, length, backend=backend, options=options)
    if isinstance(model_or_step, Decoder):
        decoder = model_or_step
        if batch > decoder.tokens.shape[0] or length > decoder.length:
            raise ValueError(
                f"{batch} sequences of {length} tokens do not fit into the decoder's "
                f"{decoder.tokens.shape[0]} of {decoder.length}"
            )
        start, advance = lambda: decoder.prefill(input_ids), decoder.advance
    else:
        start = advance = stepping(model_or_step, input_ids)
    ends = frozenset([eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or ())
    results = Results(batch, ends, pad_token_id, stream)
    launcher = device_for(input_ids.device.type).launcher()
    try:
        run_loop(launcher, start, advance, max_new_tokens, results, lag=int(asynchronous))
    finally:
        launcher.close()
    return torch.cat([prompt, *results.columns], dim=1)


def stepping(step: Callable[[Tensor], None], tokens: Tensor) -> Callable[[], Tensor]:
    """A step function as one that returns the tokens' memory."""

    def advance() -> Tensor:
        step(tokens)
        return tokens

    return advance


class Results:
    """What has arrived on the host."""

    def __init__(
        self,
        batch: int,
        ends: frozenset[int],
        pad_token_id: int,
        stream: Callable[[Tensor], None] | None,
    ) -> None:
        self.columns: list[Tensor] = []
        """int64 [B, 1] for each step."""
        self._ended = torch.zeros(batch, dtype=torch.bool)
        self._ends = torch.tensor(sorted(ends), dtype=torch.int64)
        self._pad = pad_token_id
        self._stream = stream

    def take(self, pending: Pending) -> bool:
        """Wait for one step's tokens [rows, 1]; True where every sequence has ended."""
        tokens = pending.wait()[: len(self._ended), 0].masked_fill(self._ended, self._pad)
        self._ended |= torch.isin(tokens, self._ends) & ~self._ended
        self.columns.append(tokens.unsqueeze(1))
        if self._stream is not None:
            self._stream(tokens)
        return bool(self._ended.all())


def run_loop(
    launcher: Launcher,
    start: Callable[[], Tensor],
    advance: Callable[[], Tensor],
    steps: int,
    results: Results,
    lag: int,
) -> None:
    """Launch `start`, then `advance`, and read each result `lag` launches later.

    Results behind the end of all sequences are launched at most `lag` times and never read.
    """

    def launched(function: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():  # a launcher may run this on a thread of its own
            return function()

    waiting: deque[Pending] = deque()
    for number in range(steps):
        function = advance if number else start
        waiting.append(launcher.submit(lambda function=function: launched(function)))  # type: ignore[misc]
        if len(waiting) > lag and results.take(waiting.popleft()):
            return
    while waiting:
        if results.take(waiting.popleft()):
            return


def waits_for_host(
    step: Callable[..., Any] | fx.GraphModule, *inputs: Any, device: str = "cpu"
) -> tuple[Fault, ...]:
    """Every place where a step makes the device wait for the host; empty for a good one.

    Args:
        step: a graph, which is only read; or a function, which is run once.
        inputs: of the function.
        device: type of the device that a graph is for.
    """
    if isinstance(step, fx.GraphModule):
        return tuple(fault for fault in faults(step.graph, device) if fault.kind in WAITS)
    with torch.no_grad():
        return waits(lambda: step(*inputs))
