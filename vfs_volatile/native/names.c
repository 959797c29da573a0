/*
 * Requests about names, attributes and opening: decoded here, answered at once by Python
 * (native/names.py), and the answers that libfuse has no function for, or a slower one.
 *
 * pyfuse3 has handlers for most, but starts a task for each answer.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* <linux/fuse.h> of 6.6, where a system has an older one. */
#define SHIM_TMPFILE 51 /* FUSE_TMPFILE */
#define SHIM_STATX 52 /* FUSE_STATX */

struct shim_statx_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec;
	uint32_t flags;
	uint64_t spare[2];
	struct statx stat; /* struct fuse_statx has its layout */
};

/* <linux/fuse.h> of 6.9, where a system has an older one. */
#define SHIM_OPEN_KEEP_CACHE (1u << 1)
#define SHIM_OPEN_PASSTHROUGH (1u << 7)

struct shim_open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};

/* Defined by cffi from the declarations in build_shim.py. */
static void shim_on_lookup(fuse_req_t, uint64_t parent, const char *name);
static void shim_on_forget(uint64_t ino, uint64_t lookups);
static void shim_on_getattr(fuse_req_t, uint64_t ino);
static void shim_on_statx(fuse_req_t, uint64_t ino);
static void shim_on_unlink(fuse_req_t, uint64_t parent, const char *name);
static void shim_on_open(fuse_req_t, uint64_t ino, int flags);
static void shim_on_create(fuse_req_t, uint64_t parent, const char *name, unsigned mode, int flags);
static void shim_on_tmpfile(fuse_req_t, uint64_t parent, unsigned mode, int flags);
static void shim_on_release(fuse_req_t, uint64_t fh);

static int is_statx; /* Is the GETATTR received last a STATX? */

/*
 * libfuse knows TMPFILE since 3.17, STATX since 3.18. They are a CREATE of no name, which its flags
 * tell, and a GETATTR of which the kernel takes a longer answer: so they are handed to it.
 */
static uint32_t known_opcode(uint32_t opcode)
{
	is_statx = opcode == SHIM_STATX;
	return is_statx ? FUSE_GETATTR : opcode == SHIM_TMPFILE ? FUSE_CREATE : opcode;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	at_once = 1;
	shim_on_lookup(req, parent, name);
}

static void on_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	at_once = 1;
	shim_on_forget(ino, lookups);
	fuse_reply_none(req);
}

static void on_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	at_once = 1;
	for (size_t at = 0; at < count; at++)
		shim_on_forget(forgets[at].ino, forgets[at].nlookup);
	fuse_reply_none(req);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)fi;
	at_once = 1;
	if (is_statx)
		shim_on_statx(req, ino);
	else
		shim_on_getattr(req, ino);
}

static void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	at_once = 1;
	shim_on_unlink(req, parent, name);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	at_once = 1;
	shim_on_open(req, ino, fi->flags);
}

static void on_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	at_once = 1;
	if ((fi->flags & O_TMPFILE) == O_TMPFILE)
		shim_on_tmpfile(req, parent, mode, fi->flags);
	else
		shim_on_create(req, parent, name, mode, fi->flags);
}


static void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	at_once = 1;
	shim_on_release(req, fi->fh);
}

static void amend_names(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = on_lookup;
	ops->forget = on_forget;
	ops->forget_multi = on_forget_multi;
	ops->getattr = on_getattr;
	ops->unlink = on_unlink;
	ops->open = on_open;
	ops->create = on_create;
	ops->release = on_release;
}

/* Answers. attributes: a struct fuse_attr; timeouts are in seconds. */
_Static_assert(sizeof(struct fuse_attr) == 88, "native/names.py packs it so");

static struct fuse_entry_out entry(const char *attributes, unsigned timeout, unsigned name_timeout)
{
	struct fuse_entry_out out = { .entry_valid = name_timeout, .attr_valid = timeout };

	memcpy(&out.attr, attributes, sizeof out.attr);
	out.nodeid = out.attr.ino;
	return out;
}

/* Answer LOOKUP; the kernel may remember that a name means nothing, inode 0, too. */
static int shim_reply_entry(fuse_req_t req, const char *attributes, unsigned timeout,
			    unsigned name_timeout)
{
	struct fuse_entry_out out = entry(attributes, timeout, name_timeout);

	return fuse_reply_buf(req, (const char *)&out, sizeof out);
}

/* Answer GETATTR. */
static int shim_reply_attributes(fuse_req_t req, const char *attributes, unsigned timeout)
{
	struct fuse_attr_out out = { .attr_valid = timeout };

	memcpy(&out.attr, attributes, sizeof out.attr);
	return fuse_reply_buf(req, (const char *)&out, sizeof out);
}

static struct statx_timestamp moment(uint64_t seconds, uint32_t ns)
{
	return (struct statx_timestamp){ .tv_sec = (int64_t)seconds, .tv_nsec = ns };
}

/* Answer STATX: the kernel asks for it when somebody wants to know when a file was made. */
static int shim_reply_statx(fuse_req_t req, const char *attributes, unsigned timeout,
			    int64_t birth, unsigned birth_ns)
{
	struct shim_statx_out out = { .attr_valid = timeout };
	struct fuse_attr told;

	memcpy(&told, attributes, sizeof told);
	out.stat = (struct statx){
		.stx_mask = STATX_BASIC_STATS | STATX_BTIME,
		.stx_blksize = told.blksize,
		.stx_nlink = told.nlink,
		.stx_uid = told.uid,
		.stx_gid = told.gid,
		.stx_mode = (uint16_t)told.mode,
		.stx_ino = told.ino,
		.stx_size = told.size,
		.stx_blocks = told.blocks,
		.stx_atime = moment(told.atime, told.atimensec),
		.stx_btime = moment((uint64_t)birth, birth_ns),
		.stx_ctime = moment(told.ctime, told.ctimensec),
		.stx_mtime = moment(told.mtime, told.mtimensec),
		.stx_rdev_major = major(told.rdev),
		.stx_rdev_minor = minor(told.rdev),
	};
	return fuse_reply_buf(req, (const char *)&out, sizeof out);
}

static struct shim_open_out opened(uint64_t fh, int backing_id)
{
	struct shim_open_out out = { .fh = fh, .backing_id = backing_id };

	out.open_flags = backing_id ? SHIM_OPEN_PASSTHROUGH : SHIM_OPEN_KEEP_CACHE;
	return out;
}

/* Answer OPEN; backing_id: 0, or what shim_backing_open gave, for a file reached without us. */
static int shim_reply_open(fuse_req_t req, uint64_t fh, int backing_id)
{
	struct shim_open_out out = opened(fh, backing_id);

	return fuse_reply_buf(req, (const char *)&out, sizeof out);
}

/* Answer CREATE or TMPFILE with a new file, opened as fh. */
static int shim_reply_created(fuse_req_t req, const char *attributes, unsigned timeout,
			      unsigned name_timeout, uint64_t fh, int backing_id)
{
	struct {
		struct fuse_entry_out entry;
		struct shim_open_out file;
	} out = { entry(attributes, timeout, name_timeout), opened(fh, backing_id) };

	return fuse_reply_buf(req, (const char *)&out, sizeof out);
}
