/* SPDX-License-Identifier: MIT */
/*
 * fvrange_anon.h - volatile ranges on anonymous memory, for C11 and C++17. Link with -lfvrange.
 *
 * Memory from fvrange_anon_alloc() is private anonymous memory of this process. It counts into the
 * budget of a vfs-volatile mount, and what of it is marked volatile may be dropped when that runs
 * out, in one order with the files of the mount:
 *
 *     uint64_t purged;
 *     fvrange_attach("/mnt/cache");
 *     char *memory = fvrange_anon_alloc(length);
 *     ...
 *     mvrange(memory, length, VRANGE_VOLATILE, VRANGE_PARTIAL, NULL);   // droppable from now on
 *     ...
 *     if (mvrange(memory, length, VRANGE_NONVOLATILE, 0, &purged) == 0 && purged > 0)
 *         rebuild();                                                    // bytes lost; zeros now
 *
 * Marks belong to the process: fork(2) copies them, execve(2) and exit(2) end them. A page that
 * parent and child still share is dropped only when all who share it have marked it.
 *
 * All calls may be made by any thread. mvrange() may be called by a signal handler too, one of
 * SIGBUS among them: VRANGE_NONVOLATILE there gives zeros to be filled again.
 *
 * A thread of the library serves the mount. Children are to be made by fork(2): one made by
 * clone(2) itself has no marks and no mount, and what it shares is not dropped.
 */
#ifndef FVRANGE_ANON_H
#define FVRANGE_ANON_H

#include "fvrange.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Let a mount serve this process and the children that it forks.
 *
 * mount_dir  a directory of a vfs-volatile mount in which this process may create files
 *
 * Returns 0, or -1 with errno. Attaching to the same mount again is no error; after the mount has
 * gone another one may be attached: marks have ended then, and what is purged stays so.
 * EACCES, ENOENT, ENOTDIR   as open(2)
 * ENOTTY                    not a directory of a vfs-volatile mount
 * EBUSY                     attached to another mount
 * EAGAIN, EMFILE, ENOMEM    no thread, descriptors or memory
 * ENOTCONN                  the mount's daemon has gone
 */
int fvrange_attach(const char *mount_dir);

/*
 * Allocate memory, zeroed, at the start of a page. length is rounded up to whole pages.
 *
 * Returns NULL with errno: EINVAL (length is 0), ENOMEM, ENOSPC (4,096 of the process, or very many
 * of others, are there already: allocate more at a time), ENOTCONN (not attached, or the mount has
 * gone).
 */
void *fvrange_anon_alloc(size_t length);

/*
 * Free what fvrange_anon_alloc() returned, all of it, also when the mount has gone.
 *
 * Returns 0, or -1 with errno EINVAL (this is no such memory, or of another length).
 */
int fvrange_anon_free(void *memory, size_t length);

/*
 * As mvrange() of fvrange.h, also for memory of fvrange_anon_alloc(): mark it or take it back.
 *
 * Returns 0, or -1 with errno; a failed call changes nothing. Errors of mvrange(), and
 * ENOTCONN   the mount has gone: the memory stays as it is, nothing more is purged
 * ENOMEM     part of the span is not mapped; or the kernel has no room for more mappings (see
 *            vm.max_map_count): purged pages then may read as zeros, and are still reported
 */
int fvrange_mvrange(void *addr, size_t length, int mode, int behavior, uint64_t *purged);
#define mvrange fvrange_mvrange

/* Many spans of memory of fvrange_anon_alloc() in one call. */
struct mvrange_span {
	void *addr;
	size_t length;   /* bytes */
	uint64_t purged; /* out: bytes of the span that were found purged */
};

/*
 * As mvrange() for count spans, all or nothing: much faster than one by one.
 *
 * Returns 0, or -1 with errno; EINVAL also for a span that is no memory of fvrange_anon_alloc(), and
 * E2BIG for more than 512 spans (parts of spans, where one covers several allocations).
 */
int fvrange_mvrange_many(struct mvrange_span *spans, size_t count, int mode, int behavior);
#define mvrange_many fvrange_mvrange_many

#ifdef __cplusplus
}
#endif

#endif /* FVRANGE_ANON_H */
