/* Attaching a process to a mount, and its children when they are born. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "fvrange_anon.h"

static pthread_once_t fork_handlers = PTHREAD_ONCE_INIT;

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* An open file of its own, without a name: it stands for this process. -1 with errno. */
static int open_handle(const char *mount_dir)
{
	static unsigned number;
	char name[64];
	struct statfs filesystem;
	int fd, directory = open(mount_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (directory < 0)
		return -1;
	if (fstatfs(directory, &filesystem) < 0 || filesystem.f_type != FVRANGE_FUSE_MAGIC_) {
		close(directory);
		errno = ENOTTY;
		return -1;
	}
	snprintf(name, sizeof name, ".fvrange-%ld-%u", (long)getpid(), number++);
	fd = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		unlinkat(directory, name, 0);
	close(directory);
	return fd;
}

/* Another open file of the same inode, for a child. */
static int open_again(int fd)
{
	char name[64];

	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	return open(name, O_RDWR | O_CLOEXEC);
}

/* A page that any child shares until it drops it. Two threads never map it. */
static int make_sentinel(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return -1;
	*(volatile char *)page = 1;
	own.sentinel = page;
	return 0;
}

static void drop_sentinel(void)
{
	if (own.sentinel != NULL)
		munmap(own.sentinel, PAGE);
	own.sentinel = NULL;
}

/* What shows this process its own pages; not that of its parent. */
int open_pagemap(void)
{
	close_one(&own.pagemap_fd);
	own.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return own.pagemap_fd < 0 ? -1 : 0;
}

static int open_purged(void)
{
	if (own.purged_fd >= 0)
		return 0;
	own.purged_fd = memfd_create("fvrange-purged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (own.purged_fd < 0)
		return -1;
	fcntl(own.purged_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
	return 0;
}

/* What may be shared with others, whom no daemon knows as kin any more, is so for ever. */
static void detach(void)
{
	close_one(&own.fd);
	close_one(&own.wake_fd);
	close_one(&own.pagemap_fd);
	if (own.has_kin)
		own.cautious = true;
	else
		drop_sentinel();
}

/* The new daemon hears of the memory there is. Marks have ended; what is purged stays so. */
static int announce_again(void)
{
	for (size_t i = 0; i < region_count; i++) {
		struct region *region = regions[i];
		sigset_t before;

		lock(LOCK_PAGES, &before);
		for (size_t at = 0; at < words_for(region->pages); at++)
			region->marked[at] = region->purged[at];
		unlock(LOCK_PAGES, &before);
		put(region->held, 0, region->pages, false);
		put(region->exclusive, 0, region->pages, false);
		for (size_t chunk = 0; chunk * ANON_CHUNK < region->pages; chunk++)
			region->changed[chunk] = true;
		if (announce(region) < 0)
			return -1;
	}
	return 0;
}

/* ---- fork ---- */

static sigset_t before_fork[3];
static bool forking; /* lock "call": are the locks taken for a fork? */

/*
 * The daemon hears of the child before it is born, and what its parent holds alone now. The child's
 * open file is there already, so that its end is noticed however soon it comes.
 */
static void before(void)
{
	struct anon_fork asked = {0};
	struct anon_attach child = {0};

	if (own.pid == 0 || stranger())
		return;
	lock(LOCK_CALL, &before_fork[0]);
	lock(LOCK_REPORT, &before_fork[1]);
	if (attached()) {
		tell(0, true);
		own.next_fd = request(ANON_FORK, &asked) == 0 ? open_again(own.fd) : -1;
	}
	if (own.next_fd >= 0) {
		child.token = asked.token;
		child.version = ANON_VERSION;
		if (ioctl(own.next_fd, ANON_ATTACH, &child) < 0)
			close_one(&own.next_fd);
	}
	lock(LOCK_PAGES, &before_fork[2]);
	forking = true;
}

static void open_locks(void)
{
	forking = false;
	unlock(LOCK_PAGES, &before_fork[2]);
	unlock(LOCK_REPORT, &before_fork[1]);
	unlock(LOCK_CALL, &before_fork[0]);
}

/* Who shares what is to be found out anew. */
static void have_kin(void)
{
	own.has_kin = own.untold = true;
	for (size_t i = 0; i < region_count; i++)
		put(regions[i]->exclusive, 0, regions[i]->pages, false);
}

static void in_parent(void)
{
	if (!forking)
		return;
	if (own.next_fd >= 0)
		have_kin();
	close_one(&own.next_fd);
	open_locks();
	if (attached())
		wake_helper();
}

/* A child that cannot be attached shares the sentinel, and so nothing is dropped that it shares. */
static void in_child(void)
{
	if (!forking)
		return;
	close_one(&own.fd);
	close_one(&own.wake_fd);
	own.pid = getpid();
	own.fd = own.next_fd;
	own.next_fd = -1;
	own.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	own.has_helper = false;
	have_kin();
	if (own.fd < 0 || own.wake_fd < 0 || open_pagemap() < 0)
		set_gone();
	if (attached()) {
		drop_sentinel();
		make_sentinel();
	}
	open_locks();
	if (attached())
		start_helper(); /* without one it answers nothing, which holds what it shares */
}

static void install(void)
{
	pthread_atfork(before, in_parent, in_child);
}

/* ---- attaching ---- */

static int attach(const char *mount_dir)
{
	struct anon_attach asked = {.version = ANON_VERSION};

	own.fd = open_handle(mount_dir);
	own.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (own.fd < 0 || own.wake_fd < 0 || open_pagemap() < 0 || open_purged() < 0 ||
	    make_sentinel() < 0)
		return -1;
	own.pid = getpid();
	own.untold = true;
	__atomic_store_n(&own.gone, 0, __ATOMIC_RELAXED);
	if (request(ANON_ATTACH, &asked) < 0 || announce_again() < 0)
		return -1;
	return start_helper();
}

static void end_helper(void)
{
	if (own.has_helper && own.pid == getpid())
		pthread_join(own.helper, NULL);
	own.has_helper = false;
}

/* Has the daemon gone, though nobody has noticed yet? */
static void look_at_daemon(void)
{
	struct pollfd watched = {own.fd, POLLPRI, 0};

	if (attached() && poll(&watched, 1, 0) > 0 && watched.revents & (POLLERR | POLLHUP)) {
		set_gone();
		wake_helper();
	}
}

/* With lock "call". */
static int attach_once(const char *mount_dir, dev_t mount)
{
	sigset_t before;
	int result, error;

	look_at_daemon();
	if (attached()) {
		errno = EBUSY;
		return own.mount == mount ? 0 : -1;
	}
	end_helper();
	lock(LOCK_REPORT, &before);
	detach();
	result = attach(mount_dir);
	error = errno;
	if (result < 0)
		detach();
	own.mount = mount;
	unlock(LOCK_REPORT, &before);
	errno = error;
	return result;
}

__attribute__((visibility("default"))) int fvrange_attach(const char *mount_dir)
{
	struct stat found;
	sigset_t before;
	int result;

	if (stat(mount_dir, &found) < 0)
		return -1;
	if (stranger()) {
		errno = ENOTCONN;
		return -1;
	}
	pthread_once(&fork_handlers, install);
	lock(LOCK_CALL, &before);
	result = attach_once(mount_dir, found.st_dev);
	unlock(LOCK_CALL, &before);
	return result;
}
