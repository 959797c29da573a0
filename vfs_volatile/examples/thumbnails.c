/* SPDX-License-Identifier: MIT */
/*
 * A cache of thumbnails that are looked at without a system call.
 *
 *     cc $(vfs-volatile cflags) thumbnails.c -o thumbnails -pthread && ./thumbnails CACHE/FILE
 *
 * One file holds them all, mapped once; each is a volatile range of its own. Looking one up is a
 * copy under a guard: when its pages have been purged the copy ends with SIGBUS, and the thumbnail
 * is taken back, drawn again and marked again. Prints how many were there and how many were not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fvrange.h"
#include "fvrange_guard.h"

enum {
	WIDTH = 256,
	COUNT = 200,
	LOOK_UPS = 1000,
};

struct thumbnail { /* 64 KiB: whole pages, so that each can be a range */
	unsigned char pixel[WIDTH][WIDTH];
};

struct cache {
	int fd;
	struct thumbnail *thumbnails; /* the mapped file */
	unsigned hits;
	unsigned drawn;
};

static void fail(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

/* What takes long in a real program: the picture with this number, made small. */
static unsigned char pixel_of(unsigned number, unsigned x, unsigned y)
{
	return (unsigned char)((x ^ y) + number * 7 + 1);
}

/* Thumbnail `number` becomes valid, and volatile: it may be purged from the end of this on. */
static void draw(struct cache *cache, unsigned number)
{
	struct thumbnail *slot = &cache->thumbnails[number];
	uint64_t offset = (uint64_t)number * sizeof(*slot);

	if (fvrange(cache->fd, offset, sizeof(*slot), VRANGE_NONVOLATILE, 0, NULL) < 0)
		fail("fvrange: take back");
	for (unsigned y = 0; y < WIDTH; y++)
		for (unsigned x = 0; x < WIDTH; x++)
			slot->pixel[y][x] = pixel_of(number, x, y);
	msync(slot, sizeof(*slot), MS_SYNC); /* the mount hears of it now, not some seconds later */
	if (fvrange(cache->fd, offset, sizeof(*slot), VRANGE_VOLATILE, VRANGE_SIGBUS, NULL) < 0)
		fail("fvrange: mark");
	cache->drawn++;
}

struct copying {
	const struct thumbnail *from;
	struct thumbnail *to;
};

static void copy(void *argument)
{
	struct copying *job = argument;

	memcpy(job->to, job->from, sizeof(*job->to));
}

/* A copy of thumbnail `number`, from the cache if it is there. */
static void look_up(struct cache *cache, unsigned number, struct thumbnail *result)
{
	struct copying job = {&cache->thumbnails[number], result};

	for (;;) {
		switch (fvrange_guard(job.from, sizeof(*job.from), copy, &job, NULL)) {
		case 0:
			cache->hits++;
			return;
		case SIGBUS: /* and again: it may be purged before the copy is made */
			draw(cache, number);
			break;
		default:
			fail("fvrange_guard");
		}
	}
}

static void check(unsigned number, const struct thumbnail *thumbnail)
{
	for (unsigned y = 0; y < WIDTH; y++) {
		for (unsigned x = 0; x < WIDTH; x++) {
			if (thumbnail->pixel[y][x] != pixel_of(number, x, y)) {
				fprintf(stderr, "thumbnail %u is wrong at %u,%u\n", number, x, y);
				exit(EXIT_FAILURE);
			}
		}
	}
}

int main(int argc, char **argv)
{
	static struct thumbnail result;
	struct cache cache = {.fd = -1};
	size_t size = COUNT * sizeof(struct thumbnail);

	if (argc != 2) {
		fprintf(stderr, "usage: %s FILE (on a vfs-volatile mount)\n", argv[0]);
		return 2;
	}
	cache.fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (cache.fd < 0 || ftruncate(cache.fd, (off_t)size) < 0)
		fail(argv[1]);
	cache.thumbnails = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cache.fd, 0);
	if (cache.thumbnails == MAP_FAILED)
		fail("mmap");

	for (unsigned number = 0; number < COUNT; number++)
		draw(&cache, number);
	cache.drawn = 0;
	for (unsigned turn = 0; turn < LOOK_UPS; turn++) {
		unsigned number = (unsigned)rand() % COUNT;

		look_up(&cache, number, &result);
		check(number, &result);
	}
	printf("%u found, %u drawn again\n", cache.hits, cache.drawn);
	return EXIT_SUCCESS;
}
