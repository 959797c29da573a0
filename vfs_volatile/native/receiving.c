/*
 * Receives requests. The data of a large WRITE are lent: they stay in a pipe, as pages of the
 * kernel's cache, until they are moved to a file (one copy) or fetched into memory (as read(2) on
 * the device does with all).
 *
 * What comes next is known only when it has been received, so a request goes through the pipe only
 * after a large WRITE: these come in rows. Any other costs one system call more then.
 */
#include <fcntl.h>

#define LENT_LEAST (256u << 10) /* bytes of a large WRITE; less stays in the processor's cache */
#define WRITE_MOST (512u << 10) /* bytes of any WRITE: with its header it must fit the pipe, below */
#define PIPE_BYTES (1u << 20)	/* as large as anybody may have one, pipe(7): a page each 4 KiB */
#define HEAD (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

static struct {
	int out, in; /* the pipe; -1 if there is none */
	char *place; /* where in the buffer of the request the bytes are missing, */
	size_t size; /* and how many */
	int soon;    /* was the request before a large WRITE? */
} lent = { .out = -1, .in = -1 };

/* Once: without a pipe large enough nothing is lent. */
static void prepare_to_lend(void)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
		return;
	if (fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) < (int)PIPE_BYTES) {
		close(ends[0]);
		close(ends[1]);
		return;
	}
	lent.out = ends[0];
	lent.in = ends[1];
}

/* Read so many bytes of the pipe, which are there. 0, or -errno. */
static int read_lent(char *place, size_t size)
{
	while (size > 0) {
		ssize_t got = read(lent.out, place, size);

		if (got == 0 || (got < 0 && errno != EINTR))
			return got < 0 ? -errno : -EIO;
		if (got > 0) {
			place += got;
			size -= (size_t)got;
		}
	}
	return 0;
}

/* Put the bytes where read(2) would have put them. 0, or -errno. */
static int shim_fetch_lent(void)
{
	size_t size = lent.size;

	lent.size = 0;
	return read_lent(lent.place, size);
}

/* Move the bytes to a file; how many, fewer if the system refuses memory for the rest, or -errno. */
static int64_t shim_move_lent(int fd, int64_t offset)
{
	int64_t moved = 0;

	while (lent.size > 0) {
		ssize_t got = splice(lent.out, NULL, fd, &offset, lent.size, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return moved ? moved : got < 0 ? -errno : -EIO;
		moved += got;
		lent.size -= (size_t)got;
	}
	return moved;
}

static int is_large_write(const struct fuse_in_header *head, ssize_t got)
{
	return got >= (ssize_t)(HEAD + LENT_LEAST) && head->opcode == FUSE_WRITE;
}

/* As read(2); of a large WRITE perhaps only what precedes the data. */
static ssize_t receive(int fd, void *buffer, size_t size)
{
	ssize_t got = -1;
	size_t head;

	while (lent.size > 0) { /* nobody wanted the rest, and its own buffer may be freed */
		size_t part = lent.size < size ? lent.size : size;

		if (read_lent(buffer, part) != 0)
			return -1;
		lent.size -= part;
	}
	if (lent.soon && lent.out >= 0 && size >= WRITE_MOST + HEAD) {
		got = splice(fd, NULL, lent.in, NULL, WRITE_MOST + HEAD, 0);
		if (got == 0 || (got < 0 && errno == EAGAIN))
			return got;
	}
	if (got < 0) {
		got = read(fd, buffer, size);
		lent.soon = is_large_write(buffer, got);
		return got;
	}
	head = (size_t)got < HEAD ? (size_t)got : HEAD;
	lent.place = (char *)buffer + head;
	lent.size = (size_t)got - head;
	if (read_lent(buffer, head) != 0)
		return -1;
	lent.soon = is_large_write(buffer, got);
	if (!lent.soon && shim_fetch_lent() != 0)
		return -1;
	return got;
}
