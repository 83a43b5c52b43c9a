/* A file system like NFS, by FUSE: it shows a folder, and renames what is removed while its own programs have it open.
 *
 * Usage: network_file_system FOLDER MOUNTPOINT [options of FUSE]
 *
 * Each mount of one folder is a host of its own, with its own page cache and its own attributes of files.  These are
 * believed in until a file is opened or locked, as clients of NFS do.  Locks reach from one mount to another.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int root;

static const char *inside(const char *path) { return path[1] ? path + 1 : "."; }
static int answer(int code) { return code < 0 ? -errno : code; }

static void *init(struct fuse_conn_info *connection, struct fuse_config *config) {
    (void)connection;
    config->use_ino = 1;
    config->nullpath_ok = 0;
    config->entry_timeout = 0; /* a file that is opened is looked up */
    config->negative_timeout = 0;
    config->attr_timeout = 3600;
    config->kernel_cache = 0;
    return NULL;
}

static int get_attributes(const char *path, struct stat *found, struct fuse_file_info *file) {
    return answer(file ? fstat(file->fh, found) : fstatat(root, inside(path), found, AT_SYMLINK_NOFOLLOW));
}

static int read_link(const char *path, char *target, size_t size) {
    ssize_t length = readlinkat(root, inside(path), target, size - 1);
    if (length < 0)
        return -errno;
    target[length] = 0;
    return 0;
}

static int list(const char *path, void *buffer, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *file,
                enum fuse_readdir_flags flags) {
    (void)at, (void)file, (void)flags;
    int opened = openat(root, inside(path), O_RDONLY | O_DIRECTORY);
    DIR *folder = opened < 0 ? NULL : fdopendir(opened);
    if (!folder)
        return -errno;
    for (struct dirent *entry; (entry = readdir(folder));)
        fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int make_folder(const char *path, mode_t mode) { return answer(mkdirat(root, inside(path), mode)); }
static int remove_file(const char *path) { return answer(unlinkat(root, inside(path), 0)); }
static int remove_folder(const char *path) { return answer(unlinkat(root, inside(path), AT_REMOVEDIR)); }
static int make_symlink(const char *to, const char *path) { return answer(symlinkat(to, root, inside(path))); }

static int move(const char *from, const char *to, unsigned flags) {
    return answer(renameat2(root, inside(from), root, inside(to), flags));
}

static int make_link(const char *from, const char *to) {
    return answer(linkat(root, inside(from), root, inside(to), 0));
}

static int change_mode(const char *path, mode_t mode, struct fuse_file_info *file) {
    return answer(file ? fchmod(file->fh, mode) : fchmodat(root, inside(path), mode, 0));
}

static int change_owner(const char *path, uid_t user, gid_t group, struct fuse_file_info *file) {
    (void)file;
    return answer(fchownat(root, inside(path), user, group, AT_SYMLINK_NOFOLLOW));
}

static int change_times(const char *path, const struct timespec times[2], struct fuse_file_info *file) {
    return answer(file ? futimens(file->fh, times) : utimensat(root, inside(path), times, AT_SYMLINK_NOFOLLOW));
}

static int open_file(const char *path, struct fuse_file_info *file) {
    int opened = openat(root, inside(path), file->flags & ~(O_NOFOLLOW | O_APPEND));
    file->fh = opened;
    return opened < 0 ? -errno : 0;
}

static int create_file(const char *path, mode_t mode, struct fuse_file_info *file) {
    int opened = openat(root, inside(path), file->flags & ~(O_NOFOLLOW | O_APPEND), mode);
    file->fh = opened;
    return opened < 0 ? -errno : 0;
}

static int resize(const char *path, off_t size, struct fuse_file_info *file) {
    if (file)
        return answer(ftruncate(file->fh, size));
    int opened = openat(root, inside(path), O_WRONLY);
    int code = opened < 0 ? -errno : answer(ftruncate(opened, size));
    if (opened >= 0)
        close(opened);
    return code;
}

static int read_file(const char *path, char *data, size_t size, off_t at, struct fuse_file_info *file) {
    (void)path;
    return answer(pread(file->fh, data, size, at));
}

static int write_file(const char *path, const char *data, size_t size, off_t at, struct fuse_file_info *file) {
    (void)path;
    return answer(pwrite(file->fh, data, size, at));
}

static int sync_file(const char *path, int only_data, struct fuse_file_info *file) {
    (void)path;
    return answer(only_data ? fdatasync(file->fh) : fsync(file->fh));
}

static int flush_file(const char *path, struct fuse_file_info *file) {
    (void)path, (void)file;
    return 0;
}

static int release_file(const char *path, struct fuse_file_info *file) {
    (void)path;
    return answer(close(file->fh));
}

static int lock_file(const char *path, struct fuse_file_info *file, int operation) {
    if (flock(file->fh, operation))
        return -errno;
    /* Who has the lock sees what others have written. */
    if (!(operation & LOCK_UN) && path)
        fuse_invalidate_path(fuse_get_context()->fuse, path);
    return 0;
}

static int describe(const char *path, struct statvfs *found) {
    (void)path;
    return answer(fstatvfs(root, found));
}

static const struct fuse_operations operations = {
    .init = init,
    .getattr = get_attributes,
    .readlink = read_link,
    .readdir = list,
    .mkdir = make_folder,
    .unlink = remove_file,
    .rmdir = remove_folder,
    .symlink = make_symlink,
    .rename = move,
    .link = make_link,
    .chmod = change_mode,
    .chown = change_owner,
    .utimens = change_times,
    .open = open_file,
    .create = create_file,
    .truncate = resize,
    .read = read_file,
    .write = write_file,
    .fsync = sync_file,
    .flush = flush_file,
    .release = release_file,
    .flock = lock_file,
    .statfs = describe,
};

int main(int count, char **arguments) {
    if (count < 3 || (root = open(arguments[1], O_RDONLY | O_DIRECTORY)) < 0) {
        fprintf(stderr, "usage: %s FOLDER MOUNTPOINT [options of FUSE]\n", arguments[0]);
        return 2;
    }
    umask(0);
    arguments[1] = arguments[0];
    return fuse_main(count - 1, arguments + 1, &operations, NULL);
}
