"""A page in headless Chromium, asked through its debugging pipe: no driver is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 60
"""Seconds until a browser on a busy machine counts as one that does not answer."""


class Browser:
    """One page; what its console says and what it asks the network for is kept."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += [f"--user-data-dir={folder}", "--no-first-run", "--window-size=1400,1000"]

        def connect() -> None:  # the browser reads descriptor 3 and writes 4
            held = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(held[0], 3)
            os.dup2(held[1], 4)

        self.process = subprocess.Popen(
            [str(PROGRAM), *flags, "about:blank"],
            preexec_fn=connect,
            pass_fds=(3, 4, ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self.write, self.read = ours[1], theirs[0]
        os.set_blocking(self.read, False)
        self.number, self.rest = 0, b""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = ""
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.ask(f"{domain}.enable")

    session = ""

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol."""
        self.number += 1
        command: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for message in self.messages():
                if message.get("id") == self.number:
                    assert "error" not in message, message
                    return message["result"]
            time.sleep(0.005)
        raise TimeoutError(f"the browser does not answer {method}")

    def messages(self) -> list[dict[str, Any]]:
        """What has come since; events are noted."""
        try:
            while part := os.read(self.read, 1 << 16):
                self.rest += part
        except BlockingIOError:
            pass
        *whole, self.rest = self.rest.split(b"\0")
        found = [json.loads(one) for one in whole]
        for message in found:
            self.note(message.get("method", ""), message.get("params", {}))
        return found

    def note(self, method: str, told: dict[str, Any]) -> None:
        """Keep errors and requests."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(told["args"])[:500])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, path: Path, fragment: str = "") -> float:
        """Open a file; the seconds until its script has drawn it."""
        start = time.monotonic()
        self.ask("Page.navigate", url=path.as_uri() + fragment)
        while not self.value(
            "document.readyState === 'complete' && !!document.querySelector('h2')"
        ):
            assert time.monotonic() - start < PATIENCE, self.complaints
            time.sleep(0.01)
        return time.monotonic() - start

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def dark(self, wanted: bool) -> None:
        """What the page is told that its reader likes."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """The page as it is seen, as a PNG file."""
        path.write_bytes(b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.write)
        os.close(self.read)
