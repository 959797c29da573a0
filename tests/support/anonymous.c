/*
 * A process with volatile anonymous memory, on the orders of a test. It survives what it meets.
 *
 * One command a line, one reply a line: "ok", the value asked for, or the name of an errno. Positions
 * are pages of the one allocation unless a command says bytes.
 *
 *   attach DIR | alloc PAGES | free
 *   mark FIRST COUNT BEHAVIOR | unmark FIRST COUNT    bytes found purged
 *   markbytes START LENGTH BEHAVIOR | unmarkbytes START LENGTH
 *   many MODE BEHAVIOR FIRST COUNT ...                bytes found purged in each
 *   show             one letter a page: its first byte, 0 for NUL, X for SIGBUS at its address
 *   store FIRST COUNT CHAR                            the same for stores, w when stored
 *   pipe PAGE        write(2) of the page to a pipe: bytes or an errno
 *   heal CHAR        from now on a SIGBUS handler takes the page back and fills it with CHAR
 *   healed           how many pages it has filled
 *   zap FIRST COUNT  madvise(MADV_DONTNEED), as an allocator would
 *   fork NAME | clone NAME    a child, by fork(2) or behind the library's back, that takes orders
 *                             from NAME.in and answers to NAME.out; its pid
 *   threads COUNT ROUNDS      so many threads mark, take back and fill pages; pages found purged
 *   interrupt ROUNDS marks and takes back page 1 so often, while a handler does it with page 0
 *   storm COUNT      that many children one after the other, each ends at once
 *   exec PROGRAM     run another program in its place
 *   slow MILLISECONDS          from now on the library sleeps between fetching an order and doing it
 *   fetched          how many orders to drop pages it has fetched
 *   full             allow no more open files than there are
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvrange_anon.h"
#include "native/libfvrange/protocol.h"

#define MOST_SPANS 2048

static char *base;
static size_t pages, page_size;
static _Thread_local sigjmp_buf after_sigbus;
static _Thread_local char *volatile sigbus_address;
static char heal_with;
static atomic_int healed, failures, slow_ms, fetched;

/* The library's ioctl(2): linked with --wrap=ioctl. */
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    int result = __real_ioctl(fd, request, argument);

    if (request == ANON_FETCH && result == 0 &&
        ((struct anon_order *)argument)->kind != ANON_LOOK) {
        fetched++;
        usleep((useconds_t)slow_ms * 1000);
    }
    return result;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    char *at = info->si_addr;

    (void)number;
    (void)context;
    sigbus_address = at;
    if (!heal_with)
        siglongjmp(after_sigbus, 1);
    at -= (uintptr_t)at % page_size;
    if (mvrange(at, page_size, VRANGE_NONVOLATILE, 0, NULL) < 0)
        _exit(9);
    memset(at, heal_with, page_size);
    healed++;
}

