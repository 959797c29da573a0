/*
 * The shim: gives pyfuse3's session the handlers that pyfuse3 lacks.
 *
 * This module exports fuse_session_new. Loaded with RTLD_GLOBAL before pyfuse3, the dynamic linker
 * binds pyfuse3's call to it: the operations are copied, amended and passed to libfuse's own
 * function. Handlers below hand over to Python; they run on the thread that runs the session,
 * with the GIL held, and return at once. Python answers the request, now or later.
 *
 * It also exports fuse_session_mount, to see what is read from the kernel and written to it: so it
 * asks for features that this libfuse does not know (FUSE_PASSTHROUGH, FUSE_HANDLE_KILLPRIV_V2).
 */
#define FUSE_USE_VERSION 35
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "data.c"
#include "ranges.c"
#include "receiving.c"
#include "reserve.c"
#include "admission.c"
#include "session.c"
#include "acl.c"
#include "names.c"

/* Defined by cffi from the declarations in build_shim.py. */
static void shim_on_ioctl(fuse_req_t, uint64_t fh, unsigned cmd, const void *in, size_t in_size,
			  size_t out_size, int tid);
static void shim_on_fallocate(fuse_req_t, uint64_t fh, int mode, int64_t offset, int64_t length);
static void shim_on_lseek(fuse_req_t, uint64_t fh, int64_t offset, int whence);
static void shim_on_write(fuse_req_t, uint64_t fh, const char *data, size_t size, int64_t offset,
			  int write_back, int is_lent);
static void shim_on_read(fuse_req_t, uint64_t fh, size_t size, int64_t offset);
static void shim_on_interrupt(fuse_req_t);
static void shim_on_set_control(fuse_req_t, uint64_t ino, const char *name, const char *value,
				size_t size);
static void shim_on_get_control(fuse_req_t, uint64_t ino, const char *name, size_t size);
static void shim_on_remove_control(fuse_req_t, uint64_t ino, const char *name);

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
static int capabilities; /* has a file ever been given security.capability? */
static struct fuse_lowlevel_ops wrapped;

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

static void on_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg,
		     struct fuse_file_info *fi, unsigned flags, const void *in_buf, size_t in_bufsz,
		     size_t out_bufsz)
{
	(void)ino;
	(void)arg;
	at_once = 1;
	if (flags & FUSE_IOCTL_DIR)
		fuse_reply_err(req, ENOTTY);
	else if (!answered_fvrange(req, fi->fh, cmd, in_buf, in_bufsz, out_bufsz))
		shim_on_ioctl(req, fi->fh, cmd, in_buf, in_bufsz, out_bufsz, fuse_req_ctx(req)->pid);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			 struct fuse_file_info *fi)
{
	(void)ino;
	shim_on_fallocate(req, fi->fh, mode, offset, length);
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
		     struct fuse_file_info *fi)
{
	(void)ino;
	shim_on_lseek(req, fi->fh, offset, whence);
}

/* Is it an attribute of the control interface? (abi/xattrs.py) Those may wait, so they are ours. */
static int is_control(fuse_ino_t ino, const char *name)
{
	static const char of_files[] = "user.fvrange.", of_mounts[] = "user.vfs_volatile.";

	return strncmp(name, of_files, sizeof of_files - 1) == 0 ||
	       (ino == FUSE_ROOT_ID && strncmp(name, of_mounts, sizeof of_mounts - 1) == 0);
}

/* The kernel asks for this before every write(2); as long as no file has it, that need not cost. */
static void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (!capabilities && strcmp(name, "security.capability") == 0) {
		at_once = 1;
		fuse_reply_err(req, ENODATA);
	} else if (is_acl(name)) {
		get_acl(req, ino, name, size);
	} else if (is_control(ino, name)) {
		shim_on_get_control(req, ino, name, size);
	} else {
		wrapped.getxattr(req, ino, name, size);
	}
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t size, int flags)
{
	if (strcmp(name, "security.capability") == 0)
		capabilities = 1;
	if (refused_acl(req, name))
		return;
	if (is_acl(name)) {
		has_acls = 1; /* what is made in the root may inherit its own */
		root_has_acl |= ino == FUSE_ROOT_ID;
	}
	if (is_control(ino, name))
		shim_on_set_control(req, ino, name, value, size);
	else
		wrapped.setxattr(req, ino, name, value, size, flags);
}

