/* Lets Python's own allocations fail, one by one, of one thread; loaded into the interpreter by
 * no_memory.py.
 * Without Python.h: the declarations are those of Doc/c-api/memory.rst, "Customize Memory Allocators".
 */
#include <pthread.h>
#include <stddef.h>

struct allocator { /* PyMemAllocatorEx */
    void *context;
    void *(*malloc)(void *context, size_t size);
    void *(*calloc)(void *context, size_t count, size_t size);
    void *(*realloc)(void *context, void *old, size_t size);
    void (*free)(void *context, void *old);
};

void PyMem_GetAllocator(int domain, struct allocator *allocator);
void PyMem_SetAllocator(int domain, struct allocator *allocator);

enum { DOMAINS = 3 }; /* PYMEM_DOMAIN_RAW, _MEM, _OBJ */

static struct allocator real[DOMAINS];
static long left;
static int refused;
static pthread_t whose; /* another thread may have just finished a job, and be on its way to sleep */

static int refuse(void)
{
    if (!pthread_equal(pthread_self(), whose) || left-- != 0)
        return 0;
    refused = 1;
    return 1;
}

static void *may_malloc(void *context, size_t size)
{
    struct allocator *to = context;
    return refuse() ? NULL : to->malloc(to->context, size);
}

static void *may_calloc(void *context, size_t count, size_t size)
{
    struct allocator *to = context;
    return refuse() ? NULL : to->calloc(to->context, count, size);
}

static void *may_realloc(void *context, void *old, size_t size)
{
    struct allocator *to = context;
    return refuse() ? NULL : to->realloc(to->context, old, size);
}

static void pass_free(void *context, void *old)
{
    struct allocator *to = context;
    to->free(to->context, old);
}

/* From now on the allocation of this thread after so many fails, once. */
void begin_refusing(long after)
{
    whose = pthread_self();
    left = after;
    refused = 0;
    for (int domain = 0; domain < DOMAINS; domain++) {
        PyMem_GetAllocator(domain, &real[domain]);
        struct allocator ours = {&real[domain], may_malloc, may_calloc, may_realloc, pass_free};
        PyMem_SetAllocator(domain, &ours);
    }
}

/* Returns whether one has failed. */
int end_refusing(void)
{
    for (int domain = 0; domain < DOMAINS; domain++)
        PyMem_SetAllocator(domain, &real[domain]);
    return refused;
}
