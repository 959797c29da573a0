/*
 * touch: one repetition of the data path of a file system, timed where Python's own loop would
 * dominate.
 *
 *   touch DIR BYTES FILES [sigbus]
 *
 * Works on files of its own in DIR and removes them. Prints a line per figure: OPERATION|UNIT|VALUE.
 * With "sigbus" it maps by fvrange_map(): purged pages are errors, where the kernel would give zeros.
 *
 * "cold" means that the kernel's page cache holds nothing of the file: it is written back, dropped
 * by POSIX_FADV_DONTNEED, and mincore(2) must agree. tmpfs has no copy below the page cache, so
 * there nothing is dropped and cold means a fresh mapping only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvrange_map.h"

#define KIB 1024UL
#define MIB (1024UL * 1024UL)
#define PAGE 4096UL
#define DROP_TRIES 100
#define SMALL_BYTES (64 * MIB) /* of rows that take a round trip a page */
#define RANDOM_PAGES 16384UL
#define CALLS 500
#define PROCESSES 4

static size_t bytes;
static char buffer[MIB];
static int sigbus;

static void must(int held, const char *what)
{
	if (!held) {
		perror(what);
		exit(1);
	}
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void report_rate(const char *operation, double seconds)
{
	printf("%s|MB/s|%f\n", operation, (double)bytes / 1e6 / seconds);
}

static void report_each(const char *operation, const char *unit, double seconds, size_t times)
{
	printf("%s|%s|%f\n", operation, unit, seconds * 1e6 / (double)times);
}

static char *map_file(int fd, int access)
{
	char *address;

	if (sigbus)
		address = (char *)fvrange_map(fd, bytes, 0);
	else
		address = mmap(NULL, bytes, access, MAP_SHARED, fd, 0);
	must(address != MAP_FAILED, "mmap");
	return address;
}

static void unmap_file(char *address)
{
	must((sigbus ? fvrange_unmap(address, bytes) : munmap(address, bytes)) == 0, "munmap");
}

static size_t cached_pages(int fd)
{
	static unsigned char present[1 << 22];
	char *address = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	size_t count = 0;

	must(address != MAP_FAILED, "mmap");
	must(bytes / PAGE <= sizeof present, "file too large");
	must(mincore(address, bytes, present) == 0, "mincore");
	for (size_t page = 0; page < bytes / PAGE; page++)
		count += present[page] & 1;
	munmap(address, bytes);
	return count;
}

static void make_cold(int fd)
{
	struct statfs found;
	char path[256];

	must(fstatfs(fd, &found) == 0, "statfs");
	if (found.f_type == TMPFS_MAGIC)
		return;
	if (fgetxattr(fd, "user.fvrange.data_path", path, sizeof path) > 0 && path[0] == 'p')
		return; /* passthrough: the cache is the file here too */
	for (int try = 0; try < DROP_TRIES; try++) {
		must(fdatasync(fd) == 0, "fdatasync");
		must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
		if (cached_pages(fd) == 0)
			return;
	}
	fprintf(stderr, "touch: the kernel does not drop the file from its cache\n");
	exit(1);
}

static void write_all(int fd, size_t block, const char *operation)
{
	size_t size = block < MIB && bytes > SMALL_BYTES ? SMALL_BYTES : bytes;

	must(ftruncate(fd, 0) == 0, "ftruncate");
	double started = now();
	for (size_t at = 0; at < size; at += block)
		must(pwrite(fd, buffer, block, (off_t)at) == (ssize_t)block, "pwrite");
	printf("%s|MB/s|%f\n", operation, (double)size / 1e6 / (now() - started));
}

static void read_all(int fd, size_t block, const char *operation)
{
	size_t size = block < MIB && bytes > SMALL_BYTES ? SMALL_BYTES : bytes;
	double started = now();

	for (size_t at = 0; at < size; at += block)
		must(pread(fd, buffer, block, (off_t)at) == (ssize_t)block, "pread");
	printf("%s|MB/s|%f\n", operation, (double)size / 1e6 / (now() - started));
}

/* Load a byte of every page, in order or (Fisher-Yates) in a random one. */
static void fault_all(int fd, int random_order, const char *operation)
{
	size_t pages = bytes / PAGE, touched;
	size_t *order = malloc(pages * sizeof *order);
	volatile char *address = map_file(fd, PROT_READ);

	must(order != NULL, "malloc");
	for (size_t page = 0; page < pages; page++)
		order[page] = page;
	for (size_t page = pages - 1; random_order && page > 0; page--) {
		size_t other = (size_t)random() % (page + 1), kept = order[page];

		order[page] = order[other];
		order[other] = kept;
	}
	/* No reading around: each fault is to cost its own. */
	if (random_order)
		must(madvise((void *)address, bytes, MADV_RANDOM) == 0, "madvise");
	touched = random_order && pages > RANDOM_PAGES ? RANDOM_PAGES : pages;
	double started = now();
	for (size_t page = 0; page < touched; page++)
		(void)address[order[page] * PAGE];
	report_each(operation, "us/page", now() - started, touched);
	unmap_file((char *)address);
	free(order);
}

static void fill_all(int fd)
{
	must(ftruncate(fd, 0) == 0, "ftruncate");
	must(ftruncate(fd, (off_t)bytes) == 0, "ftruncate");
	double started = now();
	char *address = map_file(fd, PROT_READ | PROT_WRITE); /* with sigbus this gives the memory */
	memset(address, 'm', bytes);
	report_rate("fill through a shared mapping", now() - started);
	must(msync(address, bytes, MS_SYNC) == 0, "msync");
	report_rate("the same, and msync", now() - started);
	unmap_file(address);
}

/* All at once: each process loads every page of a mapping of its own. */
static void crowd_all(int fd)
{
	double started = now();

	fflush(stdout);
	for (int number = 0; number < PROCESSES; number++) {
		if (fork() == 0) {
			volatile char *address = map_file(fd, PROT_READ);

			for (size_t at = 0; at < bytes; at += PAGE)
				(void)address[at];
			_exit(0);
		}
	}
	for (int number = 0; number < PROCESSES; number++) {
		int status;

		must(wait(&status) > 0 && status == 0, "a process of the crowd");
	}
	report_each("fault, 4 processes at once", "us/page", now() - started,
		    PROCESSES * (bytes / PAGE));
}

static int by_value(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return a < b ? -1 : a > b;
}

/* The median of single calls, for ranges that lie apart. */
static void change_each(int fd, int mode, const char *operation)
{
	static double took[CALLS];

	for (size_t number = 0; number < CALLS; number++) {
		double started = now();

		must(fvrange(fd, number * 2 * PAGE, PAGE, mode, 0, NULL) == 0, "fvrange");
		took[number] = now() - started;
	}
	qsort(took, CALLS, sizeof *took, by_value);
	printf("%s|us|%f\n", operation, took[CALLS / 2] * 1e6);
}

static void change_many(int fd, int mode, const char *operation)
{
	static struct fvrange_vec vec;

	vec.count = CALLS;
	vec.mode = (__u32)mode;
	for (size_t number = 0; number < CALLS; number++) {
		vec.range[number].start = number * 2 * PAGE;
		vec.range[number].length = PAGE;
	}
	double started = now();
	must(ioctl(fd, FVRANGE_IOC_VEC, &vec) == 0, "FVRANGE_IOC_VEC");
	report_each(operation, "us/range", now() - started, CALLS);
}

/*
 * The whole file, all in memory: by PURGE, or as a bare punch hole where nothing can be marked. No
 * figure where there is neither.
 */
static void purge_all(int fd)
{
	struct fvrange_args args = {0, 0, 0, 0, 0};
	int marked = fvrange(fd, 0, 0, VRANGE_VOLATILE, 0, NULL) == 0;
	double started = now();

	if (marked) {
		must(ioctl(fd, FVRANGE_IOC_PURGE, &args) == 0 && args.purged == bytes, "PURGE");
	} else if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) != 0) {
		must(errno == EOPNOTSUPP, "fallocate");
		return;
	}
	printf("purge|s/GiB|%f\n", (now() - started) * (double)(1UL << 30) / (double)bytes);
	if (marked)
		must(fvrange(fd, 0, 0, VRANGE_NONVOLATILE, 0, NULL) == 0, "fvrange");
}

