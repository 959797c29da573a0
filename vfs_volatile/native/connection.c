/*
 * The connection to the kernel: what is asked of it in FUSE_INIT, and the files that it reaches
 * without us.
 *
 * fuse_session_mount is exported, to see what is read from the kernel and written to it: so features
 * can be asked for that this libfuse does not know (FUSE_PASSTHROUGH, FUSE_HANDLE_KILLPRIV_V2).
 */

/* <linux/fuse.h> of 6.9, where a system has an older one. */
#define SHIM_INIT_PASSTHROUGH (1u << 5) /* FUSE_PASSTHROUGH, in flags2 */
#define SHIM_MAX_READAHEAD (1u << 20)
#define SHIM_MAX_STACK_DEPTH 9 /* of fuse_init_out, in words */

struct shim_backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};

#define SHIM_BACKING_OPEN _IOW(229, 1, struct shim_backing_map)
#define SHIM_BACKING_CLOSE _IOW(229, 2, uint32_t)

static int wants_passthrough; /* set before the mount is made */
static int has_passthrough;
static struct {
	uint64_t unique;
	uint32_t flags, flags2;
} init; /* the request FUSE_INIT, while it is not answered */
static int kills_privileges; /* does the SETATTR read last ask for set-id bits to be cleared? */

static struct fuse_session *session;
static struct fuse_lowlevel_ops wrapped; /* those that pyfuse3 has given */

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
	wrapped.init(userdata, conn);
	/* With these the kernel leaves clearing of set-id bits to us; without, it does as on tmpfs. */
	conn->want &= ~(unsigned)(FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_ATOMIC_O_TRUNC);
	/* Nobody but the kernel changes data: a new mtime or size must not empty its page cache. */
	conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
	/* After a write with O_DIRECT that it does not wait for the kernel leaves old pages cached. */
	conn->want &= ~(unsigned)FUSE_CAP_ASYNC_DIO;
	conn->want |= conn->capable & (FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_SPLICE_WRITE);
	/* A umask does not count where a default access control list is: that we know. */
	conn->want |= conn->capable & FUSE_CAP_DONT_MASK;
	wants_acls = wants_acls && conn->capable & FUSE_CAP_POSIX_ACL;
	if (wants_acls)
		conn->want |= FUSE_CAP_POSIX_ACL;
}

static ssize_t on_read(int fd, void *buffer, size_t size, void *userdata)
{
	struct fuse_in_header *head = buffer;
	const struct fuse_init_in *asks = (const void *)(head + 1);
	const struct fuse_setattr_in *sets = (const void *)(head + 1);
	ssize_t got = receive(fd, buffer, size);

	(void)userdata;
	if (got < (ssize_t)sizeof *head)
		return got;
	head->opcode = known_opcode(head->opcode);
	if (head->opcode != FUSE_READ)
		forget_known();
	if (head->opcode == FUSE_INIT && got >= (ssize_t)(sizeof *head + sizeof *asks)) {
		init.unique = head->unique;
		init.flags = asks->flags;
		init.flags2 = asks->flags & FUSE_INIT_EXT ? asks->flags2 : 0;
	} else if (head->opcode == FUSE_SETATTR && got >= (ssize_t)(sizeof *head + sizeof *sets)) {
		kills_privileges = !!(sets->valid & FATTR_KILL_SUIDGID);
	} else if (head->opcode == FUSE_SETXATTR) {
		return shorten_setxattr(head, got);
	}
	return got;
}

/*
 * Killing privileges ourselves spares a GETXATTR of security.capability before every write(2):
 * the kernel remembers then that a file has none.
 */
static void amend_init(struct fuse_init_out *answer)
{
	if (init.flags & FUSE_HANDLE_KILLPRIV_V2)
		answer->flags |= FUSE_HANDLE_KILLPRIV_V2;
	if (init.flags & SHIM_INIT_SETXATTR_EXT)
		answer->flags |= SHIM_INIT_SETXATTR_EXT;
	if (answer->max_write > WRITE_MOST)
		answer->max_write = WRITE_MOST;
	/* The kernel takes the lesser of this and what its bdi says (/sys/class/bdi). */
	answer->max_readahead = SHIM_MAX_READAHEAD;
	if (wants_passthrough && init.flags2 & SHIM_INIT_PASSTHROUGH) {
		has_passthrough = 1;
		answer->flags |= FUSE_INIT_EXT;
		answer->flags2 |= SHIM_INIT_PASSTHROUGH;
		((uint32_t *)answer)[SHIM_MAX_STACK_DEPTH] = 1;
	}
}

static ssize_t on_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *head = iov[0].iov_base;

	(void)userdata;
	if (init.unique && head->unique == init.unique) {
		if (!head->error && count == 2 && iov[1].iov_len >= sizeof(struct fuse_init_out))
			amend_init(iov[1].iov_base);
		init.unique = 0;
	}
	return writev(fd, iov, count);
}

int fuse_session_mount(struct fuse_session *mounted, const char *mountpoint)
{
	static const struct fuse_custom_io io = {
		.writev = on_writev,
		.read = on_read,
		.splice_send = on_splice_send,
	};
	int (*real)(struct fuse_session *, const char *) =
		(int (*)(struct fuse_session *, const char *))(uintptr_t)dlsym(
			RTLD_NEXT, "fuse_session_mount");
	int result = real ? real(mounted, mountpoint) : -1;

	prepare_to_lend();
	if (result == 0 && (unblock(fuse_session_fd(mounted)) != 0 ||
			    fuse_session_custom_io(mounted, &io, fuse_session_fd(mounted)) != 0))
		return -1;
	return result;
}

/* Before the mount is made: ask the kernel for passthrough. */
static void shim_want_passthrough(void)
{
	wants_passthrough = 1;
}

/* Once the kernel has been answered: may shim_backing_open be used? */
static int shim_has_passthrough(void)
{
	return has_passthrough;
}

/* Let processes reach the file fd without us; an id above 0 for shim_reply_open, or -errno. */
static int shim_backing_open(int fd)
{
	struct shim_backing_map map = { .fd = fd };
	int id = ioctl(fuse_session_fd(session), SHIM_BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

/* No file will be opened with this id any more; those that are stay open. */
static int shim_backing_close(int id)
{
	uint32_t backing_id = (uint32_t)id;

	return ioctl(fuse_session_fd(session), SHIM_BACKING_CLOSE, &backing_id) ? -errno : 0;
}

/* Does the SETATTR that is being handled ask for set-id bits to be cleared (write, chown, ...)? */
static int shim_kills_privileges(void)
{
	return kills_privileges;
}
