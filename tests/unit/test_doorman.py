"""The HTTP server of --metrics: what it makes, and whom it lets in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.daemon import doorman
from vfs_volatile.daemon.doorman import CONNECTIONS, Doorman
from vfs_volatile.errors import UserError


@pytest.fixture
def made() -> list[bytes]:
    """The texts that have been made."""
    return []


@pytest.fixture
def server(made: list[bytes]) -> Iterator[Doorman]:
    def make() -> bytes:
        made.append(b"text %d" % len(made))
        return made[-1]

    server = Doorman(("127.0.0.1", 0), "text/plain", make)
    yield server
    server.shutdown()
    server.server_close()


def connect(server: Doorman) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def ask(server: Doorman, request: bytes = b"GET / HTTP/1.0\r\n\r\n") -> bytes:
    with connect(server) as client:
        client.sendall(request)
        return client.makefile("rb").read()


def test_a_text_is_used_as_long_as_making_it_is_dear(
    server: Doorman, made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorman, "_SHARE", 0)
    assert [ask(server)[-6:] for _ in range(2)] == [b"text 0", b"text 1"]
    monkeypatch.setattr(doorman, "_SHARE", 1e12)
    assert [ask(server)[-6:] for _ in range(3)] == [b"text 2"] * 3
    assert len(made) == 3


def test_only_so_many_are_inside(server: Doorman) -> None:
    inside = [connect(server) for _ in range(CONNECTIONS)]
    try:
        with connect(server) as late:
            assert late.recv(1) == b"", "turned away at once"
        inside[0].sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert inside[0].makefile("rb").read().endswith(b"text 0")
    finally:
        for client in inside:
            client.close()


@pytest.mark.parametrize("request_", [b"POST / HTTP/1.0\r\n\r\n", b"\xff\r\n", b"GET\r\n\r\n"])
def test_nothing_but_get_is_answered(
    server: Doorman, made: list[bytes], request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert b"text" not in ask(server, request_).partition(b"\r\n\r\n")[2] or not made
    assert not made
    assert capfd.readouterr().err == ""


def test_a_head_is_read_only_so_far(server: Doorman) -> None:
    """Eight clients could have a hundred megabytes read."""
    request = b"GET / HTTP/1.0\r\na: ".ljust(16 << 10, b"b")
    assert ask(server, request).endswith(b"text 0")


def test_one_that_nobody_ended_makes_room(server: Doorman, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no memory for its thread to begin with it."""
    monkeypatch.setattr(doorman, "CONNECTION_SECONDS", 0.1)
    monkeypatch.setattr(doorman, "start_job", lambda *_: None)
    forgotten = [connect(server) for _ in range(CONNECTIONS)]
    try:
        assert eventually(lambda: not server._inside)
    finally:
        for client in forgotten:
            client.close()
    monkeypatch.undo()
    assert ask(server).endswith(b"text 0")


def test_without_a_thread_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(UserError, match="no thread can be started"):
        Doorman(("127.0.0.1", 0), "text/plain", bytes)
