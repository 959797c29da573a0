/* SPDX-License-Identifier: MIT */
/*
 * fvrange.h - volatile ranges on the files of a vfs-volatile mount.
 *
 * Header-only, for C11 and C++17. The memory of a file's pages that are marked volatile may be
 * taken by the file system when its budget runs out; the owner learns of it when it unmarks them:
 *
 *     uint64_t purged;
 *     fvrange(fd, 0, 0, VRANGE_VOLATILE, VRANGE_FULL, NULL);         // droppable from now on
 *     ...
 *     if (fvrange(fd, 0, 0, VRANGE_NONVOLATILE, 0, &purged) == 0 && purged > 0)
 *         rebuild();                                                 // bytes lost; zeros now
 *
 * A touch of a purged page is SIGBUS through a mapping and ENODATA by read(2), or reads zeros
 * where the range was marked VRANGE_ZERO.
 *
 * poll(2), select(2) and epoll(7) tell of purges: an open file has POLLPRI once pages of the file
 * were purged, until FVRANGE_IOC_NEXT (what is volatile, what is purged?) is asked through it.
 */
#ifndef FVRANGE_H
#define FVRANGE_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/ioctl.h>
#include <linux/types.h>

/* mode */
#define VRANGE_NONVOLATILE 0 /* end volatility; report what was purged */
#define VRANGE_VOLATILE 1    /* allow the pages to be purged */

/* behavior of VRANGE_VOLATILE: flags */
#define VRANGE_FULL 0    /* a range chosen by the purger goes as a whole */
#define VRANGE_PARTIAL 1 /* page by page, only as much as is needed */
#define VRANGE_ZERO 2    /* touching a purged page reads zeros */
#define VRANGE_SIGBUS 4  /* touching one is an error (neither flag: the mount's default) */
#define VRANGE_PRIORITY(n) ((n) << 8) /* n 0..7, 0 goes first */

struct fvrange_args {
	__u64 start;    /* FVRANGE, PURGE: file offset in bytes; MVRANGE: address */
	__u64 length;   /* bytes; 0 = to the end of file (FVRANGE, PURGE) */
	__u32 mode;     /* VRANGE_NONVOLATILE or VRANGE_VOLATILE; 0 for PURGE */
	__u32 behavior; /* flags above; 0 for NONVOLATILE and PURGE */
	__u64 purged;   /* out: bytes of the range that were found purged */
};

struct fvrange_info {
	__u64 start;    /* in: look from this offset; out: start of the range, bytes */
	__u64 length;   /* out: bytes */
	__u32 behavior; /* out */
	__u32 state;    /* out: 1 volatile, 3 volatile and purged (the whole run is in one state) */
	__u64 reserved; /* 0 */
};

struct fvrange_vec { /* many ranges of one file, all or nothing */
	__u32 count;     /* how many of range[] are meant */
	__u32 mode;
	__u32 behavior;
	__u32 reserved;  /* 0 */
	__u64 purged;    /* out: sum, bytes */
	struct {
		__u64 start;
		__u64 length;
		__u64 purged; /* out */
	} range[512];
};

static_assert(sizeof(struct fvrange_args) == 32, "struct fvrange_args has no padding");
static_assert(sizeof(struct fvrange_info) == 32, "struct fvrange_info has no padding");
static_assert(sizeof(struct fvrange_vec) == 12312, "struct fvrange_vec has no padding");

#define FVRANGE_IOC_FVRANGE _IOWR(0xF5, 1, struct fvrange_args)
#define FVRANGE_IOC_MVRANGE _IOWR(0xF5, 2, struct fvrange_args)
#define FVRANGE_IOC_NEXT _IOWR(0xF5, 3, struct fvrange_info)
#define FVRANGE_IOC_PURGE _IOWR(0xF5, 4, struct fvrange_args) /* force: purge the volatile pages now */
#define FVRANGE_IOC_VEC _IOWR(0xF5, 5, struct fvrange_vec)

/* Internal: one request; *purged (may be NULL) is written on success only. */
static inline int fvrange_request_(int fd, unsigned long request, uint64_t start, uint64_t length,
				   int mode, int behavior, uint64_t *purged)
{
	struct fvrange_args args = {start, length, (__u32)mode, (__u32)behavior, 0};

	if (ioctl(fd, request, &args) < 0)
		return -1;
	if (purged != NULL)
		*purged = args.purged;
	return 0;
}

/*
 * Mark or unmark a byte range of an open file.
 *
 * fd        a file of a vfs-volatile mount, open for writing
 * start     file offset in bytes
 * length    bytes; 0 = to the end of file. What lies beyond the end of file is ignored
 * mode      VRANGE_VOLATILE: the pages wholly inside the range may be purged from now on (the last,
 *           partial page of the file counts as whole); already volatile pages stay as they are.
 *           VRANGE_NONVOLATILE: every page the range meets is kept from now on; pages that were
 *           purged hold zeros
 * behavior  VRANGE_* flags of the new range; 0 for VRANGE_NONVOLATILE
 * purged    out, may be NULL: bytes of the range that were found purged
 *
 * Returns 0, or -1 with errno; a failed call changes nothing and leaves *purged alone.
 * EBADF       fd is not open for writing
 * EINVAL      unknown mode or behavior bit, both VRANGE_ZERO and VRANGE_SIGBUS, behavior with
 *             VRANGE_NONVOLATILE, or start + length overflows
 * ENOTTY      fd is a directory or not a file of a vfs-volatile mount
 * EOPNOTSUPP  VRANGE_SIGBUS on a file whose data path is passthrough
 * ENOTCONN    the mount's daemon has gone
 * ENOMEM      the mount would have too many volatile ranges
 */
