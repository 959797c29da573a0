/*
 * What fvrange_guard.h promises, one promise for each name that main() knows.
 *
 *     guard PROMISE FILE
 *
 * FILE is on a mount: its pages 1 and 3 are purged, all others are not. Exit code 0: kept.
 * Compiled as C and as C++; guard_other.c is a second file of the same program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>

#include "fvrange.h"
#include "fvrange_guard.h"

#include "guard.h"

enum { PAGES = 8, PAGE = 4096, THREADS = 4, TURNS = 50 };

#define CHECK(condition)                                                       \
	do {                                                                   \
		if (!(condition)) {                                            \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			exit(1);                                               \
		}                                                              \
	} while (0)

static char *map; /* the file */
static int passed_on;

/* Blocks. */

static void load(void *argument)
{
	touched = *(volatile char *)argument;
}

static void store(void *argument)
{
	*(volatile char *)argument = 'x';
}

static void change_signals_then_load(void *argument)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	errno = EDOM;
	load(argument);
}

/* Loads page 1 under a guard of its own, then what the argument points to without one. */
static void guarded_load_then_load(void *argument)
{
	void *fault = NULL;

	CHECK(fvrange_guard(map + PAGE, PAGE, load, map + PAGE, &fault) == SIGBUS);
	CHECK(fault == map + PAGE);
	load(argument);
}

/* Has a guard for page 1 only, and loads what the argument points to. */
static void load_beside_a_guard(void *argument)
{
	fvrange_guard(map + PAGE, PAGE, load, argument, NULL);
	CHECK(!"an outer guard has ended this");
}

static void load_in_another_file(void *argument)
{
	void *fault = NULL;

	CHECK(guarded_elsewhere(map + PAGE, PAGE, map + PAGE, &fault) == SIGBUS);
	CHECK(fault == map + PAGE);
	load(argument);
}

/* Promises. */

static void comes_to_its_end(void)
{
	CHECK(fvrange_guard(map, PAGE, load, map, NULL) == 0);
	CHECK(touched == 'a');
	CHECK(fvrange_guard(map, PAGE, store, map + 5, NULL) == 0);
	CHECK(map[5] == 'x');
}

static void ends_at_the_address(void)
{
	for (int turn = 0; turn < TURNS; turn++) {
		void *fault = NULL;

		CHECK(fvrange_guard(map, PAGES * PAGE, load, map + PAGE + 17, &fault) == SIGBUS);
		CHECK(fault == map + PAGE + 17);
		CHECK(fvrange_guard(map, PAGES * PAGE, store, map + 3 * PAGE, &fault) == SIGBUS);
		CHECK(fault == map + 3 * PAGE);
		CHECK(fvrange_guard(map, PAGES * PAGE, load, map + 2 * PAGE, NULL) == 0);
	}
}

