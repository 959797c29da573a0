/*
 * What libfvrange and the daemon say to each other, by ioctls of an open file of the mount. This is
 * internal: both come in one package. abi/anonymous.py has the same in Python; a test compares.
 *
 * ANON_ATTACH makes the open file stand for this process, until it is closed: by exit(2), by
 * execve(2), or by the parent's handler of a fork that failed. The daemon's orders are announced by
 * POLLPRI, so that no thread is ever parked in a request that only the daemon could end.
 */
#ifndef LIBFVRANGE_PROTOCOL_H
#define LIBFVRANGE_PROTOCOL_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define ANON_VERSION 1
#define ANON_CHUNK 32768u /* pages that one report describes */
#define ANON_RUNS 1024u
#define ANON_RANGES 512u

struct anon_attach {
	__u64 token;     /* in: 0, or what ANON_FORK gave the parent */
	__u32 version;   /* in */
	__u32 reserved;
};

struct anon_fork {
	__u64 token; /* out: who attaches with it is the child that is about to be born */
};

struct anon_region {
	__u64 address;
	__u64 pages;
	__u32 region; /* out: its number, the same in children; in for ANON_FREE */
	__u32 reserved;
};

struct anon_range {
	__u32 region;
	__u32 first; /* pages [first, end) */
	__u32 end;
	__u32 reserved;
};

struct anon_mark {
	__u32 mode;
	__u32 behavior;
	struct anon_range range;
};

struct anon_marks {
	__u32 mode;
	__u32 behavior;
	__u32 count;
	__u32 reserved;
	struct anon_range range[ANON_RANGES];
};

enum anon_order_kind {
	ANON_LOOK = 1, /* report what has changed */
	ANON_DROP = 2, /* drop pages that are marked, then report; touching them is SIGBUS */
	ANON_ZERO = 3, /* the same; touching them reads zeros */
};

struct anon_order {
	__u64 id;
	__u32 kind;
	__u32 region;
	__u32 count;
	__u32 reserved;
	struct {
		__u32 first;
		__u32 end;
	} run[ANON_RUNS];
};

#define ANON_LAST 1u /* flag of a report: all that had changed has been told */

struct anon_report {
	__u64 order;  /* with ANON_LAST: the order that this answers, or 0 */
	__u32 region;
	__u32 first;  /* first page; the bitmaps are of the pages from here on, lowest bit first */
	__u32 pages;  /* how many; 0 with ANON_LAST */
	__u32 flags;
	__u8 held[ANON_CHUNK / 8];      /* holds memory */
	__u8 exclusive[ANON_CHUNK / 8]; /* shared with no other process; meant where held */
	__u8 purged[ANON_CHUNK / 8];    /* was dropped, and not taken back since */
};

#define ANON_ATTACH _IOW(0xF5, 16, struct anon_attach)
#define ANON_FORK _IOR(0xF5, 17, struct anon_fork)
#define ANON_ALLOC _IOWR(0xF5, 18, struct anon_region)
#define ANON_FREE _IOW(0xF5, 19, struct anon_region)
#define ANON_MARK _IOW(0xF5, 20, struct anon_mark)
#define ANON_MARKS _IOW(0xF5, 21, struct anon_marks)
#define ANON_FETCH _IOR(0xF5, 22, struct anon_order) /* EAGAIN: there is none */
#define ANON_REPORT _IOW(0xF5, 23, struct anon_report)

#endif
