/* Record every call that changes a folder, with its bytes, in the order in which the kernel makes them.
 *
 * Preloaded (LD_PRELOAD) into all processes of a write.  RECORDED_ROOT names the folder, without links;
 * RECORDED_LOG the file that gains one entry a call.  A lock on that file is held around each call, so the
 * order of the entries is the order of the calls, over all threads and processes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, SIZE, RENAME, LINK, REMOVE, MKDIR, FSYNC, MODE, UNKNOWN };

struct entry {
    uint32_t kind, process, path_length, other_length;
    uint64_t inode;
    int64_t at; /* offset, size or mode */
    uint64_t length;
};

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static const char *root(void) {
    const char *found = getenv("RECORDED_ROOT");
    return found && *found ? found : NULL;
}

static int is_inside(const char *path) {
    const char *top = root();
    size_t length = top ? strlen(top) : 0;
    return top && !strncmp(path, top, length) && (path[length] == '/' || !path[length]);
}

/* Path of an open file; an unlinked one ends in " (deleted)" and still is inside. */
static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int is_recorded(int descriptor) {
    int error = errno;
    char path[PATH_MAX];
    int found = root() && path_of(descriptor, path) && is_inside(path);
    errno = error;
    return found;
}

/* Absolute path of a name, with links followed in all but its last part; 0 where it is not inside. */
static int locate(int folder, const char *name, char *path) {
    int error = errno;
    char whole[2 * PATH_MAX + 2], parent[PATH_MAX];
    *path = 0;
    if (!root() || !name)
        return 0;
    if (*name == '/')
        snprintf(whole, sizeof whole, "%s", name);
    else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(folder, base)) {
            errno = error;
            return 0;
        }
        snprintf(whole, sizeof whole, "%s/%s", base, name);
    }
    size_t length = strlen(whole);
    while (length > 1 && whole[length - 1] == '/')
        whole[--length] = 0;
    char *last = strrchr(whole, '/');
    if (last && last[1]) {
        *last = 0;
        if (realpath(*whole ? whole : "/", parent) && strlen(parent) + strlen(last + 1) + 2 < PATH_MAX)
            sprintf(path, "%s/%s", strcmp(parent, "/") ? parent : "", last + 1);
    }
    errno = error;
    return is_inside(path);
}

static int begin(void) {
    int error = errno;
    int log = syscall(SYS_openat, AT_FDCWD, getenv("RECORDED_LOG"), O_RDWR | O_APPEND | O_CLOEXEC);
    if (log < 0)
        abort();
    while (syscall(SYS_flock, log, LOCK_EX) && errno == EINTR)
        ;
    errno = error;
    return log;
}

/* Unlock before closing: a process forked meanwhile by another thread shares this descriptor. */
static void end(int log) {
    int error = errno;
    syscall(SYS_flock, log, LOCK_UN);
    syscall(SYS_close, log);
    errno = error;
}

