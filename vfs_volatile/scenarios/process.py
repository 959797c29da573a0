"""A process of a scenario: ``python -m vfs_volatile.scenarios.process SOCKET DIR NAME [FILES]``.

It connects to SOCKET, says ``{"name": NAME, "pid": PID}``, and from then on answers each line of
JSON, ``{"verb": .., "arguments": ..}``, by ``{"result": ..}`` or, if the scenario makes no sense,
``{"error": ..}``. A forked child, or the program after exec, connects anew. When the connection
ends, so does the process. FILES is a JSON table of open files, handed on over exec.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from typing import Any, NoReturn

from vfs_volatile.scenarios import address
from vfs_volatile.scenarios.acts import OK, Acts, UnknownNameError
from vfs_volatile.scenarios.grammar import SYSTEM, Arguments
from vfs_volatile.scenarios.memory import never_dump_core
from vfs_volatile.scenarios.stage import Stage


class Connection:
    """Lines of JSON to and from the player of the scenario."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._open(name)

    def reopen(self, name: str) -> None:
        """In a forked child: a connection of its own."""
        self._stream.close()
        self._open(name)

    def receive(self) -> dict[str, Any] | None:
        """The next line; None at the end."""
        line = self._stream.readline()
        return json.loads(line) if line else None

    def send(self, **message: object) -> None:
        self._stream.write(json.dumps(message).encode() + b"\n")
        self._stream.flush()

    def _open(self, name: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            address.connect(connection, self._path)
            self._stream = connection.makefile("rwb")
        self.send(name=name, pid=os.getpid())


class Process:
    """One actor."""

    def __init__(self, path: str, directory: str, name: str, files: dict[str, int]) -> None:
        self._command = [path, directory]
        self._name = name
        self._acts: Acts | Stage
        self._acts = Stage(directory) if name == SYSTEM else Acts(directory, name.lower(), files)
        self._connection = Connection(path, name)

    def serve(self) -> None:
        """Do what is asked, until the connection ends."""
        while (message := self._connection.receive()) is not None:
            arguments = {key: _value(value) for key, value in message["arguments"].items()}
            self._answer(message["verb"], arguments)

    def _answer(self, verb: str, arguments: Arguments) -> None:
        try:
            match verb:
                case "fork":
                    self._fork(str(arguments["ACTOR"]))
                case "exec":
                    self._exec()
                case "exit":
                    os._exit(0)
                case _:
                    self._connection.send(result=self._acts.do(verb, arguments))
        except UnknownNameError as error:
            self._connection.send(error=f"{self._name} {error}")
        except OSError as error:
            self._connection.send(result=errno.errorcode.get(error.errno or 0, str(error)))

    def _fork(self, name: str) -> None:
        assert isinstance(self._acts, Acts)
        if os.fork():
            self._connection.send(result=OK)
            return
        self._name = name
        self._acts.become(name.lower())
        self._connection.reopen(name)

    def _exec(self) -> NoReturn:
        assert isinstance(self._acts, Acts)
        for fd in self._acts.files.values():
            os.set_inheritable(fd, True)
        files = json.dumps(self._acts.files)
        module = ["-m", "vfs_volatile.scenarios.process"]
        os.execv(sys.executable, [sys.executable, *module, *self._command, self._name, files])


def _value(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value


def main(path: str, directory: str, name: str, files: str = "{}") -> None:
    """Run one actor to its end."""
    never_dump_core()
    Process(path, directory, name, json.loads(files)).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
