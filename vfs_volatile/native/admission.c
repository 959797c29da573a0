/*
 * Which requests are refused when memory has run out (reserve.c), before anybody starts with them.
 *
 * What takes memory for good goes first; what takes it while it is served goes on with half of the
 * reserve, and what gives some back with a bit less; then only what cannot fail: the kernel does not
 * repeat it.
 */
#include "../fvrange.h"

#define C_BLOCK 4096 /* libfuse asks malloc(3) itself, for less: it would lose a RELEASE without it */

static void shim_on_refusal(void); /* defined by cffi from the declarations in build_shim.py */

/* Is it an ioctl that neither marks nor attaches? */
static int takes_back(const struct fuse_in_header *head, size_t length)
{
	const struct fuse_ioctl_in *asks = (const void *)(head + 1);
	const struct fvrange_args *args = (const void *)(asks + 1);
	const struct fvrange_vec *vec = (const void *)(asks + 1);
	const size_t size = length - sizeof *head - sizeof *asks;

	if (length < sizeof *head + sizeof *asks)
		return 0;
	switch (asks->cmd) {
	case FVRANGE_IOC_FVRANGE:
	case FVRANGE_IOC_MVRANGE:
		return size >= sizeof *args && args->mode == VRANGE_NONVOLATILE;
	case FVRANGE_IOC_VEC:
		return size >= offsetof(struct fvrange_vec, behavior) &&
		       vec->mode == VRANGE_NONVOLATILE;
	default:
		return asks->cmd == FVRANGE_IOC_NEXT || asks->cmd == FVRANGE_IOC_PURGE;
	}
}

/* Is it an attribute that is not kept, nor marks? (abi/xattrs.py) */
static int is_order(const struct fuse_in_header *head, size_t length)
{
	static const char mark[] = "user.fvrange.volatile", of_files[] = "user.fvrange.",
			  of_mounts[] = "user.vfs_volatile.";
	const char *name = (const char *)(head + 1) + FUSE_COMPAT_SETXATTR_IN_SIZE;

	if (length < sizeof *head + FUSE_COMPAT_SETXATTR_IN_SIZE + sizeof mark)
		return 0;
	return strncmp(name, mark, sizeof mark) != 0 &&
	       (strncmp(name, of_files, sizeof of_files - 1) == 0 ||
		strncmp(name, of_mounts, sizeof of_mounts - 1) == 0);
}

/* Does it write back what was stored through a mapping? That is lost if it fails. */
static int writes_back(const struct fuse_in_header *head, size_t length)
{
	const struct fuse_write_in *asks = (const void *)(head + 1);

	return length >= sizeof *head + sizeof *asks && asks->write_flags & FUSE_WRITE_CACHE;
}

#define OPENS (GROWS - 8) /* takes memory until it is closed */
#define RELIEVES ((WORKS + KEPT) / 2) /* above KEPT there is what malloc(3) may map for a byte */
#define CANNOT_FAIL 0

/* How many slices of the reserve have to be there for a request, of which length bytes came. */
static int slices_for(const struct fuse_in_header *head, size_t length)
{
	switch (head->opcode) {
	case FUSE_INIT:
	case FUSE_DESTROY:
	case FUSE_INTERRUPT:
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		return CANNOT_FAIL;
	case FUSE_CREATE:
	case FUSE_MKDIR:
	case FUSE_MKNOD:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_FALLOCATE:
		return GROWS;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		return OPENS;
	case FUSE_SETXATTR:
		return is_order(head, length) ? WORKS : GROWS;
	case FUSE_IOCTL:
		return takes_back(head, length) ? WORKS : GROWS;
	case FUSE_WRITE:
		return writes_back(head, length) ? RELIEVES : WORKS;
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
		return RELIEVES;
	default:
		return WORKS;
	}
}

/* Is there memory for a request? Makes sure that libfuse has some, if it can. */
static int is_admitted(const struct fuse_in_header *head, size_t length)
{
	void *volatile block = malloc(C_BLOCK);
	int needs;

	if (block)
		free(block);
	else
		give_slice(0, C_BLOCK);
	if (is_whole())
		return 1;
	needs = slices_for(head, length);
	return reserve.held >= needs && (needs < GROWS || is_room_left());
}

/* Refuse a request if there is no memory for it; has it been? */
static int was_refused(struct fuse_session *se, const struct fuse_buf *buf)
{
	const struct fuse_in_header *head = buf->mem;
	struct fuse_out_header answer = { .len = sizeof answer, .error = -ENOMEM };

	if (buf->size < sizeof *head || is_admitted(head, buf->size))
		return 0;
	answer.unique = head->unique;
	if (write(fuse_session_fd(se), &answer, sizeof answer) < 0) /* its caller has been killed */
		errno = 0;
	shim_on_refusal();
	return 1;
}
