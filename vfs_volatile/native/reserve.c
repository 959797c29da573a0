/*
 * A reserve of address space: so that a request, not the daemon, fails when memory runs out.
 *
 * Python, trio and CRoaring cannot go on without the small pieces that they ask for all the time:
 * trio ends for one that it does not get, CRoaring uses it unasked. So when malloc(3) has none (at
 * RLIMIT_AS, or when the system commits no more), a slice of the reserve is unmapped, and it is asked
 * again. Requests are refused then (admission.c) until the reserve is whole again. Nobody touches a
 * slice while it is held, so it takes no memory.
 *
 * Python is asked as Doc/c-api/memory.rst has it, "Customize Memory Allocators"; cffi compiles for
 * the limited API, so the declarations are here. Small objects come from arenas of Python's own,
 * and from malloc(3) when there is no memory for one more: that is the domain "raw".
 */
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SLICE (256u << 10)
#define SLICES 256	      /* CRoaring may need 15 MiB for a step over pages of a file of 16 TiB */
#define KEPT (SLICES / 4)     /* what is left to trio when a request or the job of a thread fails */
#define GROWS (SLICES - 16)   /* with so many left something may take memory for good, */
#define WORKS (SLICES / 2)    /* or work at all */
#define MOST (2u << 20)	      /* bytes: for more at once the reserve is not */
#define TRIES (MOST / SLICE + 1) /* slices for that; malloc(3) may map a MiB for less */
#define STACK (512u << 10)    /* of the serving thread: a stack that cannot grow is a SIGSEGV */
#define THREAD_STACK (512u << 10) /* of others */
#define SMALL_BLOCK 512	      /* the largest that Python takes from its arenas */
#define SMALL_BLOCKS 64	      /* there is room for a request if there are so many of them, */
#define LARGE_BLOCK (64u << 10) /* and one of these */

struct raw_allocator { /* PyMemAllocatorEx */
	void *context;
	void *(*malloc)(void *context, size_t size);
	void *(*calloc)(void *context, size_t count, size_t size);
	void *(*realloc)(void *context, void *old, size_t size);
	void (*free)(void *context, void *old);
};
struct arena_allocator { /* PyObjectArenaAllocator: it gives the stacks of Python's frames too */
	void *context;
	void *(*alloc)(void *context, size_t size);
	void (*free)(void *context, void *old, size_t size);
};
struct roaring_allocator { /* roaring_memory_t, of CRoaring's memory.h */
	void *(*malloc)(size_t);
	void *(*realloc)(void *, size_t);
	void *(*calloc)(size_t, size_t);
	void (*free)(void *);
	void *(*aligned_malloc)(size_t, size_t);
	void (*aligned_free)(void *);
};

void PyMem_GetAllocator(int domain, struct raw_allocator *);
void PyMem_SetAllocator(int domain, struct raw_allocator *);
void PyObject_GetArenaAllocator(struct arena_allocator *);
void PyObject_SetArenaAllocator(struct arena_allocator *);

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

static struct raw_allocator raw;
static struct arena_allocator arena;

static void *raw_malloc(void *context, size_t size)
{
	return WITH_RESERVE(size, raw.malloc(context, size));
}

static void *raw_calloc(void *context, size_t count, size_t size)
{
	return WITH_RESERVE(count * size, raw.calloc(context, count, size));
}

static void *raw_realloc(void *context, void *old, size_t size)
{
	return WITH_RESERVE(size, raw.realloc(context, old, size));
}

#define PAGE 4096
#define ROOM 32 /* before a block of malloc(3): what it is, and the step off a page */

/*
 * Python maps its arenas, and the stacks of its frames. What others have freed is not always
 * unmapped, and may be all there is, in the reserve too. So blocks come from malloc(3) then; such a
 * block does not begin on a page, which tells them apart.
 */
static void *map_or_malloc(void *context, size_t size)
{
	char *found = arena.alloc(context, size), *block;

	if (found)
		return found;
	block = malloc(size + ROOM);
	if (!block)
		return NULL;
	found = block + ROOM / 2;
	if ((uintptr_t)found % PAGE == 0)
		found = block + ROOM;
	((void **)found)[-1] = block;
	return found;
}

static void *arena_alloc(void *context, size_t size)
{
	return WITH_RESERVE(size, map_or_malloc(context, size));
}

static void arena_free(void *context, void *old, size_t size)
{
	if ((uintptr_t)old % PAGE == 0)
		arena.free(context, old, size);
	else
		free(((void **)old)[-1]);
}

/* Nothing is spared for others: CRoaring does not ask whether it got something. */
static void *roaring_malloc(size_t size)
{
	return WITH_ALL(size, malloc(size));
}

