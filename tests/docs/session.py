"""Where the examples of one page run: a directory, a shell and a Python of their own.

They are processes of their own, so that a SIGBUS ends an example and not pytest. (Sybil and
pytest-examples run Python within pytest, and have no consoles.)
"""

from __future__ import annotations

import contextlib
import doctest
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.docs.pages import Block, PageError, read_console
from tests.support.mount import ROOT, command
from tests.support.mountinfo import abort, detach, mounts_below
from tests.support.waiting import PATIENCE
from tests.support.watchdog import Watchdog

BLOCK_SECONDS = PATIENCE
PAGE_SECONDS = 250.0

_ANYTHING = doctest.ELLIPSIS | doctest.REPORT_NDIFF
_COMPILER = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pthread"]

_PYTHON = """
import os, sys, traceback
names = {"__name__": "__main__"}
answers = int(sys.argv[1])
os.set_inheritable(answers, False)
orders = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for line in orders:
    path, output = line.rstrip("\\n").split("\\t")
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(fd, 1), os.dup2(fd, 2), os.close(fd)
    code = 0
    try:
        exec(compile(open(path).read(), path, "exec"), names)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        code = 1
    sys.stdout.flush()
    os.write(answers, b"%d\\n" % code)
"""
"""The page's Python: runs the file of each line in one namespace, and answers 0 or 1."""


_SHELL = """
while IFS=$'\\t' read -r script output; do
    eval '. "$script" </dev/null >"$output" 2>&1 '"$1"'>&-'
    echo $? >&"$1"
done
"""
"""The page's shell: runs the file of each line as part of itself, and answers its exit code."""


class _Interpreter:
    """A process that is given scripts and answers each with an exit code, on a pipe of its own,
    whose number is its last argument.

    What a script prints goes to a file: what it left in the background keeps no pipe open.
    """

    def __init__(self, arguments: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self._answers, theirs = os.pipe()
        self.process = subprocess.Popen(
            [*arguments, str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=cwd,
            env=environment,
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)

    def ask(self, line: str, seconds: float) -> int | None:
        """The exit code of one script; None when it ended the interpreter. Raises TimeoutError."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        deadline = time.monotonic() + seconds
        answer = b""
        while not answer.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError
            if not (chunk := os.read(self._answers, 64)):
                return None
            answer += chunk
        return int(answer)

    def close(self) -> None:
        """End it and all that it started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._answers)


class Session:
    """Runs blocks in order; leaves nothing mounted, and nothing running, at its end."""

    def __init__(self, work: Path, watchdog: Watchdog) -> None:
        """Start below ``work``, an empty directory."""
        self._work = work
        self._watchdog = watchdog
        self.directory = work / "here"
        """Where the reader of the page is."""
        self.directory.mkdir()
        self._scripts = 0
        self._printed: str | None = None
        environment = self._environment()
        self._shell = _Interpreter(
            ["bash", "--noprofile", "--norc", "-c", _SHELL, "bash"],
            self.directory,
            environment,
        )
        self._python = _Interpreter([sys.executable, "-c", _PYTHON], self.directory, environment)
        watchdog.arm(work, self._shell.process.pid, PAGE_SECONDS, work / "evidence.txt")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._python.close()
            self._shell.close()
            self._unmount()
        finally:
            self._watchdog.disarm(self._work)

    def run(self, block: Block) -> None:
        """Do what the block asks for. Raises PageError when it did not go as the page says."""
        if block.file is not None:
            (self.directory / block.file).write_text(block.text)
            return
        match block.language:
            case "console":
                for line, printed in read_console(block):
                    self._check(block, line, printed)
            case "sh":
                self._must(block, self._in_shell(block, f"set -e\n{block.text}\nset +e\n"))
            case "python":
                self._must(block, self._in_python(block))
            case "c":
                self._must(block, self._in_c(block))
            case "output":
                if self._printed is None:
                    raise PageError(f"{block.place}: nothing that prints stands before it")
                _compare(block, "the block before", block.text, self._printed)

    def _check(self, block: Block, line: str, printed: str) -> None:
        code, output = self._in_shell(block, line)
        _compare(block, line, printed, output)
        if code is None or (code and not printed):
            raise PageError(f"{block.place}: $ {line}\nended with {code}")

    def _must(self, block: Block, outcome: tuple[int | None, str]) -> None:
        code, self._printed = outcome
        if code != 0:
            how = "ended the interpreter" if code is None else "failed"
            raise PageError(f"{block.place}: this {how}:\n{block.text}\n{self._printed}")

    def _in_shell(self, block: Block, text: str) -> tuple[int | None, str]:
        return self._ask(self._shell, block, text, "sh")

    def _in_python(self, block: Block) -> tuple[int | None, str]:
        return self._ask(self._python, block, block.text, "py")

    def _in_c(self, block: Block) -> tuple[int | None, str]:
        source = self._script(block.text, "c")
        program = source.with_suffix("")
        what = f"-o {program}" if "main(" in block.text else "-fsyntax-only"
        compiling = f"{' '.join(_COMPILER)} $(vfs-volatile cflags) {what} {source}"
        running = str(program) if "main(" in block.text else "true"
        return self._in_shell(block, f"{compiling} && {running}")

    def _ask(
        self, interpreter: _Interpreter, block: Block, text: str, suffix: str
    ) -> tuple[int | None, str]:
        """(exit code, what was printed) of one script."""
        script = self._script(text, suffix)
        output = script.with_suffix(".out")
        try:
            code = interpreter.ask(f"{script}\t{output}", BLOCK_SECONDS)
        except TimeoutError:
            raise PageError(f"{block.place}: no end after {BLOCK_SECONDS:.0f} s:\n{text}") from None
        return code, output.read_text(errors="replace") if output.exists() else ""

    def _script(self, text: str, suffix: str) -> Path:
        self._scripts += 1
        script = self._work / f"{self._scripts}.{suffix}"
        script.write_text(text)
        return script

    def _environment(self) -> dict[str, str]:
        """As after ``make setup`` and ``. .venv/bin/activate``, in an empty directory."""
        programs = self.directory / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, words in {
            "vfs-volatile": command(),
            "python": [sys.executable],
            "pytest": [sys.executable, "-m", "pytest"],
        }.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
            (programs / name).chmod(0o755)
        (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
        (self._work / "tmp").mkdir()
        return {
            **{name: os.environ[name] for name in ("LANG", "USER") if name in os.environ},
            "HOME": str(self.directory),
            "NO_COLOR": "1",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "vfs_volatile.pytest_plugin",  # as if it were installed
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "TMPDIR": str(self._work / "tmp"),
        }

    def _unmount(self) -> None:
        """Take out what the page left mounted; nobody has it open any more."""
        for mountpoint in mounts_below(self._work):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    command("umount", mountpoint), cwd=ROOT, capture_output=True, timeout=PATIENCE
                )
        for mountpoint, connection in mounts_below(self._work).items():
            abort(connection)
            detach(mountpoint)


def _compare(block: Block, line: str, expected: str, printed: str) -> None:
    """Raise PageError if more differs than the blanks of a line and what ``...`` stands for."""
    expected, printed = _single_blanks(expected), _single_blanks(printed)
    checker = doctest.OutputChecker()
    if not checker.check_output(expected, printed, _ANYTHING):
        example = doctest.Example("", expected)
        raise PageError(
            f"{block.place}: $ {line}\n{checker.output_difference(example, printed, _ANYTHING)}"
        )


def _single_blanks(text: str) -> str:
    """The width of a column is not what a page is about."""
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines())
