/*
 * Who takes from the reserve (reserve.c) when malloc(3) has nothing: Python, CRoaring, and C++.
 *
 * Python is asked as Doc/c-api/memory.rst has it, "Customize Memory Allocators"; cffi compiles for
 * the limited API, so the declarations are here. Small objects come from arenas of Python's own,
 * and from malloc(3) when there is no memory for one more: that is the domain "raw".
 */
#include <dlfcn.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

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
