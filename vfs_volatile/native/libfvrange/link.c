/* Talking to the daemon. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct attachment own = {
	.fd = -1, .next_fd = -1, .wake_fd = -1, .pagemap_fd = -1, .purged_fd = -1,
};

size_t page_size;

__attribute__((constructor)) static void initialise(void)
{
	page_size = (size_t)sysconf(_SC_PAGESIZE);
}

/* It has the parent's descriptors and memory, and locks that nobody will ever open. */
bool stranger(void)
{
	return own.pid != 0 && own.pid != getpid();
}

bool attached(void)
{
	return own.fd >= 0 && !__atomic_load_n(&own.gone, __ATOMIC_RELAXED) && !stranger();
}

void set_gone(void)
{
	__atomic_store_n(&own.gone, 1, __ATOMIC_RELAXED);
}

int request(unsigned long number, void *argument)
{
	if (!attached()) {
		errno = ENOTCONN;
		return -1;
	}
	if (ioctl(own.fd, number, argument) >= 0)
		return 0;
	if (errno == ENOTCONN || errno == ENODEV || errno == ECONNABORTED) {
		set_gone();
		errno = ENOTCONN;
	}
	return -1;
}

void wake_helper(void)
{
	uint64_t one = 1;
	ssize_t written = write(own.wake_fd, &one, sizeof one);

	(void)written; /* EAGAIN: it is to wake already */
}
