/*
 * Answers READ with bytes of a file of ours, by as few copies as pay.
 *
 * Small answers are copied twice, through a buffer that stays in the processor's cache. Large ones
 * are spliced: the kernel copies once, from the pages of the file. Pages are lent to the pipe, never
 * moved (no SPLICE_F_MOVE): they would be lost to the file. libfuse keeps that pipe, one for all.
 * All is done when the function returns, so whatever is purged later cannot change an answer on its
 * way.
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

/* Answer with bytes of the file fd, which are all there. */
static int shim_reply_extent(fuse_req_t req, int fd, int64_t offset, size_t size)
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
