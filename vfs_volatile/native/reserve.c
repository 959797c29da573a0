/*
 * A reserve of address space: so that a request, not the daemon, fails when memory runs out.
 *
 * Python, trio and CRoaring cannot go on without the small pieces that they ask for all the time:
 * trio ends for one that it does not get, CRoaring uses it unasked. So when malloc(3) has none (at
 * RLIMIT_AS, or when the system commits no more), a slice of the reserve is unmapped, and it is asked
 * again. Requests are refused then (admission.c) until the reserve is whole again. Nobody touches a
 * slice while it is held, so it takes no memory. allocators.c has who takes of it, shortage.c what
 * may be done with what is left.
 */
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SLICE (256u << 10)
#define SLICES 256	      /* CRoaring may need 15 MiB for a step over pages of a file of 16 TiB */
#define KEPT (SLICES / 4)     /* what is left to trio when a request or the job of a thread fails */
#define MOST (2u << 20)	      /* bytes: for more at once the reserve is not */
#define TRIES (MOST / SLICE + 1) /* slices for that; malloc(3) may map a MiB for less */

static struct {
	pthread_mutex_t lock;
	struct slice {
		void *at;
		int is_mapped; /* else malloc(3) had it: what was freed is not always unmapped */
	} slices[SLICES];
	int held;
} reserve = { .lock = PTHREAD_MUTEX_INITIALIZER };

/*
 * So many slices are not for what this thread does now. It lies in what each thread has from its
 * start: else the first look at it asked malloc(3), and the process ended if that had none.
 */
static __thread __attribute__((tls_model("initial-exec"))) int leaves;

static int get_slice(struct slice *slice)
{
	slice->at = mmap(NULL, SLICE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	slice->is_mapped = slice->at != MAP_FAILED;
	if (!slice->is_mapped)
		slice->at = malloc(SLICE);
	return slice->at != NULL;
}

static void free_slice(const struct slice *slice)
{
	if (slice->is_mapped)
		munmap(slice->at, SLICE);
	else
		free(slice->at);
}

/*
 * Threads share one heap, all from the first: one with no room for a heap of its own would get a
 * page for each few bytes that it asks for, and so all of the reserve in no time.
 */
static __attribute__((constructor)) void share_heap(void)
{
	mallopt(M_ARENA_MAX, 1);
}

/*
 * Take a slice off the reserve: a mapped one, if there is one. What malloc(3) gets back itself is in
 * pieces, of no use to who wants more at once than there is in one piece.
 */
static struct slice take_slice(void)
{
	int at = reserve.held - 1;
	struct slice taken;

	while (at > 0 && !reserve.slices[at].is_mapped)
		at--;
	taken = reserve.slices[at];
	reserve.slices[at] = reserve.slices[--reserve.held];
	return taken;
}

/* Give up a slice, but for so many, for that many bytes. 0 if there is none for them. */
static int give_slice(int least, size_t size)
{
	const int code = errno;
	struct slice taken;
	int given = 0;

	pthread_mutex_lock(&reserve.lock);
	if (size < MOST && reserve.held > least) {
		taken = take_slice();
		free_slice(&taken);
		given = 1;
	}
	pthread_mutex_unlock(&reserve.lock);
	errno = code;
	return given;
}

#define WITH_SLICES(most, least, size, call)                                         \
	({                                                                           \
		void *got = (call);                                                  \
		for (unsigned tries = 0;                                             \
		     !got && tries < (most) && give_slice(least, size); tries++)     \
			got = (call);                                                \
		got;                                                                 \
	})
#define WITH_RESERVE(size, call) WITH_SLICES(TRIES, leaves, size, call)
#define WITH_ALL(size, call) WITH_SLICES(SLICES, 0, size, call)
