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
import torch
from transformers import AutoTokenizer

from ascend_passes.models.load import load_model
from ascend_passes.models.reference import reference_logits
from tests.vllm.test_models import LAYERS, counts, model_lines

PROMPT, TOKENS = [5, 6, 7, 8], 8
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


def exact_tokens(checkpoint: str, tokens: list[int]) -> list[int]:
    """What a checkpoint chooses behind the prompt and each of the tokens, in float64."""
    model = load_model(Path(checkpoint))
    logits = reference_logits(model, torch.tensor([PROMPT]), torch.tensor([tokens]))
    chosen: list[int] = logits[0, len(PROMPT) - 1 :].argmax(-1).tolist()
    return chosen[: len(tokens)]


def test_a_completion_is_that_of_the_model_in_float64(
    address: tuple[str, Path], checkpoints: Any
) -> None:
    url, log = address
    body = {"model": "small", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    body |= {"ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    (choice,) = answer["choices"]
    tokens = choice["token_ids"]
    assert len(tokens) == TOKENS and tokens == exact_tokens(checkpoints(), tokens)
    assert choice["text"] == AutoTokenizer.from_pretrained(checkpoints()).decode(tokens)
    lines = [line for line in log.read_text().splitlines() if "ascend_dense:" in line]
    (line,) = model_lines(lines)
    assert counts(line)["add_rms_norm"] == 2 * LAYERS
    assert any("WARNING" in line and "no mode VLLM_COMPILE" in line for line in lines)
