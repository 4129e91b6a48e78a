"""`bench peers`: a small Qwen3 on this machine under eager, Inductor and `ascend_dense`.

Random weights; a prompt, then tokens one by one with a static KV cache. The peers take turns, so
that what else the machine does meets all alike; a time is the median of the rounds. `--plot` draws
them. Compilation is not in the times and is told beside them. Exit status 1 where a peer's logits
are further from eager's than the dtype allows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor

from ascend_passes.cli.arguments import (
    add_json,
    add_seed,
    check_plot,
    device,
    path_name,
    whole_number,
)
from ascend_passes.cli.measure import device_name, synchronize
from ascend_passes.cli.output import console, print_json, print_table, progress
from ascend_passes.cli.peers_figure import peers_figure
from ascend_passes.cli.tune import accelerator
from ascend_passes.executors.after_calls import CALLS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXAMPLES = (
    "ascend-passes bench peers --plot peers.png",
    "ascend-passes bench peers --layers 2 --heads 4 --dtype float32 --rounds 3",
)
HEAD = 64
"""Columns of an attention head."""
MOST_LAYERS, MOST_HEADS, MOST_ROUNDS, MOST_STEPS = 64, 128, 1000, 4096
VOCABULARY = 2048
OURS: Mapping[str, Any] = {"backend": "ascend_dense"}
WITH_INDUCTOR: Mapping[str, Any] = {**OURS, "options": {"executor": "inductor"}}
CAPTURED: Mapping[str, Any] = {**OURS, "options": {"cudagraph_mode": "FULL_DECODE_ONLY"}}
THEIRS: Mapping[str, Any] = {"backend": "inductor"}
COMPILED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "cpu": {
        "Inductor": THEIRS,
        "ascend_dense": OURS,
        "ascend_dense, executor=inductor": WITH_INDUCTOR,
    },
    "cuda": {
        "Inductor": THEIRS,
        "Inductor, reduce-overhead": {**THEIRS, "mode": "reduce-overhead"},
        "ascend_dense": OURS,
        "ascend_dense, captured": CAPTURED,
    },
    "npu": {"ascend_dense": OURS, "ascend_dense, captured": CAPTURED},
}
"""Kind of device -> peer beside eager -> what `torch.compile` is given."""
Step = Callable[..., Any]


@dataclass(frozen=True)
class Peer:
    """What one of them took."""

    name: str
    prompt: float
    """Milliseconds of the prompt, the median of the rounds."""
    prompt_range: tuple[float, float]
    """The least and the most of the rounds."""
    token: float
    """Milliseconds of one token behind it, the median of the rounds."""
    token_range: tuple[float, float]
    first_seconds: float
    """Of the rounds before those that count, compilation included."""
    from_eager: float
    """Norm of the difference of its logits from eager's, over the norm of eager's."""


@dataclass(frozen=True)
class PeerWork:
    """What every peer is asked for: a prompt and the tokens behind it."""

    model: PreTrainedModel
    cache: Any
    prompt: Mapping[str, Any]
    """Arguments of the call for the prompt."""
    tokens: Sequence[Mapping[str, Any]]
    """Arguments of the call for each token."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""

    def number(flag: str, default: int, most: int, what: str) -> None:
        text = f"{what} (default: {default})"
        parser.add_argument(flag, type=whole_number(most), default=default, help=text)

    number("--layers", 4, MOST_LAYERS, "decoder layers")
    number("--heads", 8, MOST_HEADS, f"attention heads of {HEAD} columns each")
    number("--prompt-length", 128, MOST_STEPS, "tokens of the prompt")
    number("--tokens", 16, MOST_STEPS, "tokens behind it in a round")
    number("--rounds", 5, MOST_ROUNDS, "rounds, in which the peers take turns")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="(default: bfloat16)"
    )
    parser.add_argument("--device", type=device, help="default: the accelerator here")
    parser.add_argument("--plot", type=path_name, help="PNG of all times")
    add_seed(parser, "of weights and prompt (default: 0)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where all peers agree with eager, 1 where one does not.

    Raises:
        UsageError: the plot cannot be written.
    """
    if arguments.plot is not None:
        check_plot(arguments.plot)
    from ascend_passes.models.limits import limit_of  # needs the extra `models`

    where = arguments.device or accelerator()
    with progress("bench peers") as stage, torch.no_grad():
        stage("make the model", 0, 1)
        peers = measured_peers(work_for(arguments, where), arguments.rounds, where, stage)
    about = machine(where)
    limit = limit_of(getattr(torch, arguments.dtype), False)
    if arguments.json:
        print_json({"machine": about, "limit": limit, "peers": [asdict(one) for one in peers]})
    else:
        print_peers(peers, about, arguments)
    if arguments.plot is not None:
        figure = peers_figure(peers, f"Qwen3, {size_text(arguments)}\n{about}")
        figure.savefig(arguments.plot, dpi=120)
        if not arguments.json:
            console().print(f"drawn in {arguments.plot}")
    return 0 if all(one.from_eager <= limit for one in peers) else 1


def machine(where: str) -> str:
    """What was measured on."""
    kind = where.partition(":")[0]
    threads = f", {torch.get_num_threads()} threads" if kind == "cpu" else ""
    return f"{device_name(kind)}{threads}, torch {torch.__version__}"


def size_text(arguments: argparse.Namespace) -> str:
    """The model and the prompt in words."""
    return (
        f"{arguments.layers} layers, {arguments.heads * HEAD} columns, {arguments.dtype}, "
        f"prompt of {arguments.prompt_length} tokens"
    )


def work_for(arguments: argparse.Namespace, where: str) -> PeerWork:
    """The model with its cache, and the arguments of all calls of a round."""
    from ascend_passes.models.build import small_model
    from ascend_passes.models.generate import new_cache, step_inputs

    hidden, heads, length = arguments.heads * HEAD, arguments.heads, arguments.prompt_length
    total = length + arguments.tokens
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "head_dim": HEAD}
    model = small_model(
        "qwen3",
        getattr(torch, arguments.dtype),
        arguments.seed,
        num_hidden_layers=arguments.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads if heads % 2 else heads // 2,
        vocab_size=VOCABULARY,
        max_position_embeddings=total,
        **sizes,
    ).to(where)
    cache = new_cache(model, 1, total)
    source = torch.Generator().manual_seed(arguments.seed)
    ids = torch.randint(VOCABULARY, (1, total), generator=source).to(where)
    prompt = step_inputs(model, ids[:, :length], 0, cache)
    behind = [step_inputs(model, ids[:, at : at + 1], at, cache) for at in range(length, total)]
    return PeerWork(model, cache, prompt, behind)


def measured_peers(
    work: PeerWork, rounds: int, where: str, stage: Callable[[str, int, int], None]
) -> list[Peer]:
    """Compile with each, then let them take turns."""
    compiled = COMPILED[where.partition(":")[0]]
    steps: dict[str, Step] = {"eager": work.model}
    first, logits = dict[str, float](), dict[str, Tensor]()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("eager", *compiled)}
    with torch._dynamo.config.patch(recompile_limit=8 * len(compiled)):  # one code for all
        for name, given in compiled.items():
            steps[name] = torch.compile(work.model, dynamic=False, **given)
        for done, (name, step) in enumerate(steps.items()):
            stage(f"first calls of {name}", done, len(steps))
            first[name], logits[name] = first_calls(work, step, where)
        for done in range(rounds):
            stage("rounds", done, rounds)
            for name, step in steps.items():
                times[name].append(one_round(work, step, where))
    return [peer_of(name, times[name], first[name], logits) for name in steps]


def first_calls(work: PeerWork, step: Step, where: str) -> tuple[float, Tensor]:
    """Seconds of the rounds in which a peer compiles, and the last one's logits in float64."""
    started = time.perf_counter()
    for _ in range(CALLS):
        one_round(work, step, where)
    seconds = time.perf_counter() - started
    work.cache.reset()
    found = [step(**one).logits.double() for one in (work.prompt, *work.tokens)]
    return seconds, torch.cat(found, dim=1)


def one_round(work: PeerWork, step: Step, where: str) -> tuple[float, float]:
    """Milliseconds of the prompt, and of one token behind it."""
    kind = where.partition(":")[0]
    work.cache.reset()
    synchronize(kind)
    begin = time.perf_counter()
    step(**work.prompt)
    synchronize(kind)
    middle = time.perf_counter()
    for one in work.tokens:
        step(**one)
    synchronize(kind)
    end = time.perf_counter()
    return 1e3 * (middle - begin), 1e3 * (end - middle) / len(work.tokens)


def peer_of(
    name: str, times: Sequence[tuple[float, float]], first: float, logits: Mapping[str, Tensor]
) -> Peer:
    """The figures of one peer."""
    prompts, tokens = zip(*times, strict=True)
    wanted = logits["eager"]
    apart = float((logits[name] - wanted).norm() / wanted.norm())
    middle = statistics.median
    return Peer(
        name,
        middle(prompts),
        least_and_most(prompts),
        middle(tokens),
        least_and_most(tokens),
        first,
        apart,
    )


def least_and_most(times: Sequence[float]) -> tuple[float, float]:
    """The least and the most."""
    return min(times), max(times)


def print_peers(peers: Sequence[Peer], about: str, arguments: argparse.Namespace) -> None:
    """A row for each peer."""
    out = console()
    out.print(
        f"Qwen3, {size_text(arguments)}; {about}; median of {arguments.rounds} rounds (range)"
    )
    table = Table(box=None)
    table.add_column("peer", no_wrap=True)
    titles = ("prompt, ms", "of eager's", "a token, ms", "of eager's", "first calls, s")
    for title in (*titles, "logits from eager's"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows(peers):
        table.add_row(*row)
    print_table(out, table)


def rows(peers: Sequence[Peer]) -> Iterator[tuple[str, ...]]:
    """The cells of the table."""
    eager = peers[0]
    for one in peers:
        yield (
            one.name,
            f"{one.prompt:.2f} ({one.prompt_range[0]:.2f}-{one.prompt_range[1]:.2f})",
            f"{one.prompt / eager.prompt:.0%}",
            f"{one.token:.2f} ({one.token_range[0]:.2f}-{one.token_range[1]:.2f})",
            f"{one.token / eager.token:.0%}",
            f"{one.first_seconds:.1f}",
            f"{one.from_eager:.2g}",
        )