static void *roaring_realloc(void *old, size_t size)
{
	return WITH_ALL(size, realloc(old, size));
}

static void *roaring_calloc(size_t count, size_t size)
{
	return WITH_ALL(count * size, calloc(count, size));
}

static void *roaring_aligned(size_t alignment, size_t size)
{
	return WITH_ALL(size, aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1)));
}

static void use_reserve_for_python(void)
{
	struct raw_allocator ours;
	struct arena_allocator of_arenas;

	PyMem_GetAllocator(0, &raw);
	ours = raw;
	ours.malloc = raw_malloc;
	ours.calloc = raw_calloc;
	ours.realloc = raw_realloc;
	PyMem_SetAllocator(0, &ours);
	PyObject_GetArenaAllocator(&arena);
	of_arenas = arena;
	of_arenas.alloc = arena_alloc;
	of_arenas.free = arena_free;
	PyObject_SetArenaAllocator(&of_arenas);
}

typedef void new_handler(void);
static new_handler *(*set_new_handler)(new_handler *); /* std::set_new_handler */

/* C++ asks again after this. Not even what is left to others is spared: nobody catches bad_alloc. */
static void give_to_new(void)
{
	if (!give_slice(0, SLICE))
		set_new_handler(NULL);
}

/*
 * Of the library that has CRoaring in it, and around it vectors of C++; without such functions it
 * goes without the reserve.
 */
static void use_reserve_for_bitmaps(const char *library)
{
	const struct roaring_allocator ours = {
		roaring_malloc, roaring_realloc, roaring_calloc, free, roaring_aligned, free,
	};
	void *found = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
	void (*use)(struct roaring_allocator) =
		found ? (void (*)(struct roaring_allocator))(uintptr_t)dlsym(
				found, "roaring_init_memory_hook") :
			NULL;

	if (use)
		use(ours);
	set_new_handler = found ? (new_handler * (*)(new_handler *))(uintptr_t)dlsym(
					  found, "_ZSt15set_new_handlerPFvvE") :
				  NULL;
	if (set_new_handler)
		set_new_handler(give_to_new);
}

static __attribute__((noinline)) void grow_stack(void)
{
	volatile char room[STACK];

	for (size_t at = 0; at < sizeof room; at += 4096)
		room[at] = 0;
}

/* Have all slices that can be had. Are they all there? */
static int is_whole(void)
{
	if (reserve.held == SLICES)
		return 1;
	pthread_mutex_lock(&reserve.lock);
	while (reserve.held < SLICES && get_slice(&reserve.slices[reserve.held]))
		reserve.held++;
	pthread_mutex_unlock(&reserve.lock);
	if (set_new_handler && reserve.held)
		set_new_handler(give_to_new);
	return reserve.held == SLICES;
}

/* Is there room for a request without the reserve: where others left some, if nowhere else? */
static int is_room_left(void)
{
	void *blocks[SMALL_BLOCKS], *large = malloc(LARGE_BLOCK);
	const int before = leaves;
	int count = 0;

	leaves = SLICES;
	while (count < SMALL_BLOCKS && (blocks[count] = PyObject_Malloc(SMALL_BLOCK)))
		count++;
	leaves = before;
	for (int block = 0; block < count; block++)
		PyObject_Free(blocks[block]);
	free(large);
	return large && count == SMALL_BLOCKS;
}

/* May something be done that takes memory for good? */
static int shim_is_memory_left(void)
{
	PyGILState_STATE lock;
	int found;

	if (is_whole())
		return 1;
	lock = PyGILState_Ensure();
	found = reserve.held >= GROWS && is_room_left();
	PyGILState_Release(lock);
	return found;
}

/* Is there more than is left to others? */
static int shim_is_spare(void)
{
	return is_whole() || reserve.held >= KEPT;
}

/* What this thread does from now on is a job, or no more. */
static void shim_does_job(int is_job)
{
	leaves = is_job ? KEPT : 0;
}

/* Give up what the stack of one more thread takes; 0 if that is too much of the reserve. */
static int shim_give_for_thread(void)
{
	for (size_t given = 0; given < THREAD_STACK + SLICE; given += SLICE)
		if (reserve.held <= WORKS || !give_slice(0, SLICE))
			return 0;
	return 1;
}

/* Once, on the thread that serves the mount, while it is the only one. */
static void shim_keep_reserve(const char *library_of_bitmaps)
{
	grow_stack();
	use_reserve_for_python();
	use_reserve_for_bitmaps(library_of_bitmaps);
	is_whole();
}
