/* SPDX-License-Identifier: MIT */
/*
 * A table that several processes share, whose entries are built by whoever needs one first.
 *
 *     cc $(vfs-volatile cflags) workers.c -o workers && ./workers CACHE/FILE
 *
 * The table is one mapping, inherited by the workers. Entries are taken back and marked by address
 * (mvrange_fd), so that the code needs not know which file an entry lies in. While an entry is
 * taken back it is held: no page of it can go, and no guard is needed. Prints, for all workers
 * together, how many entries were found built and how many had to be built.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "fvrange.h"

enum {
	ENTRIES = 256,
	WORDS = 8192, /* 64 KiB: whole pages, so that each entry can be a range */
	WORKERS = 4,
	LOOK_UPS = 150,
};

struct entry {
	uint64_t word[WORDS];
};

struct tally { /* of all processes: an anonymous shared mapping, added to atomically */
	unsigned found;
	unsigned built;
};

static void fail(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

/* One process at a time works on an entry: a lock of its bytes (fcntl(2)). */
static void lock(int fd, unsigned number, short how)
{
	struct flock bytes = {
		.l_type = how,
		.l_whence = SEEK_SET,
		.l_start = (off_t)number * (off_t)sizeof(struct entry),
		.l_len = sizeof(struct entry),
	};

	while (fcntl(fd, F_SETLKW, &bytes) < 0)
		if (errno != EINTR)
			fail("fcntl");
}

static uint64_t word_of(unsigned number, unsigned index)
{
	return (number + 1) * UINT64_C(0x9e3779b97f4a7c15) + index;
}

/* Make entry `number` of the table valid: it is locked and held. */
static void build(struct entry *entry, unsigned number)
{
	for (unsigned index = 1; index < WORDS; index++)
		entry->word[index] = word_of(number, index);
	entry->word[0] = word_of(number, 0); /* last: it says that the rest is there */
	msync(entry, sizeof(*entry), MS_SYNC); /* the mount hears of it now, not some seconds later */
}

static void use(const struct entry *entry, unsigned number)
{
	for (unsigned index = 0; index < WORDS; index++) {
		if (entry->word[index] != word_of(number, index)) {
			fprintf(stderr, "entry %u is wrong at %u\n", number, index);
			exit(EXIT_FAILURE);
		}
	}
}

static void look_up(int fd, struct entry *entry, unsigned number, struct tally *tally)
{
	uint64_t purged;

	lock(fd, number, F_WRLCK);
	if (mvrange_fd(fd, entry, sizeof(*entry), VRANGE_NONVOLATILE, 0, &purged) < 0)
		fail("mvrange_fd: take back");
	if (purged > 0 || entry->word[0] == 0) { /* lost, or never built */
		build(entry, number);
		__atomic_add_fetch(&tally->built, 1, __ATOMIC_RELAXED);
	} else {
		__atomic_add_fetch(&tally->found, 1, __ATOMIC_RELAXED);
	}
	use(entry, number);
	if (mvrange_fd(fd, entry, sizeof(*entry), VRANGE_VOLATILE, VRANGE_FULL, NULL) < 0)
		fail("mvrange_fd: mark");
	lock(fd, number, F_UNLCK);
}

static void work(int fd, struct entry *table, unsigned worker, struct tally *tally)
{
	unsigned random = worker * 7919 + 1;

	for (unsigned turn = 0; turn < LOOK_UPS; turn++) {
		unsigned number;

		random = random * 1103515245 + 12345;
		number = random / 65536 % ENTRIES;
		look_up(fd, &table[number], number, tally);
	}
}

int main(int argc, char **argv)
{
	size_t size = ENTRIES * sizeof(struct entry);
	struct tally *tally;
	struct entry *table;
	int fd, failed = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: %s FILE (on a vfs-volatile mount)\n", argv[0]);
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		fail(argv[1]);
	table = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (table == MAP_FAILED || tally == MAP_FAILED)
		fail("mmap");

	for (unsigned worker = 0; worker < WORKERS; worker++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child == 0) {
			work(fd, table, worker, tally);
			_exit(EXIT_SUCCESS);
		}
	}
	for (unsigned worker = 0; worker < WORKERS; worker++) {
		int status;

		if (wait(&status) < 0)
			fail("wait");
		failed |= status != 0;
	}
	printf("%u found, %u built\n", tally->found, tally->built);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
