/* The thread that serves the mount: it tells what pages there are, and drops what it is told to. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* How often to look whether memory was touched for the first time; less often while it is not. */
#define SOONEST_MS 100
#define LATEST_MS 1600

static void copy(__u8 *to, const word *map, size_t first, size_t end)
{
	memcpy(to, map + first / WORD_PAGES, words_for(end - first) * sizeof(word));
}

static void tell_chunk(struct anon_report *report, struct region *region, size_t chunk)
{
	size_t first = chunk * ANON_CHUNK;
	size_t end = region->pages - first < ANON_CHUNK ? region->pages : first + ANON_CHUNK;
	sigset_t before;

	report->region = region->id;
	report->first = (uint32_t)first;
	report->pages = (uint32_t)(end - first);
	copy(report->held, region->held, first, end);
	copy(report->exclusive, region->exclusive, first, end);
	lock(LOCK_PAGES, &before);
	copy(report->purged, region->purged, first, end);
	unlock(LOCK_PAGES, &before);
	if (request(ANON_REPORT, report) == 0)
		region->changed[chunk] = false;
}

void tell(uint64_t order, bool whole)
{
	static struct anon_report report; /* lock "report" */
	bool told = order != 0 || own.untold;

	report.order = 0;
	report.flags = 0;
	for (size_t i = 0; i < region_count; i++) {
		struct region *region = regions[i];

		if (whole)
			look(region);
		for (size_t chunk = 0; chunk * ANON_CHUNK < region->pages; chunk++)
			if (region->changed[chunk]) {
				tell_chunk(&report, region, chunk);
				told = true;
			}
	}
	if (!told)
		return;
	report.order = order;
	report.flags = ANON_LAST;
	report.region = report.first = report.pages = 0;
	if (request(ANON_REPORT, &report) == 0 && whole)
		own.untold = false;
}

static void serve_orders(void)
{
	static struct anon_order order; /* of the one helper */
	sigset_t before;

	lock(LOCK_REPORT, &before);
	while (request(ANON_FETCH, &order) == 0) {
		if (order.kind == ANON_DROP || order.kind == ANON_ZERO)
			drop(&order);
		tell(order.id, order.kind == ANON_LOOK);
	}
	unlock(LOCK_REPORT, &before);
}

/* Page faults of all threads but this: while there are none, the program has got no pages. */
static long faults_now(void)
{
	struct rusage all, helper;

	getrusage(RUSAGE_SELF, &all);
	getrusage(RUSAGE_THREAD, &helper);
	return all.ru_minflt + all.ru_majflt - helper.ru_minflt - helper.ru_majflt;
}

/* Looks if there may be something new; was there? */
static bool look_around(bool asked)
{
	sigset_t before;
	long faults;
	bool busy;

	lock(LOCK_REPORT, &before);
	faults = faults_now();
	busy = asked || own.untold || faults != own.faults;
	if (busy)
		tell(0, true);
	own.faults = faults;
	unlock(LOCK_REPORT, &before);
	return busy;
}

static void *serve(void *unused)
{
	struct pollfd watched[] = {{own.fd, POLLPRI, 0}, {own.wake_fd, POLLIN, 0}};
	int pause = SOONEST_MS;
	uint64_t times;

	while (attached()) {
		int ready = poll(watched, 2, pause);

		if (ready < 0 && errno != EINTR)
			break;
		if (ready > 0 && watched[0].revents & (POLLERR | POLLHUP | POLLNVAL))
			break;
		if (ready > 0 && watched[0].revents & POLLPRI)
			serve_orders();
		if (ready <= 0 || watched[1].revents & POLLIN) {
			bool asked = ready > 0 && read(own.wake_fd, &times, sizeof times) > 0;

			if (look_around(asked))
				pause = SOONEST_MS;
			else if (pause < LATEST_MS)
				pause *= 2;
		}
	}
	set_gone();
	return unused;
}

int start_helper(void)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&own.helper, NULL, serve, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	own.has_helper = error == 0;
	if (error) {
		errno = error;
		return -1;
	}
	return 0;
}
