/* The program's memory: allocating it, marking it, taking it back. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fvrange.h"

struct region **regions;
size_t region_count;
static size_t capacity; /* of regions */

/* Wake the helper once so many pages were marked: what they hold should soon be known. */
#define FRESH_PAGES (((size_t)4 << 20) / PAGE)

#define BEHAVIOR_BITS (VRANGE_PARTIAL | VRANGE_ZERO | VRANGE_SIGBUS | VRANGE_PRIORITY(7))

/* Header only: files, and memory that is not ours. */
static int mapped_mvrange(void *addr, size_t length, int mode, int behavior, uint64_t *purged)
{
	return mvrange(addr, length, mode, behavior, purged);
}

#include "fvrange_anon.h"

/* ---- the table ---- */

/* Where in the table a region stands or would stand that begins at or before an address. */
static size_t place_of(const char *address)
{
	size_t low = 0, high = region_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (regions[middle]->base <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct region *region_at(const void *address)
{
	const char *at = address;
	size_t place = place_of(at);
	struct region *found = place ? regions[place - 1] : NULL;

	return found != NULL && at < found->base + found->pages * PAGE ? found : NULL;
}

struct region *region_by_id(uint32_t id)
{
	for (size_t i = 0; i < region_count; i++)
		if (regions[i]->id == id)
			return regions[i];
	return NULL;
}

/* With locks "report" and "pages". */
static int insert(struct region *region)
{
	size_t place = place_of(region->base);

	if (region_count == capacity) {
		size_t more = capacity ? 2 * capacity : 64;
		struct region **grown = realloc(regions, more * sizeof *grown);

		if (grown == NULL)
			return -1;
		regions = grown;
		capacity = more;
	}
	memmove(regions + place + 1, regions + place, (region_count - place) * sizeof *regions);
	regions[place] = region;
	region_count++;
	return 0;
}

/* With lock "report". */
static void remove_region(struct region *region)
{
	sigset_t before;
	size_t place;

	lock(LOCK_PAGES, &before);
	place = place_of(region->base) - 1;
	region_count--;
	memmove(regions + place, regions + place + 1, (region_count - place) * sizeof *regions);
	unlock(LOCK_PAGES, &before);
}

/* ---- allocating ---- */

static void *map_zeros(void *at, size_t length)
{
	void *memory = mmap(at, length, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	/* A huge page would be shared, and dropped, as a whole. */
	if (memory != MAP_FAILED)
		madvise(memory, length, MADV_NOHUGEPAGE);
	return memory;
}

static struct region *make_region(char *base, size_t pages)
{
	size_t words = words_for(pages);
	struct region *region = calloc(1, sizeof *region);

	if (region == NULL)
		return NULL;
	region->base = base;
	region->pages = pages;
	region->marked = calloc(4 * words, sizeof(word));
	region->changed = calloc((pages + ANON_CHUNK - 1) / ANON_CHUNK, sizeof(bool));
	if (region->marked == NULL || region->changed == NULL) {
		free(region->marked);
		free(region->changed);
		free(region);
		return NULL;
	}
	region->purged = region->marked + words;
	region->held = region->purged + words;
	region->exclusive = region->held + words;
	return region;
}

static void destroy_region(struct region *region)
{
	free(region->marked);
	free(region->changed);
	free(region);
}

int announce(struct region *region)
{
	struct anon_region asked = {(uintptr_t)region->base, region->pages, 0, 0};

	if (request(ANON_ALLOC, &asked) < 0)
		return -1;
	region->id = asked.region;
	return 0;
}

/* With locks "call" and "report". */
static int enter(char *base, size_t pages)
{
	struct region *region = make_region(base, pages);
	sigset_t before;
	int result;

	if (region == NULL)
		return -1;
	lock(LOCK_PAGES, &before);
	result = insert(region);
	unlock(LOCK_PAGES, &before);
	if (result == 0 && announce(region) == 0)
		return 0;
	if (result == 0)
		remove_region(region);
	destroy_region(region);
	return -1;
}

/* Memory that the program may use from now on as ours. Returns 0, or -1 with errno. */
static int adopt(char *base, size_t pages)
{
	sigset_t before_call, before_report;
	int result;

	lock(LOCK_CALL, &before_call);
	lock(LOCK_REPORT, &before_report);
	result = enter(base, pages);
	unlock(LOCK_REPORT, &before_report);
	unlock(LOCK_CALL, &before_call);
	return result;
}

/* The opposite of adopt(): it is the program's alone again, and may be unmapped. */
static int disown(char *base, size_t pages)
{
	sigset_t before_call, before_report;
	struct anon_region asked = {0};
	struct region *region;
	int result = -1;

	lock(LOCK_CALL, &before_call);
	lock(LOCK_REPORT, &before_report);
	region = region_at(base);
	if (region == NULL || region->base != base || region->pages != pages) {
		errno = EINVAL;
	} else {
		remove_region(region);
		asked.region = region->id;
		request(ANON_FREE, &asked); /* what has gone knows of no memory */
		destroy_region(region);
		result = 0;
	}
	unlock(LOCK_REPORT, &before_report);
	unlock(LOCK_CALL, &before_call);
	return result;
}

__attribute__((visibility("default"))) void *fvrange_anon_alloc(size_t length)
{
	size_t pages = length / PAGE + (length % PAGE != 0);
	char *memory;

	if (pages == 0 || pages > UINT32_MAX) {
		errno = pages ? ENOMEM : EINVAL;
		return NULL;
	}
	if (!attached()) {
		errno = ENOTCONN;
		return NULL;
	}
	memory = map_zeros(NULL, pages * PAGE);
	if (memory == MAP_FAILED)
		return NULL;
	if (adopt(memory, pages) < 0) {
		int error = errno;

		munmap(memory, pages * PAGE);
		errno = error;
		return NULL;
	}
	return memory;
}

__attribute__((visibility("default"))) int fvrange_anon_free(void *memory, size_t length)
{
	size_t pages = length / PAGE + (length % PAGE != 0);

	if (disown(memory, pages) < 0)
		return -1;
	return munmap(memory, pages * PAGE);
}

/* For the Python class, whose memory Python itself maps and unmaps. */
__attribute__((visibility("default"))) int fvrange_adopt_(void *memory, size_t length)
{
	madvise(memory, length, MADV_NOHUGEPAGE);
	return adopt(memory, length / PAGE);
}

__attribute__((visibility("default"))) int fvrange_disown_(void *memory, size_t length)
{
	return disown(memory, length / PAGE);
}

__attribute__((visibility("default"))) int fvrange_owns_(const void *address)
{
	sigset_t before;
	int found;

	if (stranger())
		return region_at(address) != NULL;
	lock(LOCK_PAGES, &before);
	found = region_at(address) != NULL;
	unlock(LOCK_PAGES, &before);
	return found;
}

/* ---- marking and taking back ---- */

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

/* VOLATILE: the daemon needs to know only if a page becomes so. */
static void mark(struct telling *telling, const struct part *part)
{
	size_t pages = part->end - part->first;

	if (count_in(part->region->marked, part->first, part->end) == pages)
		return;
	put(part->region->marked, part->first, part->end, true);
	own.fresh += pages;
	tell_of(telling, part);
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

/* VOLATILE, and before NONVOLATILE: what the daemon is to know. */
static int note(struct telling *telling, struct mvrange_span *span, const struct part *part,
		const char *from, const char *to)
{
	char *base = part->region->base;

	span->purged += purged_bytes(part->region, (size_t)(from - base), (size_t)(to - base));
	if (telling->marks.mode == VRANGE_VOLATILE)
		mark(telling, part);
	else if (count_in(part->region->marked, part->first, part->end) > 0)
		tell_of(telling, part);
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
	if (mode == VRANGE_NONVOLATILE) {
		lock(LOCK_PAGES, &before);
		result = each_span(spans, count, &telling, restore);
		if (result == 0)
			each_span(spans, count, &telling, forget);
		unlock(LOCK_PAGES, &before);
	}
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
