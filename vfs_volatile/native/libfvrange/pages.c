/* What the kernel says of pages (/proc/self/pagemap), and dropping them. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT ((uint64_t)1 << 63)
#define PM_SWAPPED ((uint64_t)1 << 62)
#define PM_EXCLUSIVE ((uint64_t)1 << 56)

/* <linux/fs.h> of Linux 6.7, for older headers. */
struct found_pages {
	uint64_t start, end, categories;
};
struct scan_pages {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_PAGES _IOWR('f', 16, struct scan_pages)
#define IS_PRESENT ((uint64_t)1 << 3)
#define IS_SWAPPED ((uint64_t)1 << 4)
#define IS_ZERO_PAGE ((uint64_t)1 << 5)

#define FOUND 256
#define ENTRIES 512

/* What one lock of "pages" serves: half a millisecond of dropping. */
#define STEP_PAGES (((size_t)4 << 20) / PAGE)

/* Entries of pages [first, end), ENTRIES at most. False if they cannot be read. */
static bool entries_of(const char *base, size_t first, size_t end, uint64_t entry[ENTRIES])
{
	size_t size = (end - first) * sizeof *entry;
	off_t offset = (off_t)(((uintptr_t)base / PAGE + first) * sizeof *entry);

	return pread(own.pagemap_fd, entry, size, offset) == (ssize_t)size;
}

/* For kernels before 6.7: here the zero page counts as memory. */
static bool read_held(const char *base, size_t first, size_t end, word *held, size_t shift)
{
	uint64_t entry[ENTRIES];

	for (size_t at = first; at < end; at += ENTRIES) {
		size_t stop = end - at < ENTRIES ? end : at + ENTRIES;

		if (!entries_of(base, at, stop, entry))
			return false;
		for (size_t page = at; page < stop; page++)
			if (entry[page - at] & (PM_PRESENT | PM_SWAPPED))
				put(held, page - shift, page - shift + 1, true);
	}
	return true;
}

/* Sets bit (page - shift) of held for each page of [first, end) that holds memory. */
static bool find_held(const char *base, size_t first, size_t end, word *held, size_t shift)
{
	struct found_pages found[FOUND];
	struct scan_pages scan = {
		.size = sizeof scan,
		.start = (uintptr_t)base + first * PAGE,
		.end = (uintptr_t)base + end * PAGE,
		.vec = (uintptr_t)found,
		.vec_len = FOUND,
		.category_inverted = IS_ZERO_PAGE,
		.category_mask = IS_ZERO_PAGE,
		.category_anyof_mask = IS_PRESENT | IS_SWAPPED,
	};

	while (scan.start < scan.end) {
		int count = ioctl(own.pagemap_fd, SCAN_PAGES, &scan);

		if (count < 0)
			return errno == ENOTTY && read_held(base, first, end, held, shift);
		for (int i = 0; i < count; i++)
			put(held, (found[i].start - (uintptr_t)base) / PAGE - shift,
			    (found[i].end - (uintptr_t)base) / PAGE - shift, true);
		scan.start = scan.walk_end;
	}
	return true;
}

/* Sets the bits of those pages of [first, end), all held, that this process alone maps. */
static bool find_exclusive(const char *base, size_t first, size_t end, word *exclusive, size_t shift)
{
	uint64_t entry[ENTRIES];

	for (size_t at = first; at < end; at += ENTRIES) {
		size_t stop = end - at < ENTRIES ? end : at + ENTRIES;

		if (!entries_of(base, at, stop, entry))
			return false;
		for (size_t page = at; page < stop; page++)
			if (entry[page - at] & PM_EXCLUSIVE)
				put(exclusive, page - shift, page - shift + 1, true);
	}
	return true;
}

bool alone(void)
{
	uint64_t entry[ENTRIES];

	return entries_of(own.sentinel, 0, 1, entry) && entry[0] & PM_EXCLUSIVE;
}

/*
 * One chunk of pages. Between two forks a page can only become exclusive, so what is known to be so
 * need not be asked again, as long as it is held.
 */
static void look_at_chunk(struct region *region, size_t first, size_t end)
{
	word held[ANON_CHUNK / WORD_PAGES] = {0};
	size_t words = words_for(end - first), from = first / WORD_PAGES;
	word *known = region->exclusive + from;
	size_t at, stop;

	if (!find_held(region->base, first, end, held, first))
		return; /* as it was */
	for (size_t i = 0; i < words; i++) {
		word alone_now = own.has_kin ? known[i] & held[i] : held[i];

		if (region->held[from + i] != held[i] || known[i] != alone_now)
			region->changed[first / ANON_CHUNK] = true;
		region->held[from + i] = held[i];
		known[i] = alone_now;
	}
	for (at = first; (at = run_end(region->held, at, end, false)) < end; at = stop) {
		size_t seen;

		stop = run_end(region->held, at, end, true);
		if (run_end(region->exclusive, at, stop, true) == stop)
			continue;
		seen = count_in(region->exclusive, at, stop);
		find_exclusive(region->base, at, stop, region->exclusive, 0);
		if (count_in(region->exclusive, at, stop) != seen)
			region->changed[first / ANON_CHUNK] = true;
	}
}

void look(struct region *region)
{
	for (size_t first = 0; first < region->pages; first += ANON_CHUNK)
		look_at_chunk(region, first,
			      region->pages - first < ANON_CHUNK ? region->pages : first + ANON_CHUNK);
}

/* ---- dropping ---- */

/* Drops a run. Where touching it is to be an error it becomes a mapping of a file without a page. */
static bool drop_run(const struct region *region, size_t first, size_t end, bool zero)
{
	char *at = region->base + first * PAGE;
	size_t length = (end - first) * PAGE;

	if (!zero)
		return mmap(at, length, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, own.purged_fd,
			    (off_t)(first * PAGE)) != MAP_FAILED;
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
	return madvise(at, length, MADV_DONTNEED) == 0 ||
	       madvise(at, length, MADV_DONTNEED_LOCKED) == 0;
}

/* With lock "pages": those of [first, end) that are still marked, still held, and shared with nobody
 * that the daemon does not know. */
static size_t drop_step(struct region *region, size_t first, size_t end, bool zero)
{
	word may_go[WORD_PAGES * 2] = {0}, exclusive[WORD_PAGES * 2] = {0};
	size_t at, stop, base = first / WORD_PAGES * WORD_PAGES, dropped = 0;
	bool no_stranger = !own.cautious && alone();

	if (!find_held(region->base, first, end, may_go, base))
		return 0;
	if (!no_stranger && !find_exclusive(region->base, first, end, exclusive, base))
		return 0;
	for (size_t i = 0; i < words_for(end - base); i++) {
		may_go[i] &= region->marked[base / WORD_PAGES + i];
		if (!no_stranger)
			may_go[i] &= exclusive[i];
	}
	for (at = first; (at = base + run_end(may_go, at - base, end - base, false)) < end; at = stop) {
		stop = base + run_end(may_go, at - base, end - base, true);
		if (!drop_run(region, at, stop, zero))
			continue;
		put(region->purged, at, stop, true);
		put(region->held, at, stop, false);
		put(region->exclusive, at, stop, false);
		for (size_t chunk = at / ANON_CHUNK; chunk <= (stop - 1) / ANON_CHUNK; chunk++)
			region->changed[chunk] = true;
		dropped += stop - at;
	}
	return dropped;
}

size_t drop(const struct anon_order *order)
{
	struct region *region = region_by_id(order->region);
	size_t dropped = 0;

	if (region == NULL) /* freed meanwhile */
		return 0;
	for (uint32_t i = 0; i < order->count && i < ANON_RUNS; i++) {
		size_t end = order->run[i].end < region->pages ? order->run[i].end : region->pages;

		for (size_t at = order->run[i].first; at < end; at += STEP_PAGES) {
			size_t stop = end - at < STEP_PAGES ? end : at + STEP_PAGES;
			sigset_t before;

			lock(LOCK_PAGES, &before);
			dropped += drop_step(region, at, stop, order->kind == ANON_ZERO);
			unlock(LOCK_PAGES, &before);
		}
	}
	return dropped;
}
