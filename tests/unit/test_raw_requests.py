"""Raw requests and answers as the shim sees them, of any length and content, under sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.waiting import PATIENCE
from vfs_volatile.native import build_shim

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "100000"))

PROGRAM = r"""
#pragma GCC diagnostic ignored "-Wunused-function"
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
#include <stddef.h>
typedef int PyGILState_STATE;
static int PyGILState_Ensure(void) { return 0; }
static void PyGILState_Release(int state) {}
void *malloc(size_t);
void free(void *);
static void *PyObject_Malloc(size_t size) { return malloc(size); }
static void PyObject_Free(void *old) { free(old); }
#include "shim.c"
#include <stdlib.h>
#include <stdio.h>
#include <sys/socket.h>

static int64_t shim_on_fvrange(uint64_t h, uint64_t s, uint64_t l, unsigned m, unsigned b, int t)
{
	return rand() % 3 - 1 ? rand() - RAND_MAX / 2 : SHIM_LATER;
}

void PyMem_GetAllocator(int domain, struct raw_allocator *found) {}
void PyMem_SetAllocator(int domain, struct raw_allocator *given) {}
void PyObject_GetArenaAllocator(struct arena_allocator *found) {}
void PyObject_SetArenaAllocator(struct arena_allocator *given) {}

#define STUB(name, ...) static void name(__VA_ARGS__) {}
STUB(shim_on_ioctl, fuse_req_t r, uint64_t h, unsigned c, const void *i, size_t s, size_t o, int t)
STUB(shim_on_fallocate, fuse_req_t r, uint64_t h, int m, int64_t o, int64_t l)
STUB(shim_on_lseek, fuse_req_t r, uint64_t h, int64_t o, int w)
STUB(shim_on_lookup, fuse_req_t r, uint64_t p, const char *n)
STUB(shim_on_forget, uint64_t i, uint64_t l)
STUB(shim_on_getattr, fuse_req_t r, uint64_t i)
STUB(shim_on_statx, fuse_req_t r, uint64_t i)
STUB(shim_on_unlink, fuse_req_t r, uint64_t p, const char *n)
STUB(shim_on_release, fuse_req_t r, uint64_t h)
STUB(shim_on_open, fuse_req_t r, uint64_t i, int f)
STUB(shim_on_create, fuse_req_t r, uint64_t p, const char *n, unsigned m, int f)
STUB(shim_on_tmpfile, fuse_req_t r, uint64_t p, unsigned m, int f)
STUB(shim_on_read, fuse_req_t r, uint64_t h, size_t s, int64_t o)
STUB(shim_on_write, fuse_req_t r, uint64_t h, const char *d, size_t s, int64_t o, int b, int l)
STUB(shim_on_refusal, void)
STUB(shim_on_interrupt, fuse_req_t r)
STUB(shim_on_set_control, fuse_req_t r, uint64_t i, const char *n, const char *v, size_t s)
STUB(shim_on_get_acl, fuse_req_t r, uint64_t i, const char *n, size_t s)
STUB(shim_on_get_control, fuse_req_t r, uint64_t i, const char *n, size_t s)
STUB(shim_on_remove_control, fuse_req_t r, uint64_t i, const char *n)

static size_t below(size_t limit)
{
	return (size_t)rand() % limit;
}

/* A buffer of just this size, so that a look beyond it is seen. */
static unsigned char *noise(size_t size)
{
	unsigned char *made = malloc(size);
	for (size_t at = 0; at < size; at++)
		made[at] = (unsigned char)(rand() % 5 ? rand() : 0);
	return made;
}

static void request(int near, int far)
{
	static const uint32_t codes[] = { FUSE_INIT, FUSE_SETATTR, FUSE_WRITE, FUSE_IOCTL, 0,
		FUSE_SETXATTR };
	size_t size = 1 + below(200), room = below(4) ? size : 1 + below(size);
	unsigned char *sent = noise(size), *buffer = malloc(room);

	if (size >= sizeof(struct fuse_in_header) && below(8))
		((struct fuse_in_header *)sent)->opcode = codes[below(6)];
	if (send(near, sent, size, 0) != (ssize_t)size)
		abort();
	/* Of a SETXATTR libfuse does not know all that may come, so it is made shorter. */
	ssize_t got = on_read(far, buffer, room, NULL);
	const uint32_t *length = (const void *)buffer;
	if (got != (ssize_t)room && (got != (ssize_t)room - 8 || *length != got))
		abort();
	free(sent);
	free(buffer);
}

