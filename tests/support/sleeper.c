/*
 * sleeper: a process that sleeps between orders, and may be many.
 *
 *   sleeper FILE DESCRIPTOR < orders > answers
 *
 * An order is a letter, and is answered by the same letter when it is done, before the process sleeps
 * again: m maps the first page of FILE private, u unmaps it again. t starts a thread, c makes a process
 * that shares the memory (clone(2) with CLONE_VM), v one by vfork(2), f one by fork(2): each of them
 * takes orders from DESCRIPTOR. x runs the program anew, e ends the process, b runs for ever.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define STACK (64 * 1024)

static char **arguments;
static int file, other_orders;
static void *mapped; /* of all who share the memory */

static void must(int held)
{
	if (!held)
		abort();
}

static void *obey_others(void *unused);

static int obey_as_process(void *unused)
{
	(void)unused;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	obey_others(NULL);
	return 0;
}

static void start_process(int flags)
{
	char *stack = malloc(STACK);

	must(stack != NULL && clone(obey_as_process, stack + STACK, flags | SIGCHLD, NULL) > 0);
}

static void obey(int orders)
{
	pthread_t thread;
	char order;

	while (read(orders, &order, 1) == 1) {
		switch (order) {
		case 'm':
			mapped = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
			must(mapped != MAP_FAILED);
			break;
		case 'u':
			must(munmap(mapped, PAGE) == 0);
			break;
		case 't':
			must(pthread_create(&thread, NULL, obey_others, NULL) == 0);
			break;
		case 'c':
			start_process(CLONE_VM | CLONE_FILES);
			break;
		case 'v':
			must(write(STDOUT_FILENO, &order, 1) == 1);
			start_process(CLONE_VM | CLONE_FILES | CLONE_VFORK);
			continue;
		case 'f':
			start_process(0);
			break;
		case 'x':
			must(write(STDOUT_FILENO, &order, 1) == 1);
			execv("/proc/self/exe", arguments);
			abort();
		case 'e':
			must(write(STDOUT_FILENO, &order, 1) == 1);
			_exit(0);
		case 'b':
			must(write(STDOUT_FILENO, &order, 1) == 1);
			for (;;)
				;
		}
		must(write(STDOUT_FILENO, &order, 1) == 1);
	}
}

static void *obey_others(void *unused)
{
	obey(other_orders);
	return unused;
}

int main(int count, char **given)
{
	char hello = 'h';

	must(count == 3);
	arguments = given;
	other_orders = atoi(given[2]);
	file = open(given[1], O_RDONLY | O_CLOEXEC);
	must(file >= 0);
	signal(SIGCHLD, SIG_IGN);
	must(write(STDOUT_FILENO, &hello, 1) == 1);
	obey(STDIN_FILENO);
	return 0;
}