static void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	if (refused_acl(req, name))
		return;
	if (is_control(ino, name))
		shim_on_remove_control(req, ino, name);
	else
		wrapped.removexattr(req, ino, name);
}

/* pyfuse3 has a read handler too, but it copies, and starts a task for each answer. */
static void on_read_request(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			    struct fuse_file_info *fi)
{
	(void)ino;
	at_once = 1;
	if (reply_known(req, fi->fh, offset, size))
		return;
	begin_read(fi->fh, offset);
	shim_on_read(req, fi->fh, size, offset);
	end_read();
}

/* pyfuse3 has a write handler, but drops the bit that tells write-back from write(2). */
static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *fi)
{
	(void)ino;
	at_once = 1;
	shim_on_write(req, fi->fh, data, size, offset, (int)fi->writepage, lent.size > 0);
}

static const struct fuse_lowlevel_ops *amend(struct fuse_lowlevel_ops *ops,
					     const struct fuse_lowlevel_ops *given, size_t size)
{
	memcpy(&wrapped, given, size < sizeof wrapped ? size : sizeof wrapped);
	*ops = wrapped;
	ops->init = on_init;
	amend_names(ops);
	ops->getxattr = on_getxattr;
	ops->setxattr = on_setxattr;
	ops->removexattr = on_removexattr;
	ops->ioctl = on_ioctl;
	ops->fallocate = on_fallocate;
	ops->lseek = on_lseek;
	ops->read = on_read_request;
	ops->write = on_write;
	ops->write_buf = NULL; /* would take precedence over write */
	return ops;
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)

typedef struct fuse_session *new_fn(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
				    struct libfuse_version *, void *);

struct fuse_session *fuse_session_new_versioned(struct fuse_args *args,
						const struct fuse_lowlevel_ops *op, size_t op_size,
						struct libfuse_version *version, void *userdata)
{
	static struct fuse_lowlevel_ops ops;
	new_fn *real = (new_fn *)(uintptr_t)dlsym(RTLD_NEXT, "fuse_session_new_versioned");

	session = real ? real(args, amend(&ops, op, op_size), sizeof ops, version, userdata) : NULL;
	return session;
}

#else

typedef struct fuse_session *new_fn(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
				    void *);

struct fuse_session *fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
				      size_t op_size, void *userdata)
{
	static struct fuse_lowlevel_ops ops;
	new_fn *real = (new_fn *)(uintptr_t)dlsym(RTLD_NEXT, "fuse_session_new");

	session = real ? real(args, amend(&ops, op, op_size), sizeof ops, userdata) : NULL;
	return session;
}

#endif

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

static unsigned shim_uid(fuse_req_t req)
{
	return fuse_req_ctx(req)->uid;
}

static unsigned shim_gid(fuse_req_t req)
{
	return fuse_req_ctx(req)->gid;
}

static unsigned shim_umask(fuse_req_t req)
{
	return fuse_req_ctx(req)->umask;
}

static int shim_tid(fuse_req_t req)
{
	return fuse_req_ctx(req)->pid;
}

static void on_interrupt(fuse_req_t req, void *data)
{
	(void)data;
	shim_on_interrupt(req);
}

/* Have Python told when the caller of a request gets a signal, if it has not one already. */
static void shim_watch_interrupt(fuse_req_t req)
{
	fuse_req_interrupt_func(req, on_interrupt, NULL);
}

/* Has pyfuse3's session come through here? */
static int shim_took_hold(void)
{
	return session != NULL;
}

/* Make the kernel drop its copy of a byte range. May block until dirty pages are written back. */
static int shim_invalidate(uint64_t ino, int64_t offset, int64_t length)
{
	return fuse_lowlevel_notify_inval_inode(session, ino, offset, length);
}