static void say(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static void say_number(unsigned long long number)
{
    printf("%llu\n", number);
    fflush(stdout);
}

static void say_error(void)
{
    const char *name = strerrorname_np(errno);

    say(name != NULL ? name : "unknown errno");
}

static void say_result(long result, unsigned long long number)
{
    if (result < 0)
        say_error();
    else
        say_number(number);
}

static void allocate(size_t count)
{
    char *memory = fvrange_anon_alloc(count * page_size);

    if (memory != NULL) {
        base = memory;
        pages = count;
    }
    say_result(memory != NULL ? 0 : -1, count);
}

static char load(size_t page)
{
    volatile char *at = base + page * page_size;

    if (sigsetjmp(after_sigbus, 1))
        return sigbus_address == at ? 'X' : '!';
    return *at ? *at : '0';
}

static char store(size_t page, char letter)
{
    volatile char *at = base + page * page_size;

    if (sigsetjmp(after_sigbus, 1))
        return sigbus_address == at ? 'X' : '!';
    *at = letter;
    return 'w';
}

static void show(size_t first, size_t count, char letter)
{
    char *text = malloc(count + 1);

    for (size_t i = 0; i < count; i++)
        text[i] = letter ? store(first + i, letter) : load(first + i);
    text[count] = '\0';
    say(text);
    free(text);
}

static void change(char *start, size_t length, int mode, int behavior)
{
    uint64_t purged = 0;
    int result = mvrange(start, length, mode, behavior, &purged);

    say_result(result, purged);
}

static void change_many(char *rest)
{
    static struct mvrange_span spans[MOST_SPANS];
    size_t count = 0, first, length;
    int mode, behavior, used = 0;

    sscanf(rest, "%d %d%n", &mode, &behavior, &used);
    for (rest += used; sscanf(rest, "%zu %zu%n", &first, &length, &used) == 2; rest += used)
        spans[count++] = (struct mvrange_span){base + first * page_size, length * page_size, 0};
    if (mvrange_many(spans, count, mode, behavior) < 0) {
        say_error();
        return;
    }
    for (size_t i = 0; i < count; i++)
        printf("%llu ", (unsigned long long)spans[i].purged);
    say("");
}

static void send_page(size_t page)
{
    int ends[2];
    ssize_t written;

    if (pipe(ends) < 0)
        abort();
    written = write(ends[1], base + page * page_size, 1);
    say_result(written, (unsigned long long)written);
    close(ends[0]);
    close(ends[1]);
}

/* The child answers elsewhere from now on; its parent says its pid. */
static void branch(pid_t pid, const char *name)
{
    char path[600];

    if (pid < 0) {
        say_error();
    } else if (pid > 0) {
        say_number((unsigned long long)pid);
    } else {
        snprintf(path, sizeof path, "%s.in", name);
        if (freopen(path, "r", stdin) == NULL)
            _exit(8);
        snprintf(path, sizeof path, "%s.out", name);
        if (freopen(path, "w", stdout) == NULL)
            _exit(8);
    }
}

static void many_children(int count)
{
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            abort();
    }
    say("ok");
}

struct share {
    size_t first, end;
    int rounds;
    unsigned seed;
    unsigned long long purged;
};

/* Marks or takes back; false when the mount has gone, which ends the work. */
static bool does(char *at, int mode, uint64_t *purged)
{
    if (mvrange(at, page_size, mode, mode == VRANGE_VOLATILE ? VRANGE_PARTIAL : 0, purged) == 0)
        return true;
    if (errno != ENOTCONN)
        failures++;
    return false;
}

/* A thread and its own pages: what it takes back holds what it stored, or was reported purged. */
static void *work(void *argument)
{
    struct share *share = argument;

    for (int round = 0; round < share->rounds; round++) {
        size_t page = share->first + (size_t)rand_r(&share->seed) % (share->end - share->first);
        char *at = base + page * page_size;
        char letter = (char)('a' + rand_r(&share->seed) % 26), seen;
        uint64_t purged = 0;

        if (!does(at, VRANGE_NONVOLATILE, NULL))
            break;
        memset(at, letter, page_size);
        if (!does(at, VRANGE_VOLATILE, NULL))
            break;
        if (rand_r(&share->seed) % 8 == 0)
            usleep(200);
        if (!does(at, VRANGE_NONVOLATILE, &purged)) {
            seen = load(page); /* it can be read, or it was purged before the mount went */
            failures += seen != letter && seen != 'X';
            break;
        }
        share->purged += purged == page_size;
        if (purged ? at[0] != 0 : at[0] != letter || at[page_size - 1] != letter)
            failures++;
        if (!does(at, VRANGE_VOLATILE, NULL))
            break;
    }
    return NULL;
}

static void many_threads(int count, int rounds)
{
    pthread_t thread[64];
    struct share share[64];
    unsigned long long purged = 0;

    failures = 0;
    for (int i = 0; i < count; i++) {
        share[i] = (struct share){pages * (size_t)i / (size_t)count,
                                  pages * ((size_t)i + 1) / (size_t)count, rounds,
                                  (unsigned)i + 1, 0};
        pthread_create(&thread[i], NULL, work, &share[i]);
    }
    for (int i = 0; i < count; i++) {
        pthread_join(thread[i], NULL);
        purged += share[i].purged;
    }
    if (failures)
        say("failed");
    else
        say_number(purged);
}

static void on_alarm(int number)
{
    int kept = errno;

    (void)number;
    if (mvrange(base, page_size, VRANGE_VOLATILE, VRANGE_PARTIAL, NULL) < 0 ||
        mvrange(base, page_size, VRANGE_NONVOLATILE, 0, NULL) < 0)
        failures++;
    healed++;
    errno = kept;
}

