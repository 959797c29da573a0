/*
 * crowd: processes that map files and sleep, to be looked at.
 *
 *   crowd OTHERS MAPPERS FILE MAPPINGS
 *
 * OTHERS processes do not map FILE; MAPPERS processes map it shared and load every page of it. Each
 * of them also maps MAPPINGS other files, which are made in the working directory and unlinked.
 * Prints "ready" when all is mapped and ends when its standard input does; its children never outlive
 * it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static void must(int held, const char *what)
{
	if (!held) {
		perror(what);
		exit(1);
	}
}

/* A child inherits this: fork(2) copies mappings. */
static void map_another(void)
{
	char path[] = "another-XXXXXX";
	int fd = mkstemp(path);

	must(fd >= 0, "mkstemp");
	unlink(path);
	must(ftruncate(fd, PAGE) == 0, "ftruncate");
	must(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED, "mmap");
	close(fd);
}

static void map_and_load(const char *path)
{
	struct stat found;
	int fd = open(path, O_RDONLY);

	must(fd >= 0 && fstat(fd, &found) == 0, "open");
	size_t size = (size_t)found.st_size;
	volatile char *address = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	must(address != MAP_FAILED, "mmap");
	for (size_t at = 0; at < size; at += PAGE)
		(void)address[at];
	close(fd);
}

/* One that maps path (unless NULL), says so by a byte on announce, and sleeps. */
static pid_t start(const char *path, int announce)
{
	pid_t parent = getpid(), child = fork();

	must(child >= 0, "fork");
	if (child > 0)
		return child;
	must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "prctl");
	if (getppid() != parent)
		_exit(1);
	if (path != NULL)
		map_and_load(path);
	must(write(announce, "", 1) == 1, "write");
	close(announce);
	for (;;)
		pause();
}

int main(int count, char **arguments)
{
	int announced[2];
	char byte;

	must(count == 5, "usage: crowd OTHERS MAPPERS FILE MAPPINGS");
	long others = atol(arguments[1]), mappers = atol(arguments[2]);
	pid_t *children = calloc((size_t)(others + mappers), sizeof *children);
	must(children != NULL && pipe(announced) == 0, "pipe");
	for (long number = 0; number < atol(arguments[4]); number++)
		map_another();
	for (long number = 0; number < others + mappers; number++)
		children[number] = start(number < others ? NULL : arguments[3], announced[1]);
	/* Now reading ends when no child is left that has yet to announce itself. */
	close(announced[1]);
	for (long number = 0; number < others + mappers; number++)
		must(read(announced[0], &byte, 1) == 1, "a child");
	puts("ready");
	fflush(stdout);

	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	for (long number = 0; number < others + mappers; number++)
		kill(children[number], SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
