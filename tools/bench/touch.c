/*
 * touch: one repetition of the data path of a file system, timed where Python's own loop would
 * dominate.
 *
 *   touch DIR BYTES FILES
 *
 * Works on files of its own in DIR and removes them. Prints a line per figure: OPERATION|UNIT|VALUE.
 *
 * "cold" means that the kernel's page cache holds nothing of the file: it is written back, dropped
 * by POSIX_FADV_DONTNEED, and mincore(2) must agree. tmpfs has no copy below the page cache, so
 * there nothing is dropped and cold means a fresh mapping only.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024UL
#define MIB (1024UL * 1024UL)
#define PAGE 4096UL
#define DROP_TRIES 100

static size_t bytes;
static char buffer[MIB];

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
	char *address = mmap(NULL, bytes, access, MAP_SHARED, fd, 0);

	must(address != MAP_FAILED, "mmap");
	return address;
}

static size_t cached_pages(int fd)
{
	static unsigned char present[1 << 20];
	char *address = map_file(fd, PROT_READ);
	size_t count = 0;

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

	must(fstatfs(fd, &found) == 0, "statfs");
	if (found.f_type == TMPFS_MAGIC)
		return;
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
	must(ftruncate(fd, 0) == 0, "ftruncate");
	double started = now();
	for (size_t at = 0; at < bytes; at += block)
		must(pwrite(fd, buffer, block, (off_t)at) == (ssize_t)block, "pwrite");
	report_rate(operation, now() - started);
}

static void read_all(int fd, const char *operation)
{
	double started = now();

	for (size_t at = 0; at < bytes; at += 128 * KIB)
		must(pread(fd, buffer, 128 * KIB, (off_t)at) == 128 * KIB, "pread");
	report_rate(operation, now() - started);
}

/* Load a byte of every page, in order or (Fisher-Yates) in a random one. */
static void fault_all(int fd, int random_order, const char *operation)
{
	size_t pages = bytes / PAGE;
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
	double started = now();
	for (size_t page = 0; page < pages; page++)
		(void)address[order[page] * PAGE];
	report_each(operation, "us/page", now() - started, pages);
	munmap((void *)address, bytes);
	free(order);
}

static void fill_all(int fd)
{
	must(ftruncate(fd, 0) == 0, "ftruncate");
	must(ftruncate(fd, (off_t)bytes) == 0, "ftruncate");
	char *address = map_file(fd, PROT_READ | PROT_WRITE);
	double started = now();
	memset(address, 'm', bytes);
	report_rate("fill through a shared mapping", now() - started);
	must(msync(address, bytes, MS_SYNC) == 0, "msync");
	report_rate("the same, and msync", now() - started);
	munmap(address, bytes);
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
	must(count == 4 && chdir(arguments[1]) == 0, "usage: touch DIR BYTES FILES");
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
	read_all(fd, "read(2), 128 KiB, cold");
	read_all(fd, "read(2), 128 KiB, warm");
	make_cold(fd);
	fault_all(fd, 0, "fault, sequential, cold");
	make_cold(fd);
	fault_all(fd, 1, "fault, random, cold");
	fill_all(fd);
	close(fd);
	each_file("create and close", files, create_one);
	each_file("stat", files, stat_one);
	each_file("open and close", files, open_one);
	each_file("unlink", files, unlink_one);
	return 0;
}
