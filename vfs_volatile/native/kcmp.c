/*
 * kcmp(2) for memory: do two processes use one mm? glibc has no wrapper, and the number of the call is
 * the machine's.
 */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KCMP_VM_ 1 /* <linux/kcmp.h> */

/* 0: the same, 1 and 2: other memory, in an order of its own, 3: other memory. Negative: -errno. */
static int kcmp_memory(int one, int other)
{
#ifdef SYS_kcmp
	long result = syscall(SYS_kcmp, one, other, KCMP_VM_, 0L, 0L);

	return result < 0 ? -errno : (int)result;
#else
	(void)one, (void)other;
	return -ENOSYS;
#endif
}