static void restores_errno_and_mask(void)
{
	sigset_t before, after;

	sigemptyset(&before);
	sigaddset(&before, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = ENOSYS;
	CHECK(fvrange_guard(map, 2 * PAGE, change_signals_then_load, map + PAGE, NULL) == SIGBUS);
	CHECK(errno == ENOSYS);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	CHECK(sigismember(&after, SIGUSR2) && !sigismember(&after, SIGUSR1));
	CHECK(!sigismember(&after, SIGBUS));
}

static void nests(void)
{
	void *fault = NULL;

	CHECK(fvrange_guard(map, PAGES * PAGE, guarded_load_then_load, map, NULL) == 0);
	CHECK(fvrange_guard(map + 3 * PAGE, PAGE, guarded_load_then_load, map + 3 * PAGE, &fault) ==
	      SIGBUS);
	CHECK(fault == map + 3 * PAGE);
	CHECK(fvrange_guard(map + 3 * PAGE, PAGE, load_beside_a_guard, map + 3 * PAGE, NULL) ==
	      SIGBUS);
	ends_at_the_address();
}

static void nests_over_files(void)
{
	void *fault = NULL;

	CHECK(fvrange_guard(map, PAGES * PAGE, load_in_another_file, map + 3 * PAGE, &fault) ==
	      SIGBUS);
	CHECK(fault == map + 3 * PAGE);
}

static void *thread(void *argument)
{
	static char stack[THREADS][1 << 16];
	int number = (int)(intptr_t)argument;
	char *page = map + (number % 2 ? 1 : 3) * PAGE + number;
	stack_t own;

	memset(&own, 0, sizeof(own));
	own.ss_sp = stack[number];
	own.ss_size = sizeof(stack[number]);
	if (number < 2) /* some have an alternate stack for signals */
		CHECK(sigaltstack(&own, NULL) == 0);
	for (int turn = 0; turn < TURNS; turn++) {
		void *fault = NULL;

		CHECK(fvrange_guard(map, PAGES * PAGE, load, page, &fault) == SIGBUS);
		CHECK(fault == page);
	}
	return NULL;
}

static void serves_threads(void)
{
	pthread_t threads[THREADS];

	for (int number = 0; number < THREADS; number++)
		CHECK(pthread_create(&threads[number], NULL, thread, (void *)(intptr_t)number) == 0);
	for (int number = 0; number < THREADS; number++)
		pthread_join(threads[number], NULL);
}

static void earlier_handler(int number, siginfo_t *info, void *context)
{
	(void)context;
	CHECK(number == SIGBUS && info->si_addr == map + 3 * PAGE);
	passed_on++;
	munmap(map + 3 * PAGE, PAGE); /* the touch is repeated, and finds this */
	mmap(map + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
	     -1, 0);
}

static void simple_handler(int number)
{
	passed_on += number == SIGBUS;
	errno = EIO;
}

static void passes_on(void)
{
	struct sigaction earlier;

	memset(&earlier, 0, sizeof(earlier));
	earlier.sa_sigaction = earlier_handler;
	earlier.sa_flags = SA_SIGINFO;
	sigaction(SIGBUS, &earlier, NULL);
	CHECK(fvrange_guard(map, 2 * PAGE, load, map + PAGE, NULL) == SIGBUS);
	CHECK(passed_on == 0);
	CHECK(fvrange_guard(map, 2 * PAGE, load, map + 3 * PAGE, NULL) == 0); /* not its range */
	CHECK(passed_on == 1 && touched == 0);
	CHECK(fvrange_guard(map, 2 * PAGE, load, map + PAGE, NULL) == SIGBUS);
}

static void passes_on_to_a_simple_handler(void)
{
	signal(SIGBUS, simple_handler);
	comes_to_its_end();
	errno = 0;
	raise(SIGBUS);
	CHECK(passed_on == 1 && errno == 0);
	ends_at_the_address();
}

static void ignores_what_was_ignored(void)
{
	signal(SIGBUS, SIG_IGN);
	comes_to_its_end();
	raise(SIGBUS); /* a touch cannot be ignored, a signal that was sent can */
	ends_at_the_address();
}

static void dies_of_a_touch_outside(void)
{
	comes_to_its_end();
	load(map + PAGE);
}

static void dies_of_a_touch_though_ignored(void)
{
	signal(SIGBUS, SIG_IGN);
	dies_of_a_touch_outside();
}

static void dies_of_a_signal(void)
{
	comes_to_its_end();
	raise(SIGBUS);
}

static const struct {
	const char *name;
	void (*keep)(void);
} promises[] = {
	{"comes_to_its_end", comes_to_its_end},
	{"ends_at_the_address", ends_at_the_address},
	{"restores_errno_and_mask", restores_errno_and_mask},
	{"nests", nests},
	{"nests_over_files", nests_over_files},
	{"serves_threads", serves_threads},
	{"passes_on", passes_on},
	{"passes_on_to_a_simple_handler", passes_on_to_a_simple_handler},
	{"ignores_what_was_ignored", ignores_what_was_ignored},
	{"dies_of_a_touch_outside", dies_of_a_touch_outside},
	{"dies_of_a_touch_though_ignored", dies_of_a_touch_though_ignored},
	{"dies_of_a_signal", dies_of_a_signal},
};

int main(int argc, char **argv)
{
	int fd;

	CHECK(argc == 3);
	fd = open(argv[2], O_RDWR);
	CHECK(fd >= 0);
	map = (char *)mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	for (size_t index = 0; index < sizeof(promises) / sizeof(promises[0]); index++) {
		if (strcmp(promises[index].name, argv[1]) == 0) {
			promises[index].keep();
			return 0;
		}
	}
	fprintf(stderr, "no such promise\n");
	return 2;
}
