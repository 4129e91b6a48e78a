"""vLLM's server with our backend under load, beside plain vLLM: tokens, hangs, memory, processor.

    .venv-vllm/bin/python -m tests.bench.vllm_load [--requests 14000] [--clients 32]

Both servers run at once and are asked in turns, round by round, by clients that mix lengths,
streams and requests that are given up after the first token. What plain vLLM answers to each
prompt alone is what both have to answer. Ends with 1 where a token is wrong, a request has no end,
memory grows beyond its first rounds, or our server takes over 1.05 of plain vLLM's processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).parents[2]
OURS, PLAIN = "ascend_dense", "plain"
SERVERS = {
    OURS: ["--compilation-config", '{"backend": "ascend_dense"}'],
    PLAIN: ["--enforce-eager"],
}
ROUND = 1000
"""Requests between two servers' turns."""
PROMPTS, LONGEST, MOST_TOKENS = 300, 500, 32
TOKENS = (1, 2, 8, 16, MOST_TOKENS)
KINDS = ("whole", "stream", "stream", "given up", "one token")
KEPT = 2.0
"""Seconds for which an idle connection is used again; the servers close theirs after five, and who
writes just then gets no answer."""
PATIENCE = 120.0
"""Seconds after which a request counts as one without an end."""
START = 600.0
"""Seconds for a server to come up."""
PROCESSOR = 1.05
GROWTH = 1.03
"""Of the memory half way through: what the workers touch of their cache is touched by then."""


@dataclass(frozen=True)
class Request:
    """One request of a client."""

    prompt: tuple[int, ...]
    tokens: int
    kind: str


