/* The program's memory: what it has allocated, and where. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fvrange_anon.h"

struct region **regions;
size_t region_count;
static size_t capacity; /* of regions */

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

void *map_zeros(void *at, size_t length)
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
