"""Whether another rank is alive and where it is: each process of distributed graphs can be asked.

A process listens on a port of the address at which it reaches the group's store, and a thread that
sleeps until somebody connects answers. The kernel takes connections for as long as the process
exists and refuses them once it is gone: so one that is stopped in a debugger, or busy for minutes,
is told apart from one that died. Where ranks cannot reach each other in this way nothing is known,
and they wait as long as `exchange.PATIENCE`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hmac
import json
import os
import secrets
import socket
import threading
from typing import Any

import torch
import torch.distributed as dist
from torch._dynamo.callback import callback_handler
from torch.distributed import distributed_c10d

from ascend_passes.distributed.whereabouts import Failure, Whereabouts, whereabouts

SECONDS = 1.0
"""How long one question may take."""
LIMIT = 2**20
"""Bytes of an answer that are read."""
QUEUE = 1024
"""Connections that the kernel keeps for a process that does not answer at the moment."""


class Presence(enum.Enum):
    """What is known of a rank that did not say where it is."""

    GONE = "its process has ended"
    UNKNOWN = "it does not answer"


_lock = threading.Lock()
_listener: socket.socket | None = None
_address: list[Any] = []
_reached: set[tuple[str, int]] = set()
agreed_at = 0.0
"""When this process last agreed with others, by the clock of `whereabouts`."""


def agreed(at: float) -> None:
    """Failures before this time are no longer told."""
    global agreed_at
    agreed_at = at


def address_key(rank: int) -> str:
    """Where in the store the address of a rank is."""
    return f"ascend_passes/address/{rank}"


@torch.compiler.disable  # type: ignore[untyped-decorator]
def announce(*_: Any) -> None:
    """Make this process answer, and say in the store how it is reached; nothing if it cannot be.

    Dynamo calls it before each compilation too, so that a rank which fails in its first can be
    asked, and holds a lock meanwhile. It must not compile this: a backward graph is compiled while
    the model's code is being traced, and would wait for the lock forever. Errors are nobody's
    business: who needs the store will meet them.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    with contextlib.suppress(Exception), _lock:
        store = distributed_c10d._get_default_store()
        address = _address or listen(store)
        if address:
            store.set(address_key(dist.get_rank()), json.dumps(address))


class Lasting(list[Any]):
    """Callbacks of which ours stays when Dynamo is reset: the next compilation may be the first
    that fails."""

    def clear(self) -> None:
        """Remove the others."""
        super().clear()
        self.append(announce)


def watch_compilations() -> None:
    """Have Dynamo call `announce` before each compilation."""
    if not isinstance(callback_handler.start_callbacks, Lasting):
        others = [one for one in callback_handler.start_callbacks if one is not announce]
        callback_handler.start_callbacks = Lasting([*others, announce])


def listen(store: Any) -> list[Any]:
    """Open the port and start the thread; the address and the password, or nothing."""
    global _listener, _address
    here = own_address(store)
    if not here:
        return []
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    _listener = socket.socket(family, socket.SOCK_STREAM)
    _listener.bind((here, 0))
    _listener.listen(QUEUE)
    password = secrets.token_hex(16)
    _address = [here, _listener.getsockname()[1], password]
    threading.Thread(
        target=serve, args=(_listener, password), name="ascend_passes", daemon=True
    ).start()
    return _address


def own_address(store: Any) -> str:
    """The address of this machine towards that of the store; "" for a store without one."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    host, port = getattr(store, "host", ""), getattr(store, "port", 0)
    if not host or not port:
        return ""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def serve(listener: socket.socket, password: str) -> None:
    """Answer whoever knows the password, one after the other."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with contextlib.suppress(Exception), connection:
            connection.settimeout(SECONDS)
            if hmac.compare_digest(received(connection, len(password)), password.encode()):
                told = dataclasses.asdict(whereabouts(agreed_at))
                connection.sendall(json.dumps(told).encode()[:LIMIT])


def received(connection: socket.socket, size: int) -> bytes:
    """The next bytes of a connection, fewer where it ends before."""
    parts = b""
    while len(parts) < size and (part := connection.recv(min(size - len(parts), 65536))):
        parts += part
    return parts


def forget_in_child() -> None:
    """A forked process is no rank: the port must be refused as soon as its parent is gone."""
    global _listener, _lock
    _lock = threading.Lock()
    if _listener is not None:
        _listener.close()
        _listener = None
        _address.clear()


os.register_at_fork(after_in_child=forget_in_child)
watch_compilations()


def ask(rank: int) -> Whereabouts | Presence:
    """Where another rank is.

    A refused connection counts as the end of a process only on this machine, or where one was
    made before: elsewhere a firewall may be what refuses.
    """
    address = address_of(rank)
    if address is None:
        return Presence.UNKNOWN
    host, port, password = address
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as connection:
            _reached.add((host, port))
            connection.sendall(password.encode())
            return understood(received(connection, LIMIT))
    except ConnectionRefusedError:
        known = (host, port) in _reached or (_address and host == _address[0])
        return Presence.GONE if known else Presence.UNKNOWN
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Presence.UNKNOWN


def address_of(rank: int) -> tuple[str, int, str] | None:
    """What `announce` has put into the store, None where it did not or where it makes no sense."""
    store = distributed_c10d._get_default_store()
    if not store.check([address_key(rank)]):
        return None
    try:
        host, port, password = json.loads(store.get(address_key(rank)))
        return str(host), int(port), str(password)
    except (ValueError, TypeError, RecursionError):
        return None


def understood(answer: bytes) -> Whereabouts:
    """The answer of `serve`.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    told = json.loads(answer)
    failures = tuple(
        Failure(*(str(one[name]) for name in ("function", "why", "number")))
        for one in told["failures"]
    )
    return Whereabouts(
        str(told["place"]),
        tuple(map(str, told["compiling"])),
        tuple(map(str, told["compiled"])),
        failures,
        {str(ranks): [int(n) for n in counts] for ranks, counts in told["entered"].items()},
    )


announce()  # a rank that only runs uncompiled calls nothing of this package later