static void interrupt(int rounds)
{
    struct itimerval never = {{0, 0}, {0, 0}};

    failures = healed = 0;
    signal(SIGALRM, on_alarm);
    for (int i = 0; i < rounds; i++) {
        /* Once a call: a timer that goes on could keep the calls from ever ending. */
        struct itimerval once = {{0, 0}, {0, 1 + i % 100}};
        setitimer(ITIMER_REAL, &once, NULL);
        if (mvrange(base + page_size, page_size, i % 2, 0, NULL) < 0)
            failures++;
    }
    setitimer(ITIMER_REAL, &never, NULL);
    say(failures ? "failed" : healed ? "ok" : "never interrupted");
}

static void allow_no_more_files(void)
{
    int next = dup(0);
    struct rlimit limit = {(rlim_t)next, (rlim_t)next};

    close(next);
    say_result(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void serve(char *line)
{
    char text[600] = "", letter;
    size_t first = 0, count = 0;
    int behavior = 0, rounds = 0;

    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "attach %599s", text) == 1) {
        say_result(fvrange_attach(text), 0);
    } else if (sscanf(line, "alloc %zu", &count) == 1) {
        allocate(count);
    } else if (!strcmp(line, "free")) {
        say_result(fvrange_anon_free(base, pages * page_size), 0);
    } else if (sscanf(line, "markbytes %zu %zu %d", &first, &count, &behavior) == 3) {
        change(base + first, count, VRANGE_VOLATILE, behavior);
    } else if (sscanf(line, "unmarkbytes %zu %zu", &first, &count) == 2) {
        change(base + first, count, VRANGE_NONVOLATILE, 0);
    } else if (sscanf(line, "mark %zu %zu %d", &first, &count, &behavior) == 3) {
        change(base + first * page_size, count * page_size, VRANGE_VOLATILE, behavior);
    } else if (sscanf(line, "unmark %zu %zu", &first, &count) == 2) {
        change(base + first * page_size, count * page_size, VRANGE_NONVOLATILE, 0);
    } else if (!strncmp(line, "many ", 5)) {
        change_many(line + 5);
    } else if (!strcmp(line, "show")) {
        show(0, pages, 0);
    } else if (sscanf(line, "store %zu %zu %c", &first, &count, &letter) == 3) {
        show(first, count, letter);
    } else if (sscanf(line, "pipe %zu", &first) == 1) {
        send_page(first);
    } else if (!strcmp(line, "healed")) {
        say_number((unsigned long long)healed);
    } else if (sscanf(line, "heal %c", &letter) == 1) {
        heal_with = letter;
        say("ok");
    } else if (sscanf(line, "zap %zu %zu", &first, &count) == 2) {
        say_result(madvise(base + first * page_size, count * page_size, MADV_DONTNEED), 0);
    } else if (sscanf(line, "fork %599s", text) == 1) {
        branch(fork(), text);
    } else if (sscanf(line, "clone %599s", text) == 1) {
        branch((pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), text);
    } else if (sscanf(line, "threads %zu %d", &count, &rounds) == 2) {
        many_threads((int)count, rounds);
    } else if (sscanf(line, "storm %d", &rounds) == 1) {
        many_children(rounds);
    } else if (sscanf(line, "slow %d", &rounds) == 1) {
        slow_ms = rounds;
        say("ok");
    } else if (!strcmp(line, "fetched")) {
        say_number((unsigned long long)fetched);
    } else if (sscanf(line, "interrupt %d", &rounds) == 1) {
        interrupt(rounds);
    } else if (!strcmp(line, "full")) {
        allow_no_more_files();
    } else if (sscanf(line, "exec %599s", text) == 1) {
        execl(text, text, (char *)NULL);
        say_error();
    } else {
        say("what?");
    }
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
    static char line[1 << 16];

    page_size = (size_t)sysconf(_SC_PAGESIZE);
    sigaction(SIGBUS, &action, NULL);
    signal(SIGCHLD, SIG_DFL);
    while (fgets(line, sizeof line, stdin) != NULL)
        serve(line);
    return 0;
}