@dataclass
class Server:
    """A running server, and what was seen of it."""

    process: subprocess.Popen[bytes]
    address: str
    outcomes: Counter[str] = field(default_factory=Counter)
    processor: list[float] = field(default_factory=list)
    """Seconds of the process and its children, by round."""
    memory: list[float] = field(default_factory=list)
    """MiB resident after each round."""
    wall: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=14000, help="to each server")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=random.randrange(2**20))
    settings = parser.parse_args()
    print(f"seed {settings.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        servers = {name: start(name, words, Path(folder)) for name, words in SERVERS.items()}
        try:
            asyncio.run(load(servers, settings))
        finally:
            for server in servers.values():
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(60)
    return verdict(servers)


def start(name: str, words: list[str], folder: Path) -> Server:
    """Start a server on a small float32 Qwen3."""
    from tests.vllm.checkpoints import make

    model = folder / "model"
    if not model.exists():
        make(model, "qwen3", "f32", max_position_embeddings=1024)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", "small", "--dtype", "float32", "--max-model-len", "640"),
        *("--max-num-seqs", "32", "--max-num-batched-tokens", "512", "--port", str(port)),
        *("--gpu-memory-utilization", "0.1", "--host", "127.0.0.1", *words),
    ]
    variables = {
        **os.environ,
        **{"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"},
        **{"VLLM_CACHE_ROOT": str(folder / name), "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        **{"OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
    }
    log = (ROOT / "build" / f"vllm_load_{name}.log").open("w")
    process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
    return Server(process, f"http://127.0.0.1:{port}")


async def load(servers: dict[str, Server], settings: argparse.Namespace) -> None:
    """Ask all servers in turns."""
    draw = random.Random(settings.seed)
    lengths = [round(LONGEST ** draw.random()) for _ in range(PROMPTS)]
    prompts = [tuple(draw.randrange(3, 250) for _ in range(length)) for length in lengths]
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT)
    async with aiohttp.ClientSession(connector=connector) as session:
        for server in servers.values():
            await ready(session, server)
        alone = [Request(prompt, MOST_TOKENS, "whole") for prompt in prompts]
        answers = [await answer(session, servers[PLAIN], request) for request in alone]
        expected = dict(zip(prompts, answers, strict=True))
        await ask(session, servers[OURS], alone, expected, 1)  # so that both have been asked before
        servers[OURS].processor.clear()
        for number in range(-(-settings.requests // ROUND)):
            requests = [drawn(draw, prompts) for _ in range(ROUND)]
            for name, server in servers.items():
                await ask(session, server, requests, expected, settings.clients)
                print(number, name, line(server), flush=True)


async def ready(session: aiohttp.ClientSession, server: Server) -> None:
    """Wait for a server.

    Raises:
        RuntimeError: it has ended, or does not come up.
    """
    end = time.monotonic() + START
    while time.monotonic() < end and server.process.poll() is None:
        try:
            async with session.get(f"{server.address}/health") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(1)
    raise RuntimeError("a server did not come up; its log is build/vllm_load_*.log")


def drawn(draw: random.Random, prompts: list[tuple[int, ...]]) -> Request:
    """A request."""
    kind = draw.choice(KINDS)
    return Request(draw.choice(prompts), 1 if kind == "one token" else draw.choice(TOKENS), kind)


async def ask(
    session: aiohttp.ClientSession,
    server: Server,
    requests: list[Request],
    expected: dict[tuple[int, ...], list[int]],
    clients: int,
) -> None:
    """A round: so many clients work through the requests."""
    waiting: Iterator[Request] = iter(requests)

    async def client() -> None:
        for request in waiting:
            wanted = expected[request.prompt][: request.tokens]
            server.outcomes[await outcome(session, server, request, wanted)] += 1

    busy, began = processor_seconds(server), time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    server.wall.append(time.monotonic() - began)
    server.processor.append(processor_seconds(server) - busy)
    server.memory.append(sum(one.memory_info().rss for one in processes(server)) / 2**20)


async def outcome(
    session: aiohttp.ClientSession, server: Server, request: Request, wanted: list[int]
) -> str:
    """right, wrong, or what else became of a request."""
    try:
        found = await asyncio.wait_for(answer(session, server, request), PATIENCE)
    except TimeoutError:
        return "no end"
    except (aiohttp.ClientError, RuntimeError) as error:
        return type(error).__name__
    given_up = request.kind == "given up" and found == wanted[: len(found)]
    return "right" if found == wanted or given_up else "wrong"


async def answer(session: aiohttp.ClientSession, server: Server, request: Request) -> list[int]:
    """The tokens of an answer; those up to where it is given up."""
    streams = request.kind in ("stream", "given up")
    body = {"model": "small", "prompt": list(request.prompt), "max_tokens": request.tokens}
    body |= {"temperature": 0, "ignore_eos": True, "return_token_ids": True, "stream": streams}
    async with session.post(f"{server.address}/v1/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {await response.text()}")
        if not streams:
            return list((await response.json())["choices"][0]["token_ids"])
        found: list[int] = []
        async for tokens in chunks(response):
            found += tokens
            if request.kind == "given up":
                response.close()
                return found
        return found


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[list[int]]:
    """The tokens of each event of a stream."""
    async for raw in response.content:
        text = raw.decode().strip().removeprefix("data: ")
        if text and text != "[DONE]":
            choices: list[dict[str, Any]] = json.loads(text)["choices"]
            yield list(choices[0].get("token_ids") or ())


def processes(server: Server) -> list[psutil.Process]:
    """A server's process and its children."""
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def processor_seconds(server: Server) -> float:
    """Of a server's processes so far."""
    return sum(sum(one.cpu_times()[:2]) for one in processes(server))


def line(server: Server) -> str:
    """The last round in words."""
    told = ", ".join(f"{count} {word}" for word, count in sorted(server.outcomes.items()))
    return f"{told}; {server.processor[-1]:.2f} s of a core, {server.memory[-1]:.0f} MiB"


def verdict(servers: dict[str, Server]) -> int:
    """0 where all bars hold; prints a table."""
    ratios = [a / b for a, b in zip(*(servers[n].processor for n in (OURS, PLAIN)), strict=True)]
    whole = sum(servers[OURS].processor) / sum(servers[PLAIN].processor)
    print("| server | requests | not right | MiB after the first, half, last round | core s |")
    print("|---|---|---|---|---|")
    for name, server in servers.items():
        total, first = sum(server.outcomes.values()), server.memory[0]
        half, last = server.memory[len(server.memory) // 2], server.memory[-1]
        print(
            f"| {name} | {total} | {total - server.outcomes['right']} "
            f"| {first:.0f}, {half:.0f}, {last:.0f} | {sum(server.processor):.1f} |"
        )
    middle = statistics.median(ratios)
    print(f"processor time {whole:.3f} of plain vLLM's; rounds' median {middle:.3f}")
    ours = servers[OURS]
    bad = sum(s.outcomes.total() - s.outcomes["right"] for s in servers.values())
    grown = ours.memory[-1] > GROWTH * ours.memory[len(ours.memory) // 2]
    return int(bad > 0 or grown or whole > PROCESSOR)


if __name__ == "__main__":
    sys.exit(main())
