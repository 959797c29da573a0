"""What becomes of requests whose data are lent: receiving.c on a device of our own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE
from vfs_volatile.native import build_shim

# The device is a pipe: a request is sent before it is received, so they do not run together.
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "receiving.c"

#define ROOM (WRITE_MOST + (64u << 10))

static int device[2];
static unsigned char sent[ROOM], *buffer;
static size_t sent_size;

static void must(int held, const char *what)
{
	if (!held) {
		fprintf(stderr, "%s\n", what);
		exit(1);
	}
}

/* A request with so many bytes behind its head. */
static void get(uint32_t opcode, size_t size)
{
	static int number;

	sent_size = HEAD + size;
	memset(sent, ++number, sent_size);
	((struct fuse_in_header *)sent)->opcode = opcode;
	must(write(device[1], sent, sent_size) == (ssize_t)sent_size, "sent");
	must(receive(device[0], buffer, ROOM) == (ssize_t)sent_size, "received");
	must(memcmp(buffer, sent, HEAD) == 0, "the head is there");
}

static int is_there(void)
{
	return memcmp(buffer, sent, sent_size) == 0;
}

static void get_lent(size_t size)
{
	get(FUSE_WRITE, size);
	must(lent.size == size, "all data are lent");
}

static void moved(size_t size)
{
	static char found[ROOM];
	int file = memfd_create("file", 0);

	get_lent(size);
	must(shim_move_lent(file, 5) == (int64_t)size, "all is moved");
	must(pread(file, found, size, 5) == (ssize_t)size, "all is in the file");
	must(memcmp(found, sent + HEAD, size) == 0, "and the same");
	must(lent.size == 0, "nothing is left");
	close(file);
}

static void fetched(size_t size)
{
	get_lent(size);
	must(shim_fetch_lent() == 0 && is_there(), "all is fetched");
}

/* Of a file that may grow no further some is moved; the rest is in nobody's way. */
static void moved_in_part(void)
{
	int file = memfd_create("file", MFD_ALLOW_SEALING);

	must(ftruncate(file, LENT_LEAST / 2) == 0, "ftruncate");
	must(fcntl(file, F_ADD_SEALS, F_SEAL_GROW) == 0, "seal");
	get_lent(LENT_LEAST);
	must(shim_move_lent(file, 0) <= (int64_t)LENT_LEAST / 2, "not all is moved");
	must(lent.size >= LENT_LEAST / 2, "the rest is left");
	close(file);
}

int main(int count, char **arguments)
{
	int lends = count > 1 && strcmp(arguments[1], "lends") == 0;

	must(pipe2(device, O_NONBLOCK) == 0 && fcntl(device[1], F_SETPIPE_SZ, 1 << 20) > 0, "device");
	buffer = malloc(ROOM);
	if (lends)
		prepare_to_lend();
	for (int round = 0; round < 3; round++) {
		get(FUSE_LOOKUP, 10);
		must(is_there(), "a small request is there");
		get(FUSE_WRITE, LENT_LEAST);
		must(is_there(), "the first large write is there");
		if (!lends) {
			get(FUSE_WRITE, WRITE_MOST);
			must(is_there(), "so is the next one without a pipe");
			continue;
		}
		moved(LENT_LEAST);
		moved(WRITE_MOST);
		fetched(WRITE_MOST);
		get_lent(WRITE_MOST - 1); /* nobody wants it, and the task that read it has ended */
		free(buffer);
		buffer = malloc(ROOM);
		moved(LENT_LEAST + 1);
		moved_in_part();
		moved(LENT_LEAST);
		errno = 0;
		must(receive(device[0], buffer, ROOM) == -1 && errno == EAGAIN, "nothing is no end");
		moved(LENT_LEAST);
		get(FUSE_SETXATTR, 65536);
		must(is_there(), "what is no write is there");
		get(FUSE_WRITE, LENT_LEAST);
		must(is_there(), "and then the first large write");
		get(FUSE_WRITE, 100);
		must(is_there(), "a small write is there");
	}
	puts("done");
	return 0;
}
"""


@pytest.mark.parametrize("how", ["lends", "has no pipe"])
def test_the_data_of_every_request_are_had(tmp_path: Path, how: str) -> None:
    source, binary = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    subprocess.run(
        [
            *("gcc", "-g", "-w"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
            *("-I", str(Path(build_shim.__file__).parent), str(source), "-o", str(binary)),
        ],
        check=True,
        timeout=PATIENCE,
    )
    done = subprocess.run(
        [binary, how], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