/* A SETXATTR of either form comes in the short one, whatever its name and value. */
static void setxattr_of_both_forms(int near, int far)
{
	const size_t name = 1 + below(40), value = below(40), head = sizeof(struct fuse_in_header);
	const uint32_t flags = below(2), words[] = { (uint32_t)value, (uint32_t)below(3) };
	const size_t size = head + 8 + name + 1 + value;
	unsigned char *sent = noise(size), *longer = noise(size + 8), *got = malloc(size + 8);

	for (size_t at = 0; at < name; at++)
		sent[head + 8 + at] = (unsigned char)(1 + below(255));
	sent[head + 8 + name] = 0;
	((struct fuse_in_header *)sent)->opcode = FUSE_SETXATTR;
	((struct fuse_in_header *)sent)->len = (uint32_t)size;
	memcpy(sent + head, words, 8);
	if (send(near, sent, size, 0) != (ssize_t)size)
		abort();
	if (on_read(far, got, size, NULL) != (ssize_t)size)
		abort();
	if (memcmp(sent, got, size) || kills_set_group_id)
		abort();
	memcpy(longer, sent, head + 8);
	((struct fuse_in_header *)longer)->len = (uint32_t)size + 8;
	memcpy(longer + head + 8, &flags, 4);
	memset(longer + head + 12, 0, 4);
	memcpy(longer + head + 16, sent + head + 8, size - head - 8);
	if (send(near, longer, size + 8, 0) != (ssize_t)size + 8)
		abort();
	if (on_read(far, got, size + 8, NULL) != (ssize_t)size)
		abort();
	if (memcmp(sent, got, size) || kills_set_group_id != (int)flags)
		abort();
	free(sent);
	free(longer);
	free(got);
}

static void answer(int null)
{
	unsigned char *head = noise(sizeof(struct fuse_out_header));
	size_t size = below(3) ? below(100) : sizeof(struct fuse_init_out);
	unsigned char *body = noise(size);
	struct iovec parts[2] = { { head, sizeof(struct fuse_out_header) }, { body, size } };

	((struct fuse_out_header *)head)->unique = below(2) ? init.unique : 1;
	((struct fuse_out_header *)head)->error = below(2) ? 0 : -5;
	if (on_writev(null, parts, 1 + (int)below(2), NULL) < 0)
		abort();
	free(head);
	free(body);
}

static void name(void)
{
	size_t size = 1 + below(40);
	char *text = (char *)noise(size);

	text[size - 1] = 0;
	if (below(2) && size > 14)
		memcpy(text, "user.fvrange.", 13);
	is_control(below(3), text);
	free(text);
}

/* Cut anywhere, or with no end to a name: a kind of request that is looked into. */
static void shortage(void)
{
	static const uint32_t codes[] = { FUSE_SETXATTR, FUSE_WRITE, FUSE_IOCTL, FUSE_RELEASE };
	static const uint32_t cmds[] = { FVRANGE_IOC_FVRANGE, FVRANGE_IOC_VEC, FVRANGE_IOC_NEXT };
	size_t head = sizeof(struct fuse_in_header), size = head + below(100);
	unsigned char *got = noise(size);
	struct fuse_ioctl_in *asks = (void *)(got + head);

	((struct fuse_in_header *)got)->opcode = codes[below(4)];
	if (size >= head + sizeof *asks && below(2))
		asks->cmd = cmds[below(3)];
	if (slices_for((void *)got, size) > SLICES)
		abort();
	free(got);
}

/* The kernel makes them long enough; who does not believe it looks at no byte that is not there. */
static void short_struct(void)
{
	size_t size = below(sizeof(struct fvrange_args)), room = sizeof(struct fvrange_args);
	unsigned char *given = noise(size);

	if (answered_fvrange(NULL, 0, FVRANGE_IOC_FVRANGE, given, size, room))
		abort();
	free(given);
}

int main(int count, char **arguments)
{
	int ends[2], null = open("/dev/null", 1);

	if (count != 2 || socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
		return 2;
	srand(1);
	for (long round = atol(arguments[1]); round; round--) {
		wants_passthrough = (int)below(2);
		request(ends[0], ends[1]);
		setxattr_of_both_forms(ends[0], ends[1]);
		answer(null);
		name();
		shortage();
		short_struct();
	}
	puts("done");
	return 0;
}
"""


def run(directory: Path, program: str, rounds: int) -> subprocess.CompletedProcess[str]:
    """Compile the program with the sanitizers, and run it."""
    source, binary = directory / "program.c", directory / "program"
    source.write_text(program)
    fuse = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    )
    subprocess.run(
        [
            *("gcc", "-g", "-O1", "-w", "-D_FILE_OFFSET_BITS=64", "-D_GNU_SOURCE"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
            *("-I", str(Path(build_shim.__file__).parent), str(source), "-o", str(binary)),
            *(*fuse.stdout.split(), "-ldl"),
        ],
        check=True,
        timeout=PATIENCE,
    )
    return subprocess.run(
        [binary, str(rounds)], capture_output=True, text=True, timeout=600, check=False
    )


def test_any_request_and_any_answer(tmp_path: Path) -> None:
    done = run(tmp_path, PROGRAM, ROUNDS)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_look_beyond_the_end_is_seen(tmp_path: Path) -> None:
    """The same with a shim that trusts an INIT answer to be long enough."""
    native = Path(build_shim.__file__).parent
    careful = (native / "connection.c").read_text()
    check = "count == 2 && iov[1].iov_len >= sizeof(struct fuse_init_out)"
    assert check in careful
    # What is beside the program is included, not what the compiler is told of.
    (tmp_path / "connection.c").write_text(careful.replace(check, "count == 2"))
    (tmp_path / "shim.c").write_text((native / "shim.c").read_text())
    done = run(tmp_path, PROGRAM, ROUNDS)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "amend_init" in done.stderr
