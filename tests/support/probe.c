/*
 * probe: a process that touches memory on the orders of a test, and survives what it meets.
 *
 * One command a line on stdin, one reply a line on stdout. Positions are byte offsets in the
 * file or page indices of the file. Replies: the value asked for, "ok", the name of an errno, or
 * "SIGBUS CODE OFFSET" with the file offset of si_addr.
 *
 *   open PATH r|rw                  map shared|private r|rw FIRST COUNT (pages; 0 = to the end)
 *   unmap                           load OFFSET | store OFFSET CHAR
 *   loads [PAGE ...]                one letter a page: its first byte, 0 for NUL, X for SIGBUS
 *   stores CHAR [PAGE ...]          fill pages; one letter a page: w when filled, X for SIGBUS
 *   pipe PAGE                       write(2) of the mapped page to a pipe: bytes or an errno
 *   populate r|w FIRST COUNT        MADV_POPULATE_READ or MADV_POPULATE_WRITE
 *   mlock | msync | fsync           the system calls of these names on all that is mapped
 *   fork                            a child takes over the conversation until "exit"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static int fd = -1;
static volatile char *base; /* address of file offset map_start, NULL when nothing is mapped */
static size_t map_start, map_length, page_size;

static sigjmp_buf after_sigbus;
static volatile sig_atomic_t sigbus_code;
static volatile char *volatile sigbus_address;

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    sigbus_code = info->si_code;
    sigbus_address = info->si_addr;
    siglongjmp(after_sigbus, 1);
}

static void reply(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static void reply_result(long result)
{
    if (result < 0)
        reply(strerrorname_np(errno));
    else
        reply("ok");
}

static volatile char *address_of(size_t file_offset)
{
    if (!base || file_offset < map_start || file_offset >= map_start + map_length) {
        fprintf(stderr, "probe: offset %zu is not mapped\n", file_offset);
        exit(2);
    }
    return base + (file_offset - map_start);
}

/*
 * Load one byte, or store to `count` of them. True when it was done; false after a SIGBUS, which
 * sigbus_code and sigbus_address then tell.
 */
static bool touch(volatile char *address, const char *store, size_t count, char *loaded)
{
    if (sigsetjmp(after_sigbus, 1))
        return false;
    if (!store)
        *loaded = *address;
    for (size_t i = 0; store && i < count; i++)
        address[i] = *store;
    return true;
}

static void reply_sigbus(void)
{
    const char *code = sigbus_code == BUS_ADRERR ? "BUS_ADRERR" : "other";
    printf("SIGBUS %s %zd\n", code, (ssize_t)(sigbus_address - base) + (ssize_t)map_start);
    fflush(stdout);
}

static void access_one(size_t file_offset, const char *store)
{
    char value = 0;
    if (!touch(address_of(file_offset), store, 1, &value)) {
        reply_sigbus();
        return;
    }
    char text[2] = {value ? value : '0', 0};
    reply(store ? "ok" : text);
}

/* X is a SIGBUS exactly as promised: BUS_ADRERR at the address that was touched. */
static char letter_of_access(size_t page, const char *store)
{
    volatile char *address = address_of(page * page_size);
    char value = 0;
    if (!touch(address, store, page_size, &value))
        return sigbus_code == BUS_ADRERR && sigbus_address == address ? 'X' : '!';
    if (store)
        return 'w';
    return value ? value : '0';
}

static void access_pages(char *list, const char *store)
{
    char *token = list ? strtok(list, " ") : NULL;
    if (token) {
        for (; token; token = strtok(NULL, " "))
            putchar(letter_of_access(strtoul(token, NULL, 10), store));
    } else {
        for (size_t at = 0; at < map_length; at += page_size)
            putchar(letter_of_access((map_start + at) / page_size, store));
    }
    putchar('\n');
    fflush(stdout);
}

static void map_pages(bool shared, bool writable, size_t first, size_t count)
{
    struct stat status;
    if (count == 0) {
        if (fstat(fd, &status) < 0) {
            reply_result(-1);
            return;
        }
        count = ((size_t)status.st_size + page_size - 1) / page_size - first;
    }
    void *address = mmap(NULL, count * page_size, PROT_READ | (writable ? PROT_WRITE : 0),
                         shared ? MAP_SHARED : MAP_PRIVATE, fd, (off_t)(first * page_size));
    if (address != MAP_FAILED) {
        base = address;
        map_start = first * page_size;
        map_length = count * page_size;
    }
    reply_result(address == MAP_FAILED ? -1 : 0);
}

static void write_to_pipe(size_t page)
{
    int ends[2];
    const void *source = (const void *)address_of(page * page_size);
    if (pipe2(ends, O_NONBLOCK) < 0) {
        reply_result(-1);
        return;
    }
    ssize_t written = write(ends[1], source, page_size);
    if (written < 0) {
        reply_result(-1);
    } else {
        printf("%zd\n", written);
        fflush(stdout);
    }
    close(ends[0]);
    close(ends[1]);
}

/* The child converses on; the parent is silent until the child has left. */
static void hand_over_to_child(void)
{
    int status = 0;
    pid_t child = fork();
    if (child <= 0) {
        reply_result(child);
        return;
    }
    waitpid(child, &status, 0);
    reply(status == 0 ? "ok" : "child died");
}

static void obey(char *line)
{
    char word[16], path[4096], how[16], access[16], character = 0;
    size_t first = 0, count = 0, offset = 0;
    void *memory = (void *)base;
    char *rest = strchr(line, ' ');

    if (sscanf(line, "open %4095s %15s", path, access) == 2) {
        fd = open(path, strcmp(access, "rw") == 0 ? O_RDWR : O_RDONLY);
        reply_result(fd);
    } else if (sscanf(line, "map %15s %15s %zu %zu", how, access, &first, &count) == 4) {
        map_pages(strcmp(how, "shared") == 0, strcmp(access, "rw") == 0, first, count);
    } else if (sscanf(line, "load %zu", &offset) == 1) {
        access_one(offset, NULL);
    } else if (sscanf(line, "store %zu %c", &offset, &character) == 2) {
        access_one(offset, &character);
    } else if (sscanf(line, "stores %c", &character) == 1) {
        access_pages(strchr(rest + 1, ' '), &character);
    } else if (sscanf(line, "pipe %zu", &first) == 1) {
        write_to_pipe(first);
    } else if (sscanf(line, "populate %15s %zu %zu", access, &first, &count) == 3) {
        void *address = (void *)address_of(first * page_size);
        bool write = strcmp(access, "w") == 0;
        reply_result(madvise(address, count * page_size,
                             write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ));
    } else if (sscanf(line, "%15s", word) != 1) {
        reply("what?");
    } else if (strcmp(word, "loads") == 0) {
        access_pages(rest, NULL);
    } else if (strcmp(word, "unmap") == 0) {
        base = NULL;
        reply_result(munmap(memory, map_length));
    } else if (strcmp(word, "mlock") == 0) {
        reply_result(mlock(memory, map_length));
    } else if (strcmp(word, "msync") == 0) {
        reply_result(msync(memory, map_length, MS_SYNC));
    } else if (strcmp(word, "fsync") == 0) {
        reply_result(fsync(fd));
    } else if (strcmp(word, "fork") == 0) {
        hand_over_to_child();
    } else if (strcmp(word, "exit") == 0) {
        _exit(0);
    } else {
        reply("what?");
    }
}

int main(void)
{
    char line[65536];
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    page_size = (size_t)sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, &action, NULL) < 0)
        return 2;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        obey(line);
    }
    return 0;
}
