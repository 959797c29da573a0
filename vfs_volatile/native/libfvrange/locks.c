#include "internal.h"

static pthread_mutex_t locks[] = {
	PTHREAD_MUTEX_INITIALIZER,
	PTHREAD_MUTEX_INITIALIZER,
	PTHREAD_MUTEX_INITIALIZER,
};

void lock(enum lock which, sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
	pthread_mutex_lock(&locks[which]);
}

void unlock(enum lock which, const sigset_t *before)
{
	pthread_mutex_unlock(&locks[which]);
	pthread_sigmask(SIG_SETMASK, before, NULL);
}
