#include "watch.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#define WATCHES 1024

/*
 * The handler reads these while they change, in any thread. INVARIANT: a watch with a start that is
 * not 0 has its end; the start is set last and cleared first.
 */
static struct watch {
	atomic_uintptr_t start, end;
	atomic_uintptr_t lost_first, lost_end; /* addresses; 0 for none */
} watches[WATCHES];

static struct sigaction previous;
static uintptr_t page_size;

static void keep_least(atomic_uintptr_t *where, uintptr_t value)
{
	uintptr_t found = atomic_load(where);

	while ((found == 0 || value < found) && !atomic_compare_exchange_weak(where, &found, value))
		;
}

static void keep_most(atomic_uintptr_t *where, uintptr_t value)
{
	uintptr_t found = atomic_load(where);

	while (value > found && !atomic_compare_exchange_weak(where, &found, value))
		;
}

/* Put a page of zeros under an address that is watched. Async-signal-safe: mmap() is a bare call. */
static bool replace(uintptr_t address)
{
	uintptr_t page = address & ~(page_size - 1);

	for (struct watch *watch = watches; watch < watches + WATCHES; watch++) {
		uintptr_t start = atomic_load(&watch->start);

		if (start == 0 || page < start || page >= atomic_load(&watch->end))
			continue;
		keep_least(&watch->lost_first, page);
		keep_most(&watch->lost_end, page + page_size);
		return mmap((void *)page, page_size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
	}
	return false;
}

/* As if there were no handler: the touch is repeated, or the signal sent again, when ours returns. */
static void give_up(int number)
{
	sigaction(number, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
}

/* None of ours. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	bool sent = info->si_code <= 0; /* by kill(2) and the like, not by a touch */
	sigset_t pending;

	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(number, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(number);
	} else if (previous.sa_handler == SIG_DFL || !sent) {
		give_up(number);
		if (sent)
			raise(number);
		return;
	}
	/* Who had it before us may have taken us for who had it before: faulthandler then raises it. */
	if (sigpending(&pending) == 0 && sigismember(&pending, number))
		give_up(number);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	int before = errno;

	if (info->si_code != BUS_ADRERR || !replace((uintptr_t)info->si_addr))
		pass_on(number, info, context);
	errno = before;
}

/* Others may have taken the signal over since the last watch. */
static int take_signal(void)
{
	struct sigaction ours = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct sigaction now;

	page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
	if (sigaction(SIGBUS, NULL, &now) < 0)
		return -1;
	if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_sigbus)
		return 0;
	previous = now;
	return sigaction(SIGBUS, &ours, NULL);
}

int fvrange_watch_start(void *start, size_t length)
{
	if (take_signal() < 0)
		return -1;
	for (int number = 0; number < WATCHES; number++) {
		struct watch *watch = &watches[number];

		if (atomic_load(&watch->start) == 0) {
			atomic_store(&watch->lost_first, 0);
			atomic_store(&watch->lost_end, 0);
			atomic_store(&watch->end, (uintptr_t)start + length);
			atomic_store(&watch->start, (uintptr_t)start);
			return number;
		}
	}
	errno = ENOSPC;
	return -1;
}

int fvrange_watch_lost(int watch, uint64_t *first, uint64_t *end)
{
	uintptr_t start = atomic_load(&watches[watch].start);
	uintptr_t lost_end = atomic_load(&watches[watch].lost_end);

	if (lost_end == 0)
		return 0;
	*first = atomic_load(&watches[watch].lost_first) - start;
	*end = lost_end - start;
	return 1;
}

void fvrange_watch_end(int watch)
{
	atomic_store(&watches[watch].start, 0);
}
