"""How many requests are served before trio gets its turn: session.c on a libfuse of our own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE
from vfs_volatile.native import build_shim

LIBFUSE = r"""
int (*receives)(void);
void (*processes)(void);
int device[2];

int fuse_session_receive_buf(void *session, void *buffer) { return receives(); }
void fuse_session_process_buf(void *session, const void *buffer) { processes(); }
int fuse_session_fd(void *session) { return device[0]; }
"""

PROGRAM = r"""
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
#include <dlfcn.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void forget_known(void) {}
static int was_refused(void *session, const void *buffer) { return 0; }
static int leaves;
#define KEPT 1
#include "session.c"

extern int (*receives)(void);
extern void (*processes)(void);
extern int device[2];

static int handled, tasks_after = -1, asked;

static void handle(void)
{
	at_once = 1;
	if (++handled == tasks_after)
		shim_end_turn();
}

static void unknown(void)
{
	handled++;
}

static int always(void)
{
	return 100;
}

static int never(void)
{
	asked++;
	return -EAGAIN;
}

static int without_memory(void)
{
	asked++;
	return -ENOMEM;
}

static int second_time(void)
{
	return asked++ ? (asked > 3 ? 0 : 100) : -EAGAIN;
}

int main(int count, char **arguments)
{
	const char *how = arguments[1];

	if (pipe(device) != 0)
		return 2;
	processes = strcmp(how, "of pyfuse3") == 0 ? unknown : handle;
	receives = strcmp(how, "alone") == 0 || strcmp(how, "read") == 0 ? never : always;
	shim_set_hurry(strcmp(how, "in a hurry") == 0);
	if (strcmp(how, "third has a task") == 0)
		tasks_after = 3;
	if (strcmp(how, "a moment later") == 0 && write(device[1], "x", 1) == 1)
		receives = second_time;
	if (strcmp(how, "no memory") == 0)
		receives = without_memory;
	if (strcmp(how, "read") == 0 || strcmp(how, "no memory") == 0)
		handled = -fuse_session_receive_buf(NULL, NULL) == EINTR;
	else
		fuse_session_process_buf(NULL, NULL);
	printf("%d %d\n", handled, asked);
	return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("session")
    (directory / "libfuse.c").write_text(LIBFUSE)
    (directory / "program.c").write_text(PROGRAM)
    headers = subprocess.run(
        ["pkg-config", "--cflags", "fuse3"], capture_output=True, text=True, check=True
    )
    native = Path(build_shim.__file__).parent
    options = ["-w", "-D_FILE_OFFSET_BITS=64", "-I", str(native), *headers.stdout.split()]
    library, binary = directory / "libours.so", directory / "program"
    for command in (
        ["-shared", "-fPIC", "libfuse.c", "-o", str(library)],
        ["program.c", "-o", str(binary), "-rdynamic", str(library), "-ldl"],
    ):
        subprocess.run(["gcc", *options, *command], check=True, timeout=PATIENCE, cwd=directory)
    return binary


def served(program: Path, how: str) -> tuple[int, int]:
    """Requests handled in one turn, and how often the device was found empty or was asked."""
    done = subprocess.run(
        [program, how], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    handled, asked = map(int, done.stdout.split())
    return handled, asked


def test_an_endless_stream_ends_its_turn(program: Path) -> None:
    assert served(program, "endless")[0] > 1


def test_one_that_a_task_answers_is_the_last(program: Path) -> None:
    assert served(program, "third has a task")[0] == 3


def test_each_is_the_last_while_tasks_are_in_a_hurry(program: Path) -> None:
    assert served(program, "in a hurry")[0] == 1


def test_one_that_pyfuse3_answers_is_the_last(program: Path) -> None:
    assert served(program, "of pyfuse3")[0] == 1


def test_without_a_next_one_the_turn_ends(program: Path) -> None:
    assert served(program, "alone") == (1, 1)


def test_one_that_comes_a_moment_later_is_served(program: Path) -> None:
    assert served(program, "a moment later") == (3, 4)


def test_an_empty_device_is_no_error_to_pyfuse3(program: Path) -> None:
    """It would end the daemon for EAGAIN."""
    assert served(program, "read") == (1, 1)


def test_a_buffer_that_cannot_be_had_is_none_either(program: Path) -> None:
    """libfuse makes one for each task that reads: others have theirs."""
    assert served(program, "no memory") == (1, 1)
