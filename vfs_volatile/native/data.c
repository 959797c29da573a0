/*
 * Answers READ with bytes of a file of ours, by as few copies as pay.
 *
 * Small answers are copied twice, through a buffer that stays in the processor's cache. Large ones
 * are spliced: the kernel copies once, from the pages of the file. Pages are lent to the pipe, never
 * moved (no SPLICE_F_MOVE): they would be lost to the file. libfuse keeps that pipe, one for all.
 * All is done when the function returns, so whatever is purged later cannot change an answer on its
 * way.
 *
 * With an answer Python tells where the bytes around lie. A READ of those is answered here, as long
 * as nothing but READ has been served since and trio has had no turn: then nothing can have changed.
 */
#include <sys/types.h>

#define SPLICE_LEAST (64u << 10) /* bytes; below, the copy is cheaper than the pipe */
#define SPLICE_MOST (512u << 10) /* bytes; with the header it must fit a pipe (1 MiB at most, pipe(7)) */

static char copied[1u << 20]; /* as large as a READ gets: 256 pages */

/* libfuse splices only if told how, once what it reads and writes goes through us. */
static ssize_t on_splice_send(int in, off_t *in_offset, int out, off_t *out_offset, size_t size,
			      unsigned flags, void *userdata)
{
	(void)userdata;
	return splice(in, in_offset, out, out_offset, size, flags);
}

#define KNOWN 64	 /* places that are known at a time */
#define TOGETHER (16 << 20) /* bytes of a file that lie together (CHUNK_PAGES), so in one place */

static struct known {
	uint64_t fh, turn;
	int64_t start, end; /* in the open file; */
	int fd;		    /* where they lie, */
	int64_t offset;	    /* from here on */
} known[KNOWN];
static uint64_t turn = 1; /* what is known of an earlier one is not known any more */

static struct known *known_of(uint64_t fh, int64_t offset)
{
	return &known[(fh + (uint64_t)offset / TOGETHER) % KNOWN];
}

static struct {
	int64_t offset;
	struct known *of; /* NULL: none, or one that is answered later */
} reading;		  /* the READ under way */

/* Something may change, or has. */
static void forget_known(void)
{
	turn++;
}

/* Answer with bytes of the file fd, which are all there. */
static int reply_extent(fuse_req_t req, int fd, int64_t offset, size_t size)
{
	struct fuse_bufvec part = FUSE_BUFVEC_INIT(size);

	if (size <= sizeof copied && (size < SPLICE_LEAST || size > SPLICE_MOST)) {
		if (pread(fd, copied, size, offset) != (ssize_t)size)
			return fuse_reply_err(req, EIO);
		return fuse_reply_buf(req, copied, size);
	}
	part.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	part.buf[0].fd = fd;
	part.buf[0].pos = offset;
	return fuse_reply_data(req, &part, 0);
}

/* The same. So many bytes before and after them may be read as well, until something changes. */
static int shim_reply_extent(fuse_req_t req, int fd, int64_t offset, size_t size, int64_t before,
			     int64_t after)
{
	struct known *of = reading.of;

	if (of) {
		of->turn = turn;
		of->start = reading.offset - before;
		of->end = reading.offset + (int64_t)size + after;
		of->fd = fd;
		of->offset = offset - before;
	}
	return reply_extent(req, fd, offset, size);
}

/* Answer a READ, if it is known how; small ones alone gain by it. */
static int reply_known(fuse_req_t req, uint64_t fh, int64_t offset, size_t size)
{
	const struct known *of = known_of(fh, offset);

	if (of->turn != turn || of->fh != fh || size >= SPLICE_LEAST || offset < of->start ||
	    offset + (int64_t)size > of->end)
		return 0;
	Py_BEGIN_ALLOW_THREADS
	reply_extent(req, of->fd, of->offset + (offset - of->start), size);
	Py_END_ALLOW_THREADS
	return 1;
}

/* Python is about to be asked. */
static void begin_read(uint64_t fh, int64_t offset)
{
	reading.offset = offset;
	reading.of = known_of(fh, offset);
	reading.of->fh = fh;
	reading.of->turn = 0;
}

/* It has answered, or will later. */
static void end_read(void)
{
	reading.of = NULL;
}
