/* Marking the program's memory, and taking it back. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <sys/mman.h>

#include "fvrange.h"

/* Wake the helper once so many pages were marked: what they hold should soon be known. */
#define FRESH_PAGES (((size_t)4 << 20) / PAGE)

#define BEHAVIOR_BITS (VRANGE_PARTIAL | VRANGE_ZERO | VRANGE_SIGBUS | VRANGE_PRIORITY(7))

/* Header only: files, and memory that is not ours. */
static int mapped_mvrange(void *addr, size_t length, int mode, int behavior, uint64_t *purged)
{
	return mvrange(addr, length, mode, behavior, purged);
}

#include "fvrange_anon.h"

/*
 * Pages that were dropped hold zeros again: those mapped away come back, and where touching them
 * read zeros, what was written since goes. If the kernel has no room for the mappings (ENOMEM) some
 * may do so already; all still count as purged.
 */
static int map_back(const struct region *region, size_t first, size_t end)
{
	size_t at, stop;

	for (at = first; (at = run_end(region->purged, at, end, false)) < end; at = stop) {
		stop = run_end(region->purged, at, end, true);
		if (map_zeros(region->base + at * PAGE, (stop - at) * PAGE) == MAP_FAILED)
			return -1;
	}
	return 0;
}

/* Pages of one region that a span means. */
struct part {
	struct region *region;
	size_t first, end;
};

/* Bytes of [start, end), of a region, that are purged. */
static uint64_t purged_bytes(const struct region *region, size_t start, size_t end)
{
	size_t first = start / PAGE, last = (end - 1) / PAGE;
	uint64_t found = count_in(region->purged, first, last + 1) * PAGE;

	if (has(region->purged, first))
		found -= start % PAGE;
	if (has(region->purged, last))
		found -= (last + 1) * PAGE - end;
	return found;
}

/* What is left of a span from "at" on in its region; false if it is no memory of ours. */
static bool next_part(const char *at, const char *end, int mode, struct part *part,
		      const char **after)
{
	struct region *region = region_at(at);
	const char *stop;

	if (region == NULL)
		return false;
	stop = region->base + region->pages * PAGE;
	if (stop > end)
		stop = end;
	part->region = region;
	part->first = (size_t)(at - region->base);
	part->end = (size_t)(stop - region->base);
	if (mode == VRANGE_VOLATILE) { /* what lies wholly inside; else all that is met */
		part->first = (part->first + PAGE - 1) / PAGE;
		part->end = part->end / PAGE;
		if (part->end < part->first)
			part->end = part->first;
	} else {
		part->first = part->first / PAGE;
		part->end = (part->end + PAGE - 1) / PAGE;
	}
	*after = stop;
	return true;
}

/* What the daemon is told of one call. */
struct telling {
	struct anon_marks marks;
	size_t parts; /* of all spans */
};

static int flush(struct telling *telling)
{
	struct anon_marks *marks = &telling->marks;
	struct anon_mark one = {marks->mode, marks->behavior, marks->range[0]};

	if (marks->count == 0)
		return 0;
	return marks->count == 1 ? request(ANON_MARK, &one) : request(ANON_MARKS, marks);
}

static void tell_of(struct telling *telling, const struct part *part)
{
	struct anon_range range = {part->region->id, (uint32_t)part->first, (uint32_t)part->end, 0};

	telling->marks.range[telling->marks.count++] = range;
}

static bool makes_sense(int mode, int behavior)
{
	int both = VRANGE_ZERO | VRANGE_SIGBUS;

	return mode == VRANGE_NONVOLATILE ? behavior == 0
					  : mode == VRANGE_VOLATILE && !(behavior & ~BEHAVIOR_BITS) &&
						    (behavior & both) != both;
}

/* A span that is ours in part: ENOMEM if the rest is not mapped, EINVAL if it is something else. */
static int refuse(const struct mvrange_span *span)
{
	uintptr_t first = (uintptr_t)span->addr / PAGE * PAGE;
	uintptr_t end = (uintptr_t)span->addr + span->length;
	unsigned char there;

	for (; first < end; first += PAGE)
		if (mincore((void *)first, PAGE, &there) < 0 && errno == ENOMEM)
			return -1;
	errno = EINVAL;
	return -1;
}

/* What is done with each part of a span, with lock "pages". */
typedef int act(struct telling *telling, struct mvrange_span *span, const struct part *part,
		const char *from, const char *to);

static int each_part(struct mvrange_span *span, struct telling *telling, act *act)
{
	const char *at = span->addr, *end = at + span->length;
	struct part part;

	while (at < end) {
		const char *from = at;

		if (!next_part(from, end, (int)telling->marks.mode, &part, &at))
			return refuse(span);
		telling->parts++;
		if (act != NULL && act(telling, span, &part, from, at) < 0)
			return -1;
	}
	return 0;
}

