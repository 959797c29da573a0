/*
 * What of the reserve (reserve.c) is left, and what may still be done with that.
 */
#include <pthread.h>
#include <stdlib.h>

#define GROWS (SLICES - 16)   /* with so many left something may take memory for good, */
#define WORKS (SLICES / 2)    /* or work at all */
#define STACK (512u << 10)    /* of the serving thread: a stack that cannot grow is a SIGSEGV */
#define THREAD_STACK (512u << 10) /* of others */
#define SMALL_BLOCK 512	      /* the largest that Python takes from its arenas */
#define SMALL_BLOCKS 64	      /* there is room for a request if there are so many of them, */
#define LARGE_BLOCK (64u << 10) /* and one of these */

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
