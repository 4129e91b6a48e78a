"""Measures this machine for the cost model and writes a profile, which option `profile` takes.

Each figure stands beside that of a shipped profile: the device's own where there is one, else the
default of option `profile`.

Collectives are measured between processes of this machine: over NCCL or HCCL where it has several
devices, else over gloo. `--plot` draws the estimated step time of Qwen3-32B-W8A8 against tokens.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from rich.table import Table

from ascend_passes.cli.arguments import (
    UsageError,
    check_plot,
    check_writable,
    device_count,
    device_kind,
    path_name,
    whole_number,
)
from ascend_passes.cli.bench_comm import tensor_parallel
from ascend_passes.cli.dense_layers import GROUP, Sizes, after_passes, layers_graph
from ascend_passes.cli.measure import measured_profile
from ascend_passes.cli.output import console, print_table, progress
from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.options.value import Options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = (
    "ascend-passes tune --out profile.json",
    "ascend-passes tune --against h100",
    "ascend-passes tune --profile atlas-800-a3 --plot steps.png",
)
BACKENDS = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}
MOST_RANKS = 64
CURVE = tuple(2**power for power in range(15))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--out", type=path_name, default=Path("profile.json"), help="file to write")
    parser.add_argument("--device", type=device_kind, help="default: the accelerator here")
    parser.add_argument(
        "--ranks",
        type=whole_number(MOST_RANKS),
        default=2,
        help="processes to measure collectives with",
    )
    parser.add_argument(
        "--against",
        metavar="PROFILE",
        help="name or file to say the changes from (default: shipped)",
    )
    parser.add_argument("--plot", type=path_name, help="PNG of step time against tokens")
    parser.add_argument("--profile", help="plot with this profile and measure nothing")
    parser.add_argument(
        "--model-ranks", type=tensor_parallel, default=4, help="tensor-parallel size of the plot"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the profile, draw the plot where asked for.

    Raises:
        UsageError, OptionError: what would fail only after measuring.
    """
    check_arguments(arguments)
    if arguments.profile is None:
        device = arguments.device or accelerator()
        ranks = processes(device, arguments.ranks)
        with progress("tune") as stage:
            stage(f"measure {device} with {ranks} process{'es' * (ranks > 1)}", 0, 1)
            measure_device(device, ranks, arguments.out)
        screen = console()
        measured = profiles.read_profile(str(arguments.out))
        print_table(screen, changes_table(shipped(arguments.against), measured))
        screen.print(f'written to {arguments.out}: options={{"profile": "{arguments.out}"}}')
    if arguments.plot is not None:
        with progress("tune") as stage:
            stage("estimate steps", 0, 1)
            figure = step_times(arguments.profile or str(arguments.out), arguments.model_ranks)
            figure.savefig(arguments.plot, dpi=120)
        console().print(f"drawn in {arguments.plot}")
    return 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise for what is wrong before anything is measured; errors as in `run`."""
    if arguments.against is not None:
        profiles.read_profile(arguments.against)
    if arguments.profile is None:
        check_writable(arguments.out)
    elif arguments.plot is None:
        raise UsageError("--profile measures nothing; say with --plot FILE where to draw it.")
    else:
        profiles.read_profile(arguments.profile)
    if arguments.plot is not None:
        check_plot(arguments.plot)


def shipped(name: str | None) -> profiles.Profile:
    """The profile to compare with: the named one, that of the GPU here, or the default."""
    if name is not None:
        return profiles.read_profile(name)
    gpu = torch.cuda.get_device_name().lower() if torch.cuda.is_available() else ""
    own = next((one for one in profiles.PROFILES if one in gpu), Options().profile)
    return profiles.read_profile(own)


def changes_table(old: profiles.Profile, new: profiles.Profile) -> Table:
    """A row for each figure: as it was, as measured, and how many times as much."""
    table = Table(box=None)
    table.add_column("figure", no_wrap=True)
    for title in (old.name, f"here, {new.name}", "times"):
        table.add_column(title, justify="right", no_wrap=True)
    was, now = old.figures(), new.figures()
    for name in dict.fromkeys((*was, *now)):
        a, b = was.get(name), now.get(name)
        table.add_row(name, figure_text(a), figure_text(b), ratio_text(a, b))
    return table


def figure_text(figure: float | None) -> str:
    """`9e+11`, or `none`."""
    return "none" if figure is None else f"{figure:.3g}"


def ratio_text(old: float | None, new: float | None) -> str:
    """`0.04`; nothing where there is no ratio."""
    return f"{new / old:.2g}" if old and new is not None and new / old < math.inf else ""


def accelerator() -> str:
    """Type of this machine's accelerator, cpu where it has none."""
    return next((kind for kind in ("npu", "cuda") if device_count(kind)), "cpu")


def processes(device: str, asked: int) -> int:
    """Processes to measure with: no more than devices."""
    return asked if device == "cpu" else max(1, min(asked, device_count(device)))


def measure_device(device: str, ranks: int, out: Path) -> None:
    """Write the figures that `ranks` processes measure together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    multiprocessing.spawn(measure_rank, (device, ranks, port, str(out)), nprocs=ranks)


def measure_rank(rank: int, device: str, ranks: int, port: int, out: str) -> None:
    """One process of `measure_device`."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    if device != "cpu":
        getattr(torch, device).set_device(rank)
    dist.init_process_group(BACKENDS[device], rank=rank, world_size=ranks)
    try:
        profile = measured_profile(device, Path(out).stem)
        if rank == 0:
            Path(out).write_text(profile.to_json() + "\n")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def step_times(profile: str, ranks: int) -> Figure:
    """Curves of the estimated milliseconds of a step, with and without FlashComm, and the crossing.

    Raises:
        ImportError: matplotlib, the extra `plot`, is not installed.
    """
    from matplotlib.figure import Figure

    figures, sizes = profiles.read_profile(profile), Sizes()
    graph = layers_graph(sizes, 1, ranks)
    figure = Figure(figsize=(8, 5))
    axis = figure.subplots()
    with assuming(Group(GROUP, ranks, 0)):

        def seconds(graph_now: object) -> cost.Seconds:
            return lambda tokens: sizes.layers * cost.estimate(graph_now, figures, tokens).seconds  # type: ignore[arg-type]

        before = seconds(after_passes(graph, Options(profile=profile), ranks, False))
        apart = Options(profile=profile, matmul_reduce_scatter=False)
        after = seconds(after_passes(graph, apart, ranks, True))
        for name, curve in (("all_reduce", before), ("FlashComm", after)):
            axis.plot(CURVE, [curve(tokens) * 1e3 for tokens in CURVE], marker="o", label=name)
        crossing = cost.crossing(before, after)
    if crossing is not None:
        axis.axvline(crossing, color="gray", linestyle="--", label=f"crossing: {crossing} tokens")
    title = f"Qwen3-32B-W8A8, tp {ranks}, {figures.name}"
    axis.set(
        xscale="log", yscale="log", xlabel="tokens", ylabel="estimated ms per step", title=title
    )
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
