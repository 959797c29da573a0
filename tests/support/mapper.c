/*
 * mapper: a program that maps a file by fvrange_map() and touches its pages as it is told.
 *
 *   mapper FD
 *
 * FD is an open file of a mount. Commands on stdin, one answer a line on stdout: "look" (a letter a
 * page: what it holds, 0 for zeros, X for SIGBUS at the exact address), "child" (the same, by a
 * child of fork), "store PAGE LETTER" (ok or X), "remove PAGE" (madvise MADV_REMOVE: ok). Fails with
 * the errno's name in words.
 */
#define _GNU_SOURCE
#include "fvrange_map.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#define PAGE 4096

static sigjmp_buf before;
static char *volatile faulted;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	faulted = info->si_code == BUS_ADRERR ? (char *)info->si_addr : NULL;
	siglongjmp(before, 1);
}

/* The byte at address, after storing letter there if it is one; X for SIGBUS, ? if elsewhere. */
static char touch(char *address, char letter)
{
	char *volatile at = address;

	if (sigsetjmp(before, 1))
		return faulted == at ? 'X' : '?';
	if (letter)
		*(volatile char *)address = letter;
	letter = *(volatile char *)address;
	return letter ? letter : '0';
}

static void look(char *data, size_t length)
{
	for (size_t at = 0; at < length; at += PAGE)
		putchar(touch(data + at + 7, 0));
	putchar('\n');
	fflush(stdout);
}

int main(int count, char **arguments)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
	int fd = count > 1 ? atoi(arguments[1]) : -1;
	char line[64], letter;
	struct stat found;
	size_t length, page;
	char *data;

	sigaction(SIGBUS, &action, NULL);
	if (fstat(fd, &found) < 0)
		return 2;
	length = (size_t)found.st_size;
	data = (char *)fvrange_map(fd, length, 0);
	if (data == MAP_FAILED) {
		perror("fvrange_map");
		return 1;
	}
	puts("mapped");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (strcmp(line, "look\n") == 0) {
			look(data, length);
		} else if (strcmp(line, "child\n") == 0) {
			pid_t child = fork();

			if (child == 0) {
				look(data, length);
				_exit(0);
			}
			waitpid(child, NULL, 0);
		} else if (sscanf(line, "store %zu %c", &page, &letter) == 2) {
			puts(touch(data + page * PAGE + 7, letter) == letter ? "ok" : "X");
			fflush(stdout);
		} else if (sscanf(line, "remove %zu", &page) == 1) {
			puts(madvise(data + page * PAGE, PAGE, MADV_REMOVE) == 0 ? "ok" : "failed");
			fflush(stdout);
		}
	}
	return fvrange_unmap(data, length) < 0;
}
