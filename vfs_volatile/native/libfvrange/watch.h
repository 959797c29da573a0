/* SPDX-License-Identifier: MIT */
/*
 * watch.h - memory whose pages turn into zeros when they cannot be had, instead of a SIGBUS.
 *
 * For programs that cannot leave a block in its middle, as fvrange_guard.h does: the Python client.
 * A page that was purged or truncated becomes, for this process, an anonymous page of zeros at the
 * moment it is touched, and the watch remembers it.
 */
#ifndef FVRANGE_WATCH_H
#define FVRANGE_WATCH_H

#include <stddef.h>
#include <stdint.h>

/*
 * Watch whole pages of memory. Returns a number for the other calls, or -1 with errno: ENOSPC (there
 * are WATCHES of them already), or that of sigaction(2). Takes SIGBUS over for the process if it is
 * not ours; what lies elsewhere goes on to whoever had it before. Calls must not run at the same time.
 */
int fvrange_watch_start(void *start, size_t length);

/*
 * Returns whether pages were replaced, and stores where the first and behind the last of them are, in
 * bytes from the start.
 */
int fvrange_watch_lost(int watch, uint64_t *first, uint64_t *end);

/* End a watch. Nobody may touch the memory any more. */
void fvrange_watch_end(int watch);

#endif
