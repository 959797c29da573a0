/*
 * The shim: gives pyfuse3's session the handlers that pyfuse3 lacks.
 *
 * This module exports fuse_session_new. Loaded with RTLD_GLOBAL before pyfuse3, the dynamic linker
 * binds pyfuse3's call to it: the operations are copied, amended and passed to libfuse's own
 * function. Handlers below hand over to Python; they run on the thread that runs the session,
 * with the GIL held, and return at once. Python answers the request, now or later.
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
#include "allocators.c"
#include "shortage.c"
#include "admission.c"
#include "session.c"
#include "acl.c"
#include "names.c"
#include "connection.c"

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

static int capabilities; /* has a file ever been given security.capability? */

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
