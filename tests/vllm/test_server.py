"""The OpenAI server with our backend."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 600


@pytest.fixture(scope="module")
def address(
    python: Path, environment: dict[str, str], checkpoints: Any, tmp_path_factory: Any
) -> Iterator[tuple[str, Path]]:
    """Address of a running server, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", checkpoints(), "--served-model-name", "small", "--dtype", "float32"),
        *("--max-model-len", "128", "--gpu-memory-utilization", "0.1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--compilation-config", '{"backend": "ascend_dense", "mode": "VLLM_COMPILE"}'),
    ]
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}", log
    finally:
        server.terminate()
        server.wait(30)


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"the server did not come up:\n{log.read_text()}")


def test_a_completion(address: tuple[str, Path]) -> None:
    url, log = address
    body = {"model": "small", "prompt": [5, 6, 7, 8], "max_tokens": 4, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == 4
    lines = [line for line in log.read_text().splitlines() if "ascend_dense:" in line]
    assert any("4 add_rms_norm" in line for line in lines)
    assert any("WARNING" in line and "no mode VLLM_COMPILE" in line for line in lines)
