"""Builds ``_shim`` from the C files here (cffi API mode); run by setup.py."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

SOURCES = ("shim.c", "procmap.c", "kcmp.c")
INCLUDED = (
    "acl.c", "admission.c", "allocators.c", "connection.c", "data.c", "names.c", "ranges.c",
    "receiving.c", "reserve.c", "session.c", "shortage.c", "../fvrange.h",
)  # fmt: skip
"""By those."""

ffi = FFI()

ffi.cdef(
    """
    typedef ... *fuse_req_t;

    int fuse_reply_err(fuse_req_t req, int errno_);
    int fuse_reply_write(fuse_req_t req, size_t count);
    int fuse_reply_lseek(fuse_req_t req, int64_t offset);
    int fuse_reply_ioctl(fuse_req_t req, int result, const void *out, size_t size);
    int fuse_reply_xattr(fuse_req_t req, size_t count);
    int fuse_reply_buf(fuse_req_t req, const char *buf, size_t size);

    struct procmap_found {
        uint64_t start, end, offset, ino, shared;
    };
    int procmap_find(int fd, unsigned major, unsigned minor, uint64_t *at,
                     struct procmap_found *found, int room);
    int kcmp_memory(int one, int other);

    int shim_reply_extent(fuse_req_t req, int fd, int64_t offset, size_t size, int64_t before,
                          int64_t after);
    int shim_fetch_lent(void);
    int64_t shim_move_lent(int fd, int64_t offset);
    int shim_reply_open(fuse_req_t req, uint64_t fh, int backing_id);
    int shim_reply_entry(fuse_req_t req, const char *attributes, unsigned timeout,
                         unsigned name_timeout);
    int shim_reply_attributes(fuse_req_t req, const char *attributes, unsigned timeout);
    int shim_reply_statx(fuse_req_t req, const char *attributes, unsigned timeout, int64_t birth,
                         unsigned birth_ns);
    int shim_reply_created(fuse_req_t req, const char *attributes, unsigned timeout,
                           unsigned name_timeout, uint64_t fh, int backing_id);
    void shim_want_acls(void);
    void shim_want_passthrough(void);
    int shim_has_passthrough(void);
    int shim_backing_open(int fd);
    int shim_backing_close(int id);
    int shim_kills_privileges(void);
    int shim_kills_set_group_id(void);
    unsigned shim_uid(fuse_req_t req);
    unsigned shim_gid(fuse_req_t req);
    int shim_tid(fuse_req_t req);
    unsigned shim_umask(fuse_req_t req);
    void shim_end_turn(void);
    void shim_set_hurry(int on);
    void shim_watch_interrupt(fuse_req_t req);

    void shim_keep_reserve(const char *library_of_bitmaps);
    int shim_is_memory_left(void);
    int shim_give_for_thread(void);
    int shim_is_spare(void);
    void shim_does_job(int is_job);

    int shim_took_hold(void);
    int shim_invalidate(uint64_t ino, int64_t offset, int64_t length);

    #define SHIM_LATER ...
    #define THREAD_STACK ...

    extern "Python" {
        void shim_on_refusal(void);
        void shim_on_interrupt(fuse_req_t);
        void shim_on_set_control(fuse_req_t, uint64_t ino, const char *name, const char *value,
                                 size_t size);
        void shim_on_get_control(fuse_req_t, uint64_t ino, const char *name, size_t size);
        void shim_on_get_acl(fuse_req_t, uint64_t ino, const char *name, size_t size);
        void shim_on_remove_control(fuse_req_t, uint64_t ino, const char *name);
        int64_t shim_on_fvrange(uint64_t fh, uint64_t start, uint64_t length, unsigned mode,
                                unsigned behavior, int tid);
        void shim_on_ioctl(fuse_req_t, uint64_t fh, unsigned cmd, const void *in, size_t in_size,
                           size_t out_size, int tid);
        void shim_on_fallocate(fuse_req_t, uint64_t fh, int mode, int64_t offset, int64_t length);
        void shim_on_lseek(fuse_req_t, uint64_t fh, int64_t offset, int whence);
        void shim_on_lookup(fuse_req_t, uint64_t parent, const char *name);
        void shim_on_forget(uint64_t ino, uint64_t lookups);
        void shim_on_getattr(fuse_req_t, uint64_t ino);
        void shim_on_statx(fuse_req_t, uint64_t ino);
        void shim_on_unlink(fuse_req_t, uint64_t parent, const char *name);
        void shim_on_open(fuse_req_t, uint64_t ino, int flags);
        void shim_on_create(fuse_req_t, uint64_t parent, const char *name, unsigned mode,
                            int flags);
        void shim_on_tmpfile(fuse_req_t, uint64_t parent, unsigned mode, int flags);
        void shim_on_release(fuse_req_t, uint64_t fh);
        void shim_on_read(fuse_req_t, uint64_t fh, size_t size, int64_t offset);
        void shim_on_write(fuse_req_t, uint64_t fh, const char *data, size_t size, int64_t offset,
                           int write_back, int is_lent);
    }
    """
)

ffi.set_source_pkgconfig(
    "vfs_volatile.native._shim",
    ["fuse3"],
    "".join(f'#include "{name}"\n' for name in SOURCES),
    include_dirs=[str(Path(__file__).parent)],
    depends=[str(Path(__file__).parent / name) for name in SOURCES + INCLUDED],
    libraries=["dl"],
    extra_compile_args=["-D_FILE_OFFSET_BITS=64", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
