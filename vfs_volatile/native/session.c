/*
 * Serves requests that come close together in one turn of trio's loop.
 *
 * pyfuse3 waits in trio until the device is readable, reads one request, hands it to
 * fuse_session_process_buf() and goes back to trio: two passes of its scheduler, an epoll_ctl(2)
 * and an epoll_wait(2), which take longer than most requests. As with fuse_session_new (shim.c)
 * pyfuse3's call is bound to the function here. Once a handler of ours has answered a request, it
 * reads the next itself, and waits a moment for it: whoever has been answered may ask again.
 *
 * A request that pyfuse3 answers is always the last: its coroutine is awaited when we return. So is
 * one for which a task was started. Other tasks of trio wait for TURN_NS and one request at most;
 * while somebody has said that they are in a hurry, for one request.
 */
#include <fcntl.h>
#include <poll.h>
#include <time.h>

#define TURN_NS 2000000L /* so long other tasks may be kept from running */
#define WAIT_NS 50000L	/* so long a next request is waited for: what a turn of trio costs, or two */
#define MEMORY_NS 10000000L /* from one try to get memory to the next */

/* Is the request under way answered when its handler returns? Each of our handlers says so. */
static int at_once;

/* Somebody in trio has something to do now: the request under way is the last of this turn. */
static void shim_end_turn(void)
{
	at_once = 0;
}

static int hurry; /* Is each request the last of its turn for now? */

static void shim_set_hurry(int on)
{
	hurry = on;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* The device must not block: there may be nothing to read after all. */
static int unblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* May there be a request to read? Waits for one without the GIL, until WAIT_NS have passed. */
static int wait_for_request(int fd)
{
	struct pollfd device = { .fd = fd, .events = POLLIN };
	const struct timespec limit = { .tv_nsec = WAIT_NS };
	int ready;

	Py_BEGIN_ALLOW_THREADS
	ready = ppoll(&device, 1, &limit, NULL);
	Py_END_ALLOW_THREADS
	return ready > 0;
}

static void wait_for_memory(void)
{
	const struct timespec moment = { .tv_nsec = MEMORY_NS };

	Py_BEGIN_ALLOW_THREADS
	nanosleep(&moment, NULL);
	Py_END_ALLOW_THREADS
}

typedef int receive_fn(struct fuse_session *, struct fuse_buf *);
typedef void process_fn(struct fuse_session *, const struct fuse_buf *);

static receive_fn *real_receive(void)
{
	static receive_fn *found;

	if (!found)
		found = (receive_fn *)(uintptr_t)dlsym(RTLD_NEXT, "fuse_session_receive_buf");
	return found;
}

static process_fn *real_process(void)
{
	static process_fn *found;

	if (!found)
		found = (process_fn *)(uintptr_t)dlsym(RTLD_NEXT, "fuse_session_process_buf");
	return found;
}

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
	int result = real_receive()(se, buf);

	if (result == -ENOMEM) /* for its buffer; others have theirs, and it is tried again */
		wait_for_memory();
	/* Of these pyfuse3 takes the last; any other would end the mount. */
	return result == -EAGAIN || result == -ENOMEM ? -EINTR : result;
}

void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
	static struct fuse_buf next; /* its memory is libfuse's, and stays */
	const int64_t end = now_ns() + TURN_NS;

	forget_known(); /* tasks have run */
	for (;;) {
		int got;

		at_once = was_refused(se, buf);
		if (!at_once) {
			leaves = KEPT;
			real_process()(se, buf);
			leaves = 0;
		}
		if (!at_once || hurry || now_ns() > end)
			return;
		got = real_receive()(se, &next);
		if (got == -EAGAIN && wait_for_request(fuse_session_fd(se)))
			got = real_receive()(se, &next);
		if (got <= 0) /* nothing, or the end: pyfuse3 comes to that itself */
			return;
		buf = &next;
	}
}
