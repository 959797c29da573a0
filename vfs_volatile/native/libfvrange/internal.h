/*
 * What the parts of libfvrange share.
 *
 * Three locks, always taken in this order, with all signals blocked, so that no handler of the
 * thread that holds one can want it again:
 *
 *   call    one call of the program at a time, until the daemon has answered it
 *   report  held while pages are looked at, dropped and told of: by the helper thread, and by what
 *           changes the table of regions
 *   pages   the bitmaps "marked" and "purged"; held for a millisecond at most
 *
 * A fork takes all three. The helper never takes "call": whoever holds that may wait for the daemon,
 * and the daemon for the helper of another process.
 */
#ifndef LIBFVRANGE_INTERNAL_H
#define LIBFVRANGE_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

#define PAGE page_size
#define WORD_PAGES 64

#pragma GCC visibility push(hidden)

typedef uint64_t word;

extern size_t page_size; /* bytes */

/* One allocation. Bitmaps have a bit for each page. */
struct region {
	char *base;
	size_t pages;
	uint32_t id;    /* what the daemon calls it */
	word *marked;   /* lock "pages": volatile */
	word *purged;   /* lock "pages": dropped; INVARIANT: marked */
	word *held;     /* lock "report": holds memory, as last told */
	word *exclusive; /* lock "report": and no other process shares it */
	bool *changed;   /* lock "report": by chunk: something has not been told yet */
};

/* This process as the daemon knows it. */
struct attachment {
	pid_t pid;       /* whose it is: in a child that fork(2) did not make it is another's */
	int fd;          /* the open file that stands for the process; -1: none */
	int next_fd;     /* lock "call": for the child of the fork under way */
	int wake_fd;     /* eventfd: the helper is to look */
	int pagemap_fd;  /* /proc/self/pagemap */
	int purged_fd;   /* an empty file: touching a mapping of it is SIGBUS */
	dev_t mount;
	char *sentinel;  /* a page that no child shares but one that fork(2) did not make */
	pthread_t helper;
	bool has_helper;
	bool has_kin;    /* lock "report": has it ever forked, or was it forked? */
	bool cautious;   /* lock "report": may there be kin that the daemon does not know as such? */
	bool untold;     /* lock "report": nothing was told since the last fork */
	int gone;        /* atomic: the daemon answers no more */
	long faults;     /* lock "report": of the process, when it was last looked at */
	size_t fresh;    /* lock "call": pages marked since the helper was last woken */
};

extern struct attachment own;
extern struct region **regions; /* lock "report"; by address */
extern size_t region_count;

/* locks.c */
enum lock { LOCK_CALL, LOCK_REPORT, LOCK_PAGES };
void lock(enum lock which, sigset_t *before);
void unlock(enum lock which, const sigset_t *before);

/* bitmap.c: pages [first, end) of a bitmap */
size_t words_for(size_t pages);
bool has(const word *map, size_t page);
void put(word *map, size_t first, size_t end, bool value);
size_t run_end(const word *map, size_t first, size_t end, bool value); /* first page that is not */
size_t count_in(const word *map, size_t first, size_t end);

/* regions.c */
struct region *region_at(const void *address);
struct region *region_by_id(uint32_t id);
void *map_zeros(void *at, size_t length); /* at NULL: anywhere; else in place of what is there */
int announce(struct region *region); /* tell the daemon of it; 0 or -1 with errno */

/* link.c: talking to the daemon */
int request(unsigned long number, void *argument); /* 0 or -1 with errno; ENOTCONN: it has gone */
bool stranger(void); /* is this a child that fork(2) did not make? it may take no lock */
bool attached(void); /* is there a daemon that serves this process? */
void set_gone(void);
void wake_helper(void);

/* pages.c, all with lock "report" */
void look(struct region *region); /* brings held, exclusive and changed up to date */
bool alone(void);                 /* is there no child that fork(2) did not make? */
size_t drop(const struct anon_order *order);

/* helper.c */
void tell(uint64_t order, bool whole); /* lock "report": what has changed; whole: look at all */
int start_helper(void);

/* attach.c */
int open_pagemap(void);

#pragma GCC visibility pop

/* regions.c, for the Python class too: is this memory of ours? */
int fvrange_owns_(const void *address);

#endif