/* What the daemon is to know: what becomes volatile, or may have been so. */
static int note(struct telling *telling, struct mvrange_span *span, const struct part *part,
		const char *from, const char *to)
{
	size_t marked = count_in(part->region->marked, part->first, part->end);

	(void)span, (void)from, (void)to;
	if (telling->marks.mode == VRANGE_VOLATILE ? marked < part->end - part->first : marked > 0)
		tell_of(telling, part);
	return 0;
}

/* VOLATILE, when the daemon knows. */
static int mark(struct telling *telling, struct mvrange_span *span, const struct part *part,
		const char *from, const char *to)
{
	char *base = part->region->base;
	size_t marked = count_in(part->region->marked, part->first, part->end);

	(void)telling;
	span->purged += purged_bytes(part->region, (size_t)(from - base), (size_t)(to - base));
	own.fresh += part->end - part->first - marked;
	put(part->region->marked, part->first, part->end, true);
	return 0;
}

static int restore(struct telling *telling, struct mvrange_span *span, const struct part *part,
		   const char *from, const char *to)
{
	(void)telling, (void)span, (void)from, (void)to;
	return map_back(part->region, part->first, part->end);
}

/* NONVOLATILE, after restore(): the answer is known here, and exact. */
static int forget(struct telling *telling, struct mvrange_span *span, const struct part *part,
		  const char *from, const char *to)
{
	char *base = part->region->base;

	(void)telling;
	span->purged += purged_bytes(part->region, (size_t)(from - base), (size_t)(to - base));
	put(part->region->purged, part->first, part->end, false);
	put(part->region->marked, part->first, part->end, false);
	return 0;
}

static int each_span(struct mvrange_span *spans, size_t count, struct telling *telling, act *act)
{
	for (size_t i = 0; i < count; i++) {
		spans[i].purged = 0;
		if (each_part(&spans[i], telling, act) < 0)
			return -1;
	}
	return 0;
}

/*
 * With lock "call". The daemon is told of what is taken back before it is: if that fails nothing has
 * changed, and what is dropped until it has heard is in the answer, which is found here.
 */
static int change_all(struct mvrange_span *spans, size_t count, int mode, int behavior)
{
	static struct telling telling; /* too large for the stack of a signal handler */
	sigset_t before;
	int result;

	telling.marks.mode = (uint32_t)mode;
	telling.marks.behavior = (uint32_t)behavior;
	telling.marks.count = 0;
	telling.parts = 0;
	lock(LOCK_PAGES, &before);
	result = each_span(spans, count, &telling, NULL);
	if (result == 0 && telling.parts > ANON_RANGES) {
		errno = E2BIG;
		result = -1;
	}
	if (result == 0)
		each_span(spans, count, &telling, note);
	unlock(LOCK_PAGES, &before);
	if (result < 0 || flush(&telling) < 0)
		return -1;
	lock(LOCK_PAGES, &before);
	if (mode == VRANGE_VOLATILE)
		each_span(spans, count, &telling, mark);
	else if ((result = each_span(spans, count, &telling, restore)) == 0)
		each_span(spans, count, &telling, forget);
	unlock(LOCK_PAGES, &before);
	if (own.fresh >= FRESH_PAGES) {
		own.fresh = 0;
		wake_helper();
	}
	return result;
}

__attribute__((visibility("default"))) int
fvrange_mvrange_many(struct mvrange_span *spans, size_t count, int mode, int behavior)
{
	sigset_t before;
	int result = -1;
	int error = 0;

	for (size_t i = 0; i < count; i++)
		if ((uintptr_t)spans[i].addr + spans[i].length < (uintptr_t)spans[i].addr)
			error = EINVAL;
	if (error || !makes_sense(mode, behavior)) {
		errno = EINVAL;
		return -1;
	}
	if (stranger()) {
		errno = ENOTCONN;
		return -1;
	}
	lock(LOCK_CALL, &before);
	if (!attached())
		errno = ENOTCONN;
	else
		result = change_all(spans, count, mode, behavior);
	error = errno;
	unlock(LOCK_CALL, &before);
	errno = error;
	return result;
}

__attribute__((visibility("default"))) int fvrange_mvrange(void *addr, size_t length, int mode,
							   int behavior, uint64_t *purged)
{
	struct mvrange_span span = {addr, length, 0};

	if (!fvrange_owns_(addr))
		return mapped_mvrange(addr, length, mode, behavior, purged);
	if (fvrange_mvrange_many(&span, 1, mode, behavior) < 0)
		return -1;
	if (purged != NULL)
		*purged = span.purged;
	return 0;
}
