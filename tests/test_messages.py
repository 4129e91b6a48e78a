"""What ranks leave in the store is read as text that anybody may have written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from ascend_passes.distributed import mailbox, presence
from ascend_passes.distributed.mailbox import AgreementError

PARTY, SPOT = (0,), "0/0"


@pytest.fixture
def store() -> Iterator[dist.Store]:
    """A process group of one rank, whose store is real."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = dist.TCPStore("127.0.0.1", port, 1, is_master=True, timeout=timedelta(seconds=30))
    dist.init_process_group("gloo", store=made, rank=0, world_size=1)
    yield dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()


def test_what_was_posted_is_read(store: dist.Store) -> None:
    mailbox.post(PARTY, SPOT, "a topic", [["a"], ["b"]])
    assert mailbox.absent(PARTY, SPOT) == []
    assert mailbox.read(PARTY, SPOT, 0, 2, mailbox.texts) == ("a topic", [["a"], ["b"]])


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"not json \x1b[31m",
        b"7",
        b"null",
        b"{}",
        b"[1]",
        b'["a", "b", "c"]',
        b'[3, [["a"]]]',
        b'["topic", {}]',
        b'["topic", []]',
        b'["topic", ["text"]]',
        b'["topic", [[1]]]',
        b"[" * 100_000,
        b'["topic", [["' + b"a" * mailbox.LIMIT + b'"]]]',
    ],
    ids=range(15),
)
def test_rubbish_is_one_line(store: dist.Store, message: bytes) -> None:
    store.set(f"{mailbox.address(PARTY, SPOT)}/0", message)
    with pytest.raises(AgreementError) as caught:
        mailbox.read(PARTY, SPOT, 0, 1, mailbox.texts)
    text = str(caught.value)
    assert "rank 0 in the store cannot be read" in text
    assert text.isprintable() and len(text) < 300


@pytest.mark.parametrize("message", [b"7", b'[0, "text"]', b'["x", ["why", []]]', b"\xff"])
def test_a_closing_that_cannot_be_read_still_closes(store: dist.Store, message: bytes) -> None:
    store.set(mailbox.address(PARTY, "0/closed"), message)
    found = mailbox.closing(PARTY, 0)
    assert found is not None and "cannot be read" in found.why


def test_the_first_reason_is_heard(store: dist.Store) -> None:
    assert mailbox.closing(PARTY, 0) is None
    mailbox.close(PARTY, 0, "first", [1])
    mailbox.close(PARTY, 0, "second", [])
    assert mailbox.closing(PARTY, 0) == mailbox.Closing(0, "first", (1,))


def test_an_error_commands_no_terminal() -> None:
    text = str(AgreementError("red \x1b[31m, bell \a,\nand long " + "x" * 2 * mailbox.SHOWN))
    assert "\x1b" not in text and "\a" not in text and "\n" in text and r"\x1b[31m" in text
    assert len(text) < mailbox.SHOWN + 100


def test_a_process_tells_where_it_is_until_it_ends(store: dist.Store) -> None:
    presence.announce()
    found = presence.ask(0)
    assert isinstance(found, presence.Whereabouts) and found.entered == {"0": [0]}
    host, _, _ = json.loads(store.get(presence.address_key(0)))
    with socket.socket() as refused:
        refused.bind((host, 0))  # bound, but nobody listens
        store.set(presence.address_key(7), json.dumps([host, refused.getsockname()[1], "password"]))
        assert presence.ask(7) is presence.Presence.GONE
    assert presence.ask(8) is presence.Presence.UNKNOWN


def test_nobody_is_told_without_the_password(store: dist.Store) -> None:
    presence.announce()
    host, port, password = json.loads(store.get(presence.address_key(0)))
    store.set(presence.address_key(7), json.dumps([host, port, "0" * len(password)]))
    assert presence.ask(7) is presence.Presence.UNKNOWN


@pytest.mark.parametrize("address", [b"", b"7", b"[1, 2]", b'["host", "port", ""]', b"[" * 100_000])
def test_an_address_that_makes_no_sense_is_none(store: dist.Store, address: bytes) -> None:
    store.set(presence.address_key(7), address)
    assert presence.ask(7) is presence.Presence.UNKNOWN


def test_a_forked_process_keeps_no_port_open(store: dist.Store) -> None:
    """Else a rank whose data loader lives on would never be seen to have died."""
    presence.announce()
    child = os.fork()
    if child == 0:
        os._exit(int(presence._listener is not None))
    assert os.waitpid(child, 0)[1] == 0
    assert isinstance(presence.ask(0), presence.Whereabouts)
