/* SPDX-License-Identifier: MIT */
/*
 * fvrange_guard.h - touch memory that may have been purged, and get the SIGBUS as a return value.
 *
 * Header-only, for C11 (-std=gnu11, or -std=c11 -D_XOPEN_SOURCE=700) and C++17. Link with -pthread.
 * Not needed by fvrange.h, and does not need it:
 *
 *     static void copy(void *argument) { ... memcpy(mine, mapped, size); ... }
 *
 *     void *lost;
 *     if (fvrange_guard(mapped, size, copy, &job, &lost) == SIGBUS)
 *         rebuild();                          // the page at `lost` has been purged
 */
#ifndef FVRANGE_GUARD_H
#define FVRANGE_GUARD_H

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#ifndef SA_ONSTACK
#error "fvrange_guard.h needs signals: compile with -std=gnu11, or with -D_XOPEN_SOURCE=700"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Internal: one call of fvrange_guard() that has not returned yet. */
struct fvrange_guard_ {
	sigjmp_buf here;
	uintptr_t start;
	size_t length;
	void *volatile fault;
	struct fvrange_guard_ *outer; /* of the same thread */
};

/*
 * Internal: one of each in a program, whatever number of its files include this header, or else
 * guards of two files could not nest.
 */
__attribute__((weak)) __thread struct fvrange_guard_ *fvrange_guard_innermost_;
__attribute__((weak)) struct sigaction fvrange_guard_previous_;
__attribute__((weak)) pthread_once_t fvrange_guard_once_ = PTHREAD_ONCE_INIT;
__attribute__((weak)) int fvrange_guard_error_;

/* Internal: a SIGBUS that is none of ours goes to whoever had the signal before us. */
static inline void fvrange_guard_pass_on_(int number, siginfo_t *info, void *context)
{
	const struct sigaction *previous = &fvrange_guard_previous_;
	int sent = info->si_code <= 0; /* by kill(2) and the like, not by a touch */

	if (previous->sa_flags & SA_SIGINFO) {
		previous->sa_sigaction(number, info, context);
	} else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
		previous->sa_handler(number);
	} else if (previous->sa_handler == SIG_DFL || !sent) {
		/* As if there were no handler: the touch is repeated when this one returns. */
		struct sigaction standard;

		standard.sa_handler = SIG_DFL;
		standard.sa_flags = 0;
		sigemptyset(&standard.sa_mask);
		sigaction(number, &standard, NULL);
		if (sent)
			raise(number);
	}
}

/* Internal: the handler of SIGBUS. */
static inline void fvrange_guard_handle_(int number, siginfo_t *info, void *context)
{
	struct fvrange_guard_ *guard = fvrange_guard_innermost_;
	uintptr_t address = (uintptr_t)info->si_addr;
	int before = errno;

	if (info->si_code == BUS_ADRERR) {
		while (guard != NULL && address - guard->start >= guard->length)
			guard = guard->outer;
		if (guard != NULL) {
			fvrange_guard_innermost_ = guard->outer;
			guard->fault = info->si_addr;
			siglongjmp(guard->here, 1);
		}
	}
	fvrange_guard_pass_on_(number, info, context);
	errno = before;
}

/* Internal: take SIGBUS over, once. */
static inline void fvrange_guard_install_(void)
{
	struct sigaction ours;

	ours.sa_sigaction = fvrange_guard_handle_;
	ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigemptyset(&ours.sa_mask);
	if (sigaction(SIGBUS, &ours, &fvrange_guard_previous_) < 0)
		fvrange_guard_error_ = errno;
}

/*
 * Run block(argument); when it touches purged memory of a range, end it there.
 *
 * start, length   the memory that may have been purged, bytes
 * block           what touches it. It is left in the middle by a SIGBUS: it must hold nothing then
 *                 that has to be given back (locks, memory; in C++ objects with destructors), and
 *                 what it has written so far stays. It must not be left by longjmp(3) or by an
 *                 exception
 * fault           out, may be NULL: the address whose touch was the SIGBUS
 *
 * Returns 0 when the block came to its end; SIGBUS when it did not: errno and the signal mask are
 * as before the call then; or -1 with errno of sigaction(2), and nothing was run.
 *
 * Guards nest, and each thread has its own. The first call installs a handler of SIGBUS for the
 * process. Touches outside the ranges of a thread's guards go on to the handler that was there
 * before, or end the process as ever. A handler that is installed later has to do the same.
 * SIGBUS must not be blocked. A system call that is handed purged memory fails with EFAULT; that
 * is no touch of the block.
 */
static inline int fvrange_guard(const void *start, size_t length, void (*block)(void *),
				void *argument, void **fault)
{
	const int before = errno;
	struct fvrange_guard_ guard;

	pthread_once(&fvrange_guard_once_, fvrange_guard_install_);
	if (fvrange_guard_error_ != 0) {
		errno = fvrange_guard_error_;
		return -1;
	}
	guard.start = (uintptr_t)start;
	guard.length = length;
	guard.outer = fvrange_guard_innermost_;
	fvrange_guard_innermost_ = &guard; /* nothing is touched before sigsetjmp() is done */
	if (sigsetjmp(guard.here, 1) != 0) {
		errno = before;
		if (fault != NULL)
			*fault = guard.fault;
		return SIGBUS;
	}
	/* Where the compiler sees the block, it must not move a touch out of here. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	block(argument);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	fvrange_guard_innermost_ = guard.outer;
	return 0;
}

#ifdef __cplusplus
}
#endif

#endif /* FVRANGE_GUARD_H */
