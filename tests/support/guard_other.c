/* The second file of the guard program: its guards and those of the first have to nest. */
#include "fvrange_guard.h"

#include "guard.h"

volatile char touched;

static void load(void *argument)
{
	touched = *(volatile char *)argument;
}

int guarded_elsewhere(const void *start, size_t length, void *address, void **fault)
{
	return fvrange_guard(start, length, load, address, fault);
}