/* Times one step over all files; path is a format for the number of a file. */
static void each_file(const char *operation, size_t files, void (*step)(const char *))
{
	char path[32];
	double started = now();

	for (size_t number = 0; number < files; number++) {
		snprintf(path, sizeof path, "touch-%zu", number);
		step(path);
	}
	report_each(operation, "us", now() - started, files);
}

static void create_one(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);

	must(fd >= 0, "create");
	close(fd);
}

static void open_one(const char *path)
{
	int fd = open(path, O_RDWR);

	must(fd >= 0, "open");
	close(fd);
}

static void stat_one(const char *path)
{
	struct stat found;

	must(stat(path, &found) == 0, "stat");
}

static void unlink_one(const char *path)
{
	must(unlink(path) == 0, "unlink");
}

int main(int count, char **arguments)
{
	must(count >= 4 && chdir(arguments[1]) == 0, "usage: touch DIR BYTES FILES [sigbus]");
	sigbus = count > 4;
	bytes = strtoul(arguments[2], NULL, 10);
	size_t files = strtoul(arguments[3], NULL, 10);
	must(bytes > 0 && bytes % MIB == 0 && files > 0, "BYTES must be whole MiB");
	memset(buffer, 'b', sizeof buffer);
	int fd = open("touch-data", O_RDWR | O_CREAT | O_EXCL, 0644);
	must(fd >= 0, "open");
	unlink("touch-data");

	write_all(fd, 4 * KIB, "write(2), 4 KiB");
	write_all(fd, MIB, "write(2), 1 MiB");
	make_cold(fd);
	read_all(fd, MIB, "read(2), 1 MiB, cold");
	read_all(fd, MIB, "read(2), 1 MiB, warm");
	make_cold(fd);
	read_all(fd, 4 * KIB, "read(2), 4 KiB, cold");
	make_cold(fd);
	fault_all(fd, 0, "fault, sequential, cold");
	make_cold(fd);
	fault_all(fd, 1, "fault, random, cold");
	make_cold(fd);
	crowd_all(fd);
	fill_all(fd);
	purge_all(fd);
	if (fvrange(fd, 0, PAGE, VRANGE_NONVOLATILE, 0, NULL) == 0) {
		write_all(fd, MIB, "write(2), 1 MiB, after a purge");
		change_each(fd, VRANGE_VOLATILE, "mark");
		change_each(fd, VRANGE_NONVOLATILE, "unmark");
		change_many(fd, VRANGE_VOLATILE, "mark, 500 in one call");
		change_many(fd, VRANGE_NONVOLATILE, "unmark, 500 in one call");
	}
	/* Before the file is closed: freeing it takes a while, which is no part of these. */
	each_file("create and close", files, create_one);
	each_file("stat", files, stat_one);
	each_file("open and close", files, open_one);
	each_file("unlink", files, unlink_one);
	close(fd);
	return 0;
}