static inline int fvrange(int fd, uint64_t start, uint64_t length, int mode, int behavior,
			  uint64_t *purged)
{
	return fvrange_request_(fd, FVRANGE_IOC_FVRANGE, start, length, mode, behavior, purged);
}

/*
 * Mark or unmark mapped memory, given any file of the mount.
 *
 * fd        a file of the mount that holds the mapped files, open for writing
 * addr      address of the first byte
 * length    bytes
 * mode, behavior, purged   as for fvrange()
 *
 * Returns 0, or -1 with errno; a failed call changes nothing. Errors of fvrange(), and
 * ENOMEM      part of the span is not mapped
 * EINVAL      the span covers memory that is not a mapping of this mount
 * EACCES      a covered file is neither fd's own nor mapped writable by the caller
 */
static inline int mvrange_fd(int fd, void *addr, size_t length, int mode, int behavior,
			     uint64_t *purged)
{
	return fvrange_request_(fd, FVRANGE_IOC_MVRANGE, (uint64_t)(uintptr_t)addr, length, mode,
				behavior, purged);
}

/* Internal: f_type of every FUSE file system (FUSE_SUPER_MAGIC, uapi <linux/magic.h>). */
#define FVRANGE_FUSE_MAGIC_ 0x65735546

/* Internal: longest line of /proc/self/maps whose path can be opened again (PATH_MAX and fields). */
#define FVRANGE_LINE_MAX_ (4096 + 128)

/* Internal: O_CLOEXEC, which <fcntl.h> hides under a bare -std=c11. */
#ifdef O_CLOEXEC
#define FVRANGE_O_CLOEXEC_ O_CLOEXEC
#else
#define FVRANGE_O_CLOEXEC_ 0
#endif

/* Internal: undo the one escape of /proc/PID/maps, "\012" for a newline, in place. */
static inline void fvrange_unescape_(char *path)
{
	char *escape;

	while ((escape = strstr(path, "\\012")) != NULL) {
		*escape = '\n';
		memmove(escape + 1, escape + 4, strlen(escape + 4) + 1);
	}
}

/*
 * Internal: the line of /proc/self/maps whose mapping holds addr. Writes the file's device, inode
 * and path (empty when no file is mapped there). Returns 0, or -1 with errno; ENOMEM: not mapped.
 */
static inline int fvrange_mapping_(uintptr_t addr, uint64_t *device, uint64_t *inode,
				   char path[FVRANGE_LINE_MAX_])
{
	char line[FVRANGE_LINE_MAX_];
	FILE *maps = fopen("/proc/self/maps", "re");
	int found = 0;
	int whole = 1; /* the next fgets() begins a line */

	if (maps == NULL)
		return -1;
	while (!found && fgets(line, sizeof(line), maps) != NULL) {
		unsigned long first, last;
		unsigned long long number;
		unsigned int major_no, minor_no;
		int begins = whole;
		int path_at = 0;

		whole = strchr(line, '\n') != NULL;
		if (!begins || sscanf(line, "%lx-%lx %*s %*x %x:%x %llu %n", &first, &last,
				      &major_no, &minor_no, &number, &path_at) < 5)
			continue;
		if (addr < first || addr >= last)
			continue;
		found = 1;
		*device = makedev(major_no, minor_no);
		*inode = number;
		line[strcspn(line, "\n")] = '\0';
		memcpy(path, line + path_at, strlen(line + path_at) + 1);
	}
	fclose(maps);
	if (!found || !whole) {
		errno = found ? ENAMETOOLONG : ENOMEM;
		return -1;
	}
	fvrange_unescape_(path);
	return 0;
}

/* Internal: open for writing the file that is mapped at addr. Returns an fd, or -1 with errno. */
static inline int fvrange_open_mapped_(uintptr_t addr)
{
	char path[FVRANGE_LINE_MAX_];
	struct stat file;
	struct statfs filesystem;
	uint64_t device = 0;
	uint64_t inode = 0;

	if (fvrange_mapping_(addr, &device, &inode, path) < 0)
		return -1;
	if (path[0] != '/') { /* anonymous memory, [heap], [stack] ... */
		errno = EINVAL;
		return -1;
	}
	if (stat(path, &file) < 0 || statfs(path, &filesystem) < 0)
		return -1;
	if ((uint64_t)file.st_dev != device || (uint64_t)file.st_ino != inode) { /* renamed over */
		errno = ENOENT;
		return -1;
	}
	if (filesystem.f_type != FVRANGE_FUSE_MAGIC_) {
		errno = EINVAL;
		return -1;
	}
	return open(path, O_RDWR | FVRANGE_O_CLOEXEC_);
}

/*
 * Mark or unmark mapped memory; the file is found in /proc/self/maps by the first address.
 *
 * addr, length, mode, behavior, purged   as for mvrange_fd()
 *
 * Returns 0, or -1 with errno; a failed call changes nothing. Errors of mvrange_fd(), except that
 * memory which is not a mapping of a vfs-volatile mount is always EINVAL, and
 * ENOENT        the mapped file is unlinked, or out of sight of this process: use mvrange_fd()
 * ENAMETOOLONG  its path is longer than open(2) takes: use mvrange_fd()
 * EACCES        the file may not be opened for writing
 */
static inline int mvrange(void *addr, size_t length, int mode, int behavior, uint64_t *purged)
{
	int fd = fvrange_open_mapped_((uintptr_t)addr);
	int result, error;

	if (fd < 0)
		return -1;
	result = mvrange_fd(fd, addr, length, mode, behavior, purged);
	error = errno == ENOTTY ? EINVAL : errno; /* some other FUSE file system */
	close(fd);
	if (result < 0)
		errno = error;
	return result;
}

#endif /* FVRANGE_H */
