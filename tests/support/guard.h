/* What the two files of the guard program share. */
#ifndef GUARD_H
#define GUARD_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

extern volatile char touched; /* the byte that was loaded last */

/* Loads *address under a guard, in guard_other.c. */
int guarded_elsewhere(const void *start, size_t length, void *address, void **fault);

#ifdef __cplusplus
}
#endif

#endif
