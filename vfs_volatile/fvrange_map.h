/* SPDX-License-Identifier: MIT */
/*
 * fvrange_map.h - mappings whose purged pages are SIGBUS, at the speed of tmpfs.
 *
 * Header-only, for C11 and C++17; link with -pthread. For files of a mount whose purged pages read as
 * zeros (mount --access zero, VRANGE_ZERO), which the kernel maps without asking the daemon:
 *
 *     char *data = fvrange_map(fd, length, 0);     // as mmap(2), shared, for loads and stores
 *     fvrange(fd, 0, 0, VRANGE_VOLATILE, 0, NULL);
 *     ...                                          // touching a purged page is SIGBUS (BUS_ADRERR)
 *     fvrange_unmap(data, length);
 *
 * The process registers the mapping with userfaultfd(2), without any privilege. Holes of the mapped
 * bytes hold memory afterwards, so that only purged pages are missing; pages that are unmarked
 * or punched while the file is mapped read as zeros. A child of fork(2) gets SIGBUS too.
 */
#ifndef FVRANGE_MAP_H
#define FVRANGE_MAP_H

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/userfaultfd.h>

#include "fvrange.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif
#ifndef __cplusplus
extern long syscall(long number, ...); /* hidden under a bare -std=c11 */
#endif

/* mode and behavior 0; out: behavior VRANGE_ZERO if the mapping must be registered */
#ifndef FVRANGE_IOC_MAP
#define FVRANGE_IOC_MAP _IOWR(0xF5, 6, struct fvrange_args)
#endif

struct fvrange_mapping_ {
	struct fvrange_mapping_ *next;
	void *address;
	size_t length;
};

/* Internal: the userfaultfd of this process (-1: none yet) and what is registered with it. */
static struct fvrange_mapping_ *fvrange_mappings_;
static int fvrange_userfaultfd_ = -1;
static pthread_mutex_t fvrange_maps_lock_ = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fvrange_maps_once_ = PTHREAD_ONCE_INIT;

/* Internal: register a mapping, with the lock held. Returns 0, or -1 with errno. */
static inline int fvrange_register_(void *address, size_t length)
{
	struct uffdio_register asks;

	if (fvrange_userfaultfd_ < 0) {
		struct uffdio_api api;
		int fd = (int)syscall(SYS_userfaultfd, FVRANGE_O_CLOEXEC_ | UFFD_USER_MODE_ONLY);

		if (fd < 0)
			return -1;
		memset(&api, 0, sizeof(api));
		api.api = UFFD_API;
		api.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM;
		if (ioctl(fd, UFFDIO_API, &api) < 0) {
			int error = errno;

			close(fd);
			errno = error;
			return -1;
		}
		fvrange_userfaultfd_ = fd;
	}
	memset(&asks, 0, sizeof(asks));
	asks.range.start = (__u64)(uintptr_t)address;
	asks.range.len = (length + 4095) / 4096 * 4096;
	asks.mode = UFFDIO_REGISTER_MODE_MISSING;
	return ioctl(fvrange_userfaultfd_, UFFDIO_REGISTER, &asks) < 0 ? -1 : 0;
}

static inline void fvrange_maps_prepare_(void)
{
	pthread_mutex_lock(&fvrange_maps_lock_);
}

static inline void fvrange_maps_parent_(void)
{
	pthread_mutex_unlock(&fvrange_maps_lock_);
}

/* Internal: a child inherits the mappings and not that they are registered; rather none than zeros. */
static inline void fvrange_maps_child_(void)
{
	if (fvrange_userfaultfd_ >= 0)
		close(fvrange_userfaultfd_);
	fvrange_userfaultfd_ = -1;
	for (struct fvrange_mapping_ *at = fvrange_mappings_; at != NULL; at = at->next)
		if (fvrange_register_(at->address, at->length) < 0)
			mprotect(at->address, at->length, PROT_NONE);
	pthread_mutex_unlock(&fvrange_maps_lock_);
}

static inline void fvrange_maps_start_(void)
{
	pthread_atfork(fvrange_maps_prepare_, fvrange_maps_parent_, fvrange_maps_child_);
}

/* Internal: keep a registered mapping in mind. Returns 0, or -1 with errno. */
static inline int fvrange_keep_(void *address, size_t length)
{
	struct fvrange_mapping_ *kept =
		(struct fvrange_mapping_ *)malloc(sizeof(struct fvrange_mapping_));
	int result = -1;

	if (kept == NULL)
		return -1;
	pthread_once(&fvrange_maps_once_, fvrange_maps_start_);
	pthread_mutex_lock(&fvrange_maps_lock_);
	if (fvrange_register_(address, length) == 0) {
		kept->address = address;
		kept->length = length;
		kept->next = fvrange_mappings_;
		fvrange_mappings_ = kept;
		result = 0;
	}
	pthread_mutex_unlock(&fvrange_maps_lock_);
	if (result < 0)
		free(kept);
	return result;
}

/*
 * Map a file, shared, for loads and stores; touching a purged page is SIGBUS.
 *
 * fd       a file of a vfs-volatile mount, open for reading and writing
 * length   bytes, more than 0
 * offset   in the file, in bytes, a multiple of the page size
 *
 * Returns the address, or MAP_FAILED with errno. Errors of mmap(2), and
 * EBADF       fd is not open for writing
 * EOPNOTSUPP  the file is on the cached data path, and its purged pages read as zeros: mark it
 *             VRANGE_SIGBUS instead
 * ENOSPC      no memory for the holes
 * ENOSYS      the kernel lacks userfaultfd(2)
 * EPERM       it is refused, by seccomp or (before Linux 5.11, EINVAL) by the sysctl
 *             vm.unprivileged_userfaultfd
 */
static inline void *fvrange_map(int fd, size_t length, off_t offset)
{
	struct fvrange_args args = {(__u64)offset, length, 0, 0, 0};
	void *address;

	if (ioctl(fd, FVRANGE_IOC_MAP, &args) < 0)
		return MAP_FAILED;
	address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (address == MAP_FAILED || !(args.behavior & VRANGE_ZERO))
		return address;
	if (fvrange_keep_(address, length) < 0) {
		int error = errno;

		munmap(address, length);
		errno = error;
		return MAP_FAILED;
	}
	return address;
}

/* Unmap what fvrange_map() returned, the whole of it. Returns 0, or -1 with errno. */
static inline int fvrange_unmap(void *address, size_t length)
{
	int result;

	pthread_mutex_lock(&fvrange_maps_lock_);
	result = munmap(address, length);
	for (struct fvrange_mapping_ **at = &fvrange_mappings_; result == 0 && *at != NULL;
	     at = &(*at)->next) {
		if ((*at)->address == address) {
			struct fvrange_mapping_ *gone = *at;

			*at = gone->next;
			free(gone);
			break;
		}
	}
	pthread_mutex_unlock(&fvrange_maps_lock_);
	return result;
}

#endif /* FVRANGE_MAP_H */
