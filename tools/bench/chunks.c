/*
 * chunks: threads that allocate, fill, read and free chunks of memory, as the authors of vrange
 * measured it (ebizzy), with several ways to give a chunk's memory back.
 *
 *   chunks WAY MOUNT THREADS CHUNK CHUNKS MILLISECONDS
 *
 * WAY is free, dontneed, madv_free, mark or marks. CHUNK is bytes, CHUNKS how many each thread has in
 * turn. Prints how many chunks per second were used, by all threads together.
 *
 * free: mmap and munmap, as a large free(3) does. The others keep the addresses: dontneed and
 * madv_free give the pages to the kernel, mark and marks leave them volatile; marks does so for
 * some chunks in one call, BATCH at most and a quarter of a thread's at most.
 *
 * Also prints the most memory that was ever held, in MiB.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "fvrange_anon.h"

#define BATCH 64

enum way { FREE, DONTNEED, MADV_FREES, MARK, MARKS, WAYS };
static const char *const names[WAYS] = {"free", "dontneed", "madv_free", "mark", "marks"};

static enum way way;
static size_t chunk, chunks;
static atomic_int stop;

struct user {
	pthread_t thread;
	char *memory;
	unsigned seed;
	unsigned long long used;
};

static void must(int held, const char *what)
{
	if (!held) {
		perror(what);
		exit(1);
	}
}

/* Fill and read, as a program that uses its memory. */
static void use(char *memory, unsigned long long value)
{
	unsigned long long sum = 0;

	for (size_t at = 0; at < chunk; at += sizeof value)
		memcpy(memory + at, &value, sizeof value);
	for (size_t at = 0; at < chunk; at += 64)
		sum += (unsigned char)memory[at];
	*(volatile char *)memory = (char)sum;
}

static char *pick(struct user *user)
{
	return user->memory + (size_t)rand_r(&user->seed) % chunks * chunk;
}

static void one_by_one(struct user *user)
{
	char *memory = way == FREE ? mmap(NULL, chunk, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
				   : pick(user);

	must(memory != MAP_FAILED, "mmap");
	if (way == MARK)
		must(mvrange(memory, chunk, VRANGE_NONVOLATILE, 0, NULL) == 0, "unmark");
	use(memory, user->used);
	if (way == FREE)
		munmap(memory, chunk);
	else if (way == DONTNEED)
		must(madvise(memory, chunk, MADV_DONTNEED) == 0, "MADV_DONTNEED");
	else if (way == MADV_FREES)
		must(madvise(memory, chunk, MADV_FREE) == 0, "MADV_FREE");
	else
		must(mvrange(memory, chunk, VRANGE_VOLATILE, VRANGE_FULL, NULL) == 0, "mark");
	user->used++;
}

static void many_at_a_time(struct user *user)
{
	struct mvrange_span spans[BATCH];
	size_t count = chunks / 4 < BATCH ? chunks / 4 + 1 : BATCH;

	for (size_t i = 0; i < count; i++)
		spans[i] = (struct mvrange_span){pick(user), chunk, 0};
	must(mvrange_many(spans, count, VRANGE_NONVOLATILE, 0) == 0, "unmark");
	for (size_t i = 0; i < count; i++)
		use(spans[i].addr, user->used++);
	must(mvrange_many(spans, count, VRANGE_VOLATILE, VRANGE_FULL) == 0, "mark");
}

static void *run(void *argument)
{
	struct user *user = argument;

	while (!stop) {
		if (way == MARKS)
			many_at_a_time(user);
		else
			one_by_one(user);
	}
	return NULL;
}

static char *reserve(size_t size)
{
	char *memory;

	if (way == MARK || way == MARKS)
		return fvrange_anon_alloc(size);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, size, MADV_NOHUGEPAGE); /* the same for all */
	return memory;
}

/* MiB; not of getrusage(2), which remembers the program before execve(2). */
static double most_held(void)
{
	char line[256];
	double kib = 0;
	FILE *status = fopen("/proc/self/status", "r");

	must(status != NULL, "/proc/self/status");
	while (fgets(line, sizeof line, status) != NULL && sscanf(line, "VmHWM: %lf", &kib) != 1)
		;
	fclose(status);
	return kib / 1024;
}

int main(int count, char **words)
{
	static struct user user[64];
	unsigned long long used = 0;
	struct timespec pause;
	int threads, milliseconds;

	must(count == 7, "chunks WAY MOUNT THREADS CHUNK CHUNKS MILLISECONDS");
	while (way < WAYS && strcmp(names[way], words[1]))
		way++;
	threads = atoi(words[3]);
	chunk = strtoull(words[4], NULL, 10);
	chunks = strtoull(words[5], NULL, 10);
	milliseconds = atoi(words[6]);
	must(way < WAYS && threads <= 64, "arguments");
	if (way == MARK || way == MARKS)
		must(fvrange_attach(words[2]) == 0, words[2]);
	for (int i = 0; i < threads; i++) {
		user[i].seed = (unsigned)i + 1;
		user[i].memory = reserve(chunks * chunk);
		must(user[i].memory != NULL, "memory");
	}
	for (int i = 0; i < threads; i++)
		must(pthread_create(&user[i].thread, NULL, run, &user[i]) == 0, "thread");
	pause = (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L};
	nanosleep(&pause, NULL);
	stop = 1;
	for (int i = 0; i < threads; i++) {
		pthread_join(user[i].thread, NULL);
		used += user[i].used;
	}
	printf("%.1f %.1f\n", (double)used * 1000 / milliseconds, most_held());
	return 0;
}