static void put(int log, const void *data, size_t length) {
    const char *from = data;
    while (length) {
        ssize_t done = syscall(SYS_write, log, from, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            abort();
        from += done;
        length -= done;
    }
}

static void note(int log, int kind, uint64_t inode, int64_t at, const char *path, const char *other,
                 const struct iovec *parts, uint64_t length) {
    int error = errno;
    struct entry head = {kind, getpid(), path ? strlen(path) : 0, other ? strlen(other) : 0, inode, at, length};
    put(log, &head, sizeof head);
    put(log, path, head.path_length);
    put(log, other, head.other_length);
    for (uint64_t left = length; left; parts++) {
        size_t some = parts->iov_len < left ? parts->iov_len : left;
        put(log, parts->iov_base, some);
        left -= some;
    }
    errno = error;
}

static uint64_t inode_of(int descriptor) {
    struct stat found;
    int error = errno;
    uint64_t inode = fstat(descriptor, &found) ? 0 : found.st_ino;
    errno = error;
    return inode;
}

/* A call that the replay does not know is noted, and makes the recording invalid. */
static void unknown(const char *name, int is_inside_root) {
    if (is_inside_root) {
        int log = begin();
        note(log, UNKNOWN, 0, 0, name, NULL, NULL, 0);
        end(log);
    }
}

/* Bytes */

static int64_t position(int descriptor) {
    struct stat found;
    if (fcntl(descriptor, F_GETFL) & O_APPEND)
        return fstat(descriptor, &found) ? 0 : found.st_size;
    return lseek(descriptor, 0, SEEK_CUR);
}

#define WRITTEN(descriptor, offset, call, parts)                                                                       \
    if (!is_recorded(descriptor))                                                                                      \
        return call;                                                                                                   \
    int log = begin();                                                                                                 \
    int64_t at = offset;                                                                                               \
    ssize_t done = call;                                                                                               \
    if (done > 0)                                                                                                      \
        note(log, WRITE, inode_of(descriptor), at, NULL, NULL, parts, done);                                           \
    end(log);                                                                                                          \
    return done;

ssize_t write(int descriptor, const void *data, size_t length) {
    struct iovec one = {(void *)data, length};
    WRITTEN(descriptor, position(descriptor), REAL(write)(descriptor, data, length), &one)
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    WRITTEN(descriptor, position(descriptor), REAL(writev)(descriptor, parts, count), parts)
}

#define PWRITE(name, type)                                                                                             \
    ssize_t name(int descriptor, const void *data, size_t length, type offset) {                                       \
        struct iovec one = {(void *)data, length};                                                                     \
        WRITTEN(descriptor, offset, REAL(name)(descriptor, data, length, offset), &one)                                \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, type)                                                                                            \
    ssize_t name(int descriptor, const struct iovec *parts, int count, type offset) {                                  \
        WRITTEN(descriptor, offset, REAL(name)(descriptor, parts, count, offset), parts)                               \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define PWRITEV2(name, type)                                                                                           \
    ssize_t name(int descriptor, const struct iovec *parts, int count, type offset, int flags) {                       \
        WRITTEN(descriptor, offset == -1 ? position(descriptor) : offset,                                              \
                REAL(name)(descriptor, parts, count, offset, flags), parts)                                            \
    }
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

#define SIZED(descriptor, new_size, call)                                                                              \
    if (!is_recorded(descriptor))                                                                                      \
        return call;                                                                                                   \
    int log = begin();                                                                                                 \
    int done = call;                                                                                                   \
    if (!done)                                                                                                         \
        note(log, SIZE, inode_of(descriptor), new_size, NULL, NULL, NULL, 0);                                          \
    end(log);                                                                                                          \
    return done;

int ftruncate(int descriptor, off_t size) { SIZED(descriptor, size, REAL(ftruncate)(descriptor, size)) }
int ftruncate64(int descriptor, off64_t size) { SIZED(descriptor, size, REAL(ftruncate64)(descriptor, size)) }

static int64_t size_of(int descriptor) {
    struct stat found;
    return fstat(descriptor, &found) ? 0 : found.st_size;
}

#define ALLOCATED(name, type)                                                                                          \
    int name(int descriptor, type offset, type length) {                                                               \
        SIZED(descriptor, size_of(descriptor), REAL(name)(descriptor, offset, length))                                 \
    }
ALLOCATED(posix_fallocate, off_t)
ALLOCATED(posix_fallocate64, off64_t)

int fallocate(int descriptor, int mode, off_t offset, off_t length) {
    unknown("fallocate with a mode", mode && is_recorded(descriptor));
    SIZED(descriptor, size_of(descriptor), REAL(fallocate)(descriptor, mode, offset, length))
}

/* Bytes that the kernel copies are read back. */
static void note_copied(int log, int descriptor, int64_t at, ssize_t done) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    int error = errno, from = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    void *data = done > 0 ? malloc(done) : NULL;
    if (data && syscall(SYS_pread64, from, data, done, at) == done) {
        struct iovec one = {data, done};
        note(log, WRITE, inode_of(descriptor), at, NULL, NULL, &one, done);
    } else if (done > 0)
        note(log, UNKNOWN, 0, 0, "a copy to a file that cannot be read", NULL, NULL, 0);
    free(data);
    if (from >= 0)
        syscall(SYS_close, from);
    errno = error;
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    if (!is_recorded(to))
        return REAL(copy_file_range)(from, from_at, to, to_at, length, flags);
    int log = begin();
    int64_t at = to_at ? *to_at : position(to);
    ssize_t done = REAL(copy_file_range)(from, from_at, to, to_at, length, flags);
    note_copied(log, to, at, done);
    end(log);
    return done;
}

static ssize_t sent(int to, int from, off_t *from_at, size_t length) {
    if (!is_recorded(to))
        return syscall(SYS_sendfile, to, from, from_at, length);
    int log = begin();
    int64_t at = position(to);
    ssize_t done = syscall(SYS_sendfile, to, from, from_at, length);
    note_copied(log, to, at, done);
    end(log);
    return done;
}
ssize_t sendfile(int to, int from, off_t *from_at, size_t length) { return sent(to, from, from_at, length); }
ssize_t sendfile64(int to, int from, off64_t *from_at, size_t length) { return sent(to, from, from_at, length); }

#define SYNCED(name)                                                                                                   \
    int name(int descriptor) {                                                                                         \
        if (!is_recorded(descriptor))                                                                                  \
            return REAL(name)(descriptor);                                                                             \
        char path[PATH_MAX];                                                                                           \
        struct stat found;                                                                                             \
        int log = begin();                                                                                             \
        int done = REAL(name)(descriptor);                                                                             \
        int is_folder = !fstat(descriptor, &found) && S_ISDIR(found.st_mode);                                          \
        if (!done)                                                                                                     \
            note(log, FSYNC, inode_of(descriptor), 0, is_folder && path_of(descriptor, path) ? path : NULL, NULL,      \
                 NULL, 0);                                                                                             \
        end(log);                                                                                                      \
        return done;                                                                                                   \
    }
SYNCED(fsync)
SYNCED(fdatasync)

/* Names */

static int opened(int folder, const char *name, int flags, int mode, void *call, int is_at) {
    char path[PATH_MAX];
    struct stat found;
    int log = -1, was_there = 0;
    if (flags & (O_CREAT | O_TRUNC) && locate(folder, name, path)) {
        log = begin();
        int error = errno;
        was_there = !fstatat(folder, name, &found, 0);
        errno = error;
    }
    unknown("O_TMPFILE", (flags & O_TMPFILE) == O_TMPFILE && locate(folder, name, path));
    int done = is_at ? ((int (*)(int, const char *, int, ...))call)(folder, name, flags, mode)
                     : ((int (*)(const char *, int, ...))call)(name, flags, mode);
    if (log >= 0) {
        if (done >= 0 && !was_there)
            note(log, CREATE, inode_of(done), fstat(done, &found) ? 0 : found.st_mode, path, NULL, NULL, 0);
        else if (done >= 0 && flags & O_TRUNC)
            note(log, SIZE, inode_of(done), 0, NULL, NULL, NULL, 0);
        end(log);
    }
    return done;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;                                              \
        va_end(more);                                                                                                  \
        return opened(AT_FDCWD, path, flags, mode, real(#name), 0);                                                    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;                                              \
        va_end(more);                                                                                                  \
        return opened(folder, path, flags, mode, real(#name), 1);                                                      \
    }
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static FILE *streamed(const char *path, const char *mode, FILE *(*call)(const char *, const char *)) {
    char whole[PATH_MAX];
    unknown("fopen", *mode != 'r' && locate(AT_FDCWD, path, whole));
    return call(path, mode);
}
FILE *fopen(const char *path, const char *mode) { return streamed(path, mode, REAL(fopen)); }
FILE *fopen64(const char *path, const char *mode) { return streamed(path, mode, REAL(fopen64)); }

static int moved(int kind, int folder, const char *name, int other_folder, const char *other, unsigned flags,
                 int (*call)(int, const char *, int, const char *, unsigned)) {
    char path[PATH_MAX], other_path[PATH_MAX];
    struct stat found;
    int is_from = locate(folder, name, path), is_to = locate(other_folder, other, other_path);
    if (!is_from && !is_to)
        return call(folder, name, other_folder, other, flags);
    unknown("a rename or link over the edge of the folder, or with flags", is_from != is_to || flags & ~(kind == LINK ? AT_SYMLINK_FOLLOW : 0));
    int log = begin();
    int done = call(folder, name, other_folder, other, flags);
    int error = errno;
    if (!done)
        note(log, kind, fstatat(other_folder, other, &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_ino, 0, path,
             other_path, NULL, 0);
    errno = error;
    end(log);
    return done;
}

static int call_rename(int folder, const char *name, int other_folder, const char *other, unsigned flags) {
    return syscall(SYS_renameat2, folder, name, other_folder, other, flags);
}
static int call_link(int folder, const char *name, int other_folder, const char *other, unsigned flags) {
    return syscall(SYS_linkat, folder, name, other_folder, other, flags);
}

int rename(const char *name, const char *other) {
    return moved(RENAME, AT_FDCWD, name, AT_FDCWD, other, 0, call_rename);
}
int renameat(int folder, const char *name, int other_folder, const char *other) {
    return moved(RENAME, folder, name, other_folder, other, 0, call_rename);
}
int renameat2(int folder, const char *name, int other_folder, const char *other, unsigned flags) {
    return moved(RENAME, folder, name, other_folder, other, flags, call_rename);
}
int link(const char *name, const char *other) { return moved(LINK, AT_FDCWD, name, AT_FDCWD, other, 0, call_link); }
int linkat(int folder, const char *name, int other_folder, const char *other, int flags) {
    return moved(LINK, folder, name, other_folder, other, flags, call_link);
}

static int removed(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    if (!locate(folder, name, path))
        return syscall(SYS_unlinkat, folder, name, flags);
    int log = begin();
    int done = syscall(SYS_unlinkat, folder, name, flags);
    if (!done)
        note(log, REMOVE, 0, 0, path, NULL, NULL, 0);
    end(log);
    return done;
}
int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int unlinkat(int folder, const char *name, int flags) { return removed(folder, name, flags); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) {
    int done = removed(AT_FDCWD, name, 0);
    return done && errno == EISDIR ? removed(AT_FDCWD, name, AT_REMOVEDIR) : done;
}

int mkdirat(int folder, const char *name, mode_t mode) {
    char path[PATH_MAX];
    struct stat found;
    if (!locate(folder, name, path))
        return syscall(SYS_mkdirat, folder, name, mode);
    int log = begin();
    int done = syscall(SYS_mkdirat, folder, name, mode);
    if (!done)
        note(log, MKDIR, fstatat(folder, name, &found, 0) ? 0 : found.st_ino, found.st_mode, path, NULL, NULL, 0);
    end(log);
    return done;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static int moded(const char *path, int is_inside_root, uint64_t inode, mode_t mode, int done, int log) {
    if (is_inside_root && !done)
        note(log, MODE, inode, mode & 07777, path, NULL, NULL, 0);
    if (log >= 0)
        end(log);
    return done;
}
int fchmod(int descriptor, mode_t mode) {
    int is_ours = is_recorded(descriptor), log = is_ours ? begin() : -1;
    return moded(NULL, is_ours, inode_of(descriptor), mode, syscall(SYS_fchmod, descriptor, mode), log);
}
int fchmodat(int folder, const char *name, mode_t mode, int flags) {
    char path[PATH_MAX];
    struct stat found;
    int is_ours = locate(folder, name, path), log = is_ours ? begin() : -1;
    int done = flags ? REAL(fchmodat)(folder, name, mode, flags) : syscall(SYS_fchmodat, folder, name, mode);
    return moded(NULL, is_ours, fstatat(folder, name, &found, 0) ? 0 : found.st_ino, mode, done, log);
}
int chmod(const char *name, mode_t mode) { return fchmodat(AT_FDCWD, name, mode, 0); }

/* What the replay cannot follow */

int truncate(const char *name, off_t size) {
    char path[PATH_MAX];
    unknown("truncate", locate(AT_FDCWD, name, path));
    return REAL(truncate)(name, size);
}
int truncate64(const char *name, off64_t size) {
    char path[PATH_MAX];
    unknown("truncate", locate(AT_FDCWD, name, path));
    return REAL(truncate64)(name, size);
}
int symlinkat(const char *to, int folder, const char *name) {
    char path[PATH_MAX];
    unknown("symlink", locate(folder, name, path));
    return syscall(SYS_symlinkat, to, folder, name);
}
int symlink(const char *to, const char *name) { return symlinkat(to, AT_FDCWD, name); }

static int is_shared_map(int protection, int flags, int descriptor) {
    return descriptor >= 0 && flags & MAP_SHARED && protection & PROT_WRITE && is_recorded(descriptor);
}
void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t offset) {
    unknown("a shared map", is_shared_map(protection, flags, descriptor));
    return (void *)syscall(SYS_mmap, address, length, protection, flags, descriptor, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int descriptor, off64_t offset) {
    unknown("a shared map", is_shared_map(protection, flags, descriptor));
    return (void *)syscall(SYS_mmap, address, length, protection, flags, descriptor, offset);
}
