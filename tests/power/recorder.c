/* A layer between the host and the C library that records what the host does to the file system.
 *
 * Loaded by LD_PRELOAD. Every call that changes something below HIGHWATER_RECORD_BELOW, and every flush
 * of something there, is made and appended to the journal HIGHWATER_RECORD_TO under one lock: the order of
 * the journal is the order of the effects. What the host says on stdout is recorded in the same order.
 * `journal.rs` reads the journal, `model.rs` knows what a power loss leaves of it.
 *
 * Flushes are recorded and not made: what they are worth is the model's business, and nothing here loses
 * power. A call that would change something and that the model does not know is recorded as unknown, which
 * fails the test. That no call goes past this layer is checked by the test: the journal, replayed to its
 * end, must give the very files that are there.
 *
 * HIGHWATER_RECORD_UNTIL=N: the process is killed right after its N-th change or flush.
 * HIGHWATER_RECORD_UNTIL_LINK=N: the same after its N-th link, before it can flush what the link is in.
 * HIGHWATER_RECORD_BEFORE=NAME: right before it links a file to a path that ends with NAME.
 * HIGHWATER_RECORD_AFTER=NAME: right after that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    START = 1, OPEN, CLOSE, DUP, WRITE, TRUNCATE, FLUSH, LINK, RENAME, UNLINK, MKDIR, RMDIR, SAY, UNKNOWN
};

#define DESCRIPTORS 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Whether a descriptor is of something below the root. */
static unsigned char known[DESCRIPTORS];
static char root[PATH_MAX];
static size_t root_length;
static int journal = -1;
static long until = -1, until_link = -1;
static const char *before, *after;

/* The next definition of a function: that of the C library. */
#define NEXT(result, name, ...)                                        \
    static result (*next)(__VA_ARGS__);                                \
    if (!next) next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void die(const char *why) {
    fprintf(stderr, "recorder: %s: %s\n", why, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void);

static void append(const void *bytes, size_t length) {
    const char *from = bytes;
    while (length > 0) {
        ssize_t done = syscall(SYS_write, journal, from, length);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) die("cannot write the journal");
        from += done;
        length -= (size_t)done;
    }
}

/* Appends a record. The lock is held. */
static void record(unsigned char what, int fd, int64_t number, const char *first, size_t first_length,
                   const char *second, size_t second_length) {
    if (journal < 0) return;
    int error = errno;
    unsigned char head[1 + 4 + 8 + 8 + 8];
    uint64_t lengths[2] = {first_length, second_length};
    int32_t descriptor = fd;
    head[0] = what;
    memcpy(head + 1, &descriptor, 4);
    memcpy(head + 5, &number, 8);
    memcpy(head + 13, lengths, 16);
    append(head, sizeof head);
    append(first, first_length);
    append(second, second_length);
    int is_change = what != START && what != OPEN && what != CLOSE && what != DUP && what != SAY;
    if ((is_change && until > 0 && --until == 0) || (what == LINK && until_link > 0 && --until_link == 0))
        kill(getpid(), SIGKILL);
    errno = error;
}

static void record_path(unsigned char what, int fd, int64_t number, const char *path) {
    record(what, fd, number, path, strlen(path), "", 0);
}

static void begin(void) {
    const char *below = getenv("HIGHWATER_RECORD_BELOW"), *to = getenv("HIGHWATER_RECORD_TO");
    const char *limit = getenv("HIGHWATER_RECORD_UNTIL"), *links = getenv("HIGHWATER_RECORD_UNTIL_LINK");
    if (!below || !to) return;
    if (!realpath(below, root)) die("cannot find the root");
    root_length = strlen(root);
    int opened = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (opened < 0) die("cannot open the journal");
    /* Out of the way: the host closes no descriptor that it has not opened. */
    journal = (int)syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 1000);
    if (journal < 0) die("cannot open the journal");
    syscall(SYS_close, opened);
    if (limit) until = atol(limit);
    if (links) until_link = atol(links);
    before = getenv("HIGHWATER_RECORD_BEFORE");
    after = getenv("HIGHWATER_RECORD_AFTER");
    record(START, getpid(), 0, root, root_length, "", 0);
}

/* The root itself, or something in it. */
static int is_below(const char *path) {
    return root_length > 0 && strncmp(path, root, root_length) == 0
        && (path[root_length] == '/' || path[root_length] == 0);
}

static int is_known(int fd) {
    return journal >= 0 && fd >= 0 && fd < DESCRIPTORS && known[fd];
}

/* The path of an open descriptor. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* The path of an entry, with its directory resolved; the entry itself may be a link or not be there. */
static int entry_of(int directory, const char *name, char *path) {
    char whole[PATH_MAX];
    int error = errno;
    if (name[0] == '/' ) {
        snprintf(whole, sizeof whole, "%s", name);
    } else {
        char from[PATH_MAX];
        if (directory == AT_FDCWD ? !getcwd(from, sizeof from) : !path_of(directory, from)) {
            errno = error;
            return 0;
        }
        if (snprintf(whole, sizeof whole, "%s/%s", from, name) >= (int)sizeof whole) return 0;
    }
    size_t length = strlen(whole);
    while (length > 1 && whole[length - 1] == '/') whole[--length] = 0;
    char *slash = strrchr(whole, '/');
    char leaf[NAME_MAX + 2], parent[PATH_MAX];
    snprintf(leaf, sizeof leaf, "%s", slash + 1);
    *slash = 0;
    char *resolved = realpath(slash == whole ? "/" : whole, parent);
    errno = error;
    if (!resolved) return 0;
    return snprintf(path, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", leaf) < PATH_MAX;
}

static int is_below_entry(int directory, const char *name, char *path) {
    return journal >= 0 && entry_of(directory, name, path) && is_below(path);
}

static int there(const char *path) {
    struct stat found;
    int error = errno, result = lstat(path, &found) == 0;
    errno = error;
    return result;
}

static void unknown(const char *call, const char *path) {
    char text[PATH_MAX + 64];
    snprintf(text, sizeof text, "%s on %s", call, path);
    record_path(UNKNOWN, -1, 0, text);
}

/* A call that the model does not know, on a descriptor. */
static void unknown_on(const char *call, int fd) {
    if (!is_known(fd)) return;
    char path[PATH_MAX] = "?";
    pthread_mutex_lock(&lock);
    path_of(fd, path);
    unknown(call, path);
    pthread_mutex_unlock(&lock);
}

static int open_through(int (*next)(int, const char *, int, ...), int directory, const char *name, int flags,
                        mode_t mode) {
    char path[PATH_MAX];
    if (journal < 0) return next(directory, name, flags, mode);
    pthread_mutex_lock(&lock);
    int was_there = (flags & O_CREAT) && entry_of(directory, name, path) ? there(path) : 1;
    int fd = next(directory, name, flags, mode);
    if (fd >= 0 && fd < DESCRIPTORS) {
        int error = errno;
        known[fd] = path_of(fd, path) && is_below(path);
        if (known[fd]) {
            if ((flags & O_TMPFILE) == O_TMPFILE) unknown("open with O_TMPFILE", path);
            /* 1: created, 2: truncated. */
            record_path(OPEN, fd, !was_there ? 1 : (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY ? 2 : 0, path);
        }
        errno = error;
    } else if (fd >= DESCRIPTORS) {
        unknown("open beyond the table of descriptors", name);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags)                                          \
    mode_t mode = 0;                                         \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                   \
        va_list arguments;                                   \
        va_start(arguments, flags);                          \
        mode = (mode_t)va_arg(arguments, int);               \
        va_end(arguments);                                   \
    }

#define OPENAT(name)                                                            \
    int name(int directory, const char *path, int flags, ...) {                 \
        NEXT(int, name, int, const char *, int, ...);                           \
        MODE(flags)                                                             \
        return open_through(next, directory, path, flags, mode);                \
    }
OPENAT(openat)
OPENAT(openat64)

#define OPEN_(name)                                                             \
    int name(const char *path, int flags, ...) {                                \
        static int (*next)(int, const char *, int, ...);                        \
        if (!next) next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat"); \
        MODE(flags)                                                             \
        return open_through(next, AT_FDCWD, path, flags, mode);                 \
    }
OPEN_(open)
OPEN_(open64)

int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    NEXT(int, close, int);
    if (fd == journal && fd >= 0) {
        errno = EBADF;
        return -1;
    }
    if (!is_known(fd)) return next(fd);
    pthread_mutex_lock(&lock);
    known[fd] = 0;
    record(CLOSE, fd, 0, "", 0, "", 0);
    int result = next(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* The lock is held. */
static void duplicated(int from, int to) {
    if (to < 0 || to >= DESCRIPTORS) return;
    known[to] = known[from];
    if (known[to]) record(DUP, to, from, "", 0, "", 0);
}

#define FCNTL(name)                                                             \
    int name(int fd, int command, ...) {                                        \
        NEXT(int, name, int, int, ...);                                         \
        va_list arguments;                                                      \
        va_start(arguments, command);                                           \
        void *argument = va_arg(arguments, void *);                             \
        va_end(arguments);                                                      \
        if (!is_known(fd) || (command != F_DUPFD && command != F_DUPFD_CLOEXEC)) \
            return next(fd, command, argument);                                 \
        pthread_mutex_lock(&lock);                                              \
        int result = next(fd, command, argument);                               \
        duplicated(fd, result);                                                 \
        pthread_mutex_unlock(&lock);                                            \
        return result;                                                          \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int dup(int fd) {
    NEXT(int, dup, int);
    if (!is_known(fd)) return next(fd);
    pthread_mutex_lock(&lock);
    int result = next(fd);
    duplicated(fd, result);
    pthread_mutex_unlock(&lock);
    return result;
}

int dup2(int fd, int to) {
    NEXT(int, dup2, int, int);
    unknown_on("dup2", fd);
    unknown_on("dup2", to);
    return next(fd, to);
}

int dup3(int fd, int to, int flags) {
    NEXT(int, dup3, int, int, int);
    unknown_on("dup3", fd);
    unknown_on("dup3", to);
    return next(fd, to, flags);
}

/* The lock is held; the bytes were written. */
static void written(int fd, int64_t at, const struct iovec *parts, int count, size_t length) {
    char *bytes = malloc(length ? length : 1);
    size_t done = 0;
    if (!bytes) die("no memory for a write");
    for (int part = 0; part < count && done < length; part++) {
        size_t some = parts[part].iov_len < length - done ? parts[part].iov_len : length - done;
        memcpy(bytes + done, parts[part].iov_base, some);
        done += some;
    }
    record(fd == STDOUT_FILENO && !known[fd] ? SAY : WRITE, fd, at, bytes, length, "", 0);
    free(bytes);
}

static int is_written(int fd) { return is_known(fd) || (journal >= 0 && fd == STDOUT_FILENO); }

/* Where the bytes went that were just written: right before where the file is at now. */
static int64_t place_of(int fd, ssize_t length) {
    int error = errno;
    int64_t at = known[fd] ? lseek(fd, 0, SEEK_CUR) - length : 0;
    errno = error;
    return at;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    NEXT(ssize_t, write, int, const void *, size_t);
    if (!is_written(fd)) return next(fd, bytes, length);
    pthread_mutex_lock(&lock);
    ssize_t result = next(fd, bytes, length);
    struct iovec part = {(void *)bytes, length};
    if (result > 0) written(fd, place_of(fd, result), &part, 1, (size_t)result);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(ssize_t, writev, int, const struct iovec *, int);
    if (!is_written(fd)) return next(fd, parts, count);
    pthread_mutex_lock(&lock);
    ssize_t result = next(fd, parts, count);
    if (result > 0) written(fd, place_of(fd, result), parts, count, (size_t)result);
    pthread_mutex_unlock(&lock);
    return result;
}

#define PWRITE(name)                                                            \
    ssize_t name(int fd, const void *bytes, size_t length, off_t at) {          \
        NEXT(ssize_t, name, int, const void *, size_t, off_t);                  \
        if (!is_known(fd)) return next(fd, bytes, length, at);                  \
        pthread_mutex_lock(&lock);                                              \
        ssize_t result = next(fd, bytes, length, at);                           \
        struct iovec part = {(void *)bytes, length};                            \
        if (result > 0) written(fd, at, &part, 1, (size_t)result);              \
        pthread_mutex_unlock(&lock);                                            \
        return result;                                                          \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name)                                                           \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at) {      \
        NEXT(ssize_t, name, int, const struct iovec *, int, off_t);             \
        if (!is_known(fd)) return next(fd, parts, count, at);                   \
        pthread_mutex_lock(&lock);                                              \
        ssize_t result = next(fd, parts, count, at);                            \
        if (result > 0) written(fd, at, parts, count, (size_t)result);          \
        pthread_mutex_unlock(&lock);                                            \
        return result;                                                          \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

#define FTRUNCATE(name)                                                         \
    int name(int fd, off_t length) {                                            \
        NEXT(int, name, int, off_t);                                            \
        if (!is_known(fd)) return next(fd, length);                             \
        pthread_mutex_lock(&lock);                                              \
        int result = next(fd, length);                                          \
        if (result == 0) record(TRUNCATE, fd, length, "", 0, "", 0);            \
        pthread_mutex_unlock(&lock);                                            \
        return result;                                                          \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define FSYNC(name)                                                             \
    int name(int fd) {                                                          \
        NEXT(int, name, int);                                                   \
        if (!is_known(fd)) return next(fd);                                     \
        pthread_mutex_lock(&lock);                                              \
        record(FLUSH, fd, 0, "", 0, "", 0);                                     \
        pthread_mutex_unlock(&lock);                                            \
        return 0;                                                               \
    }
FSYNC(fsync)
FSYNC(fdatasync)

/* Kills the process if this link is the one to be killed at. */
static void die_at(const char *name, int what, const char *to) {
    size_t length = name ? strlen(name) : 0, whole = strlen(to);
    if (what == LINK && length > 0 && length <= whole && strcmp(to + whole - length, name) == 0)
        kill(getpid(), SIGKILL);
}

/* A rename or a link, with both of its ends. */
#define MOVE(what, call, from_at, from, to_at, to, make)                        \
    char first[PATH_MAX], second[PATH_MAX];                                     \
    if (journal < 0) return make;                                               \
    pthread_mutex_lock(&lock);                                                  \
    int of_from = is_below_entry(from_at, from, first);                         \
    int of_to = is_below_entry(to_at, to, second);                              \
    if (of_to) die_at(before, what, second);                                    \
    int result = make;                                                          \
    if (result == 0 && of_to) die_at(after, what, second);                      \
    if (result == 0 && of_from && of_to)                                        \
        record(what, -1, 0, first, strlen(first), second, strlen(second));      \
    else if (result == 0 && (of_from || of_to))                                 \
        unknown(call " across the root", from);                                 \
    pthread_mutex_unlock(&lock);                                                \
    return result

int rename(const char *from, const char *to) {
    NEXT(int, rename, const char *, const char *);
    MOVE(RENAME, "rename", AT_FDCWD, from, AT_FDCWD, to, next(from, to));
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    NEXT(int, renameat, int, const char *, int, const char *);
    MOVE(RENAME, "renameat", from_at, from, to_at, to, next(from_at, from, to_at, to));
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    NEXT(int, renameat2, int, const char *, int, const char *, unsigned);
    if (flags & ~1u /* RENAME_NOREPLACE */) {
        MOVE(UNKNOWN, "renameat2 with flags", from_at, from, to_at, to, next(from_at, from, to_at, to, flags));
    }
    MOVE(RENAME, "renameat2", from_at, from, to_at, to, next(from_at, from, to_at, to, flags));
}

int link(const char *from, const char *to) {
    NEXT(int, link, const char *, const char *);
    MOVE(LINK, "link", AT_FDCWD, from, AT_FDCWD, to, next(from, to));
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    NEXT(int, linkat, int, const char *, int, const char *, int);
    MOVE(LINK, "linkat", from_at, from, to_at, to, next(from_at, from, to_at, to, flags));
}

/* A call on one entry. */
#define ENTRY(what, at, path, make)                                             \
    char entry[PATH_MAX];                                                       \
    if (journal < 0) return make;                                               \
    pthread_mutex_lock(&lock);                                                  \
    int below = is_below_entry(at, path, entry);                                \
    int result = make;                                                          \
    if (result == 0 && below) record_path(what, -1, 0, entry);                  \
    pthread_mutex_unlock(&lock);                                                \
    return result

int unlink(const char *path) {
    NEXT(int, unlink, const char *);
    ENTRY(UNLINK, AT_FDCWD, path, next(path));
}

int unlinkat(int directory, const char *path, int flags) {
    NEXT(int, unlinkat, int, const char *, int);
    ENTRY(flags & AT_REMOVEDIR ? RMDIR : UNLINK, directory, path, next(directory, path, flags));
}

int rmdir(const char *path) {
    NEXT(int, rmdir, const char *);
    ENTRY(RMDIR, AT_FDCWD, path, next(path));
}

int mkdir(const char *path, mode_t mode) {
    NEXT(int, mkdir, const char *, mode_t);
    ENTRY(MKDIR, AT_FDCWD, path, next(path, mode));
}

int mkdirat(int directory, const char *path, mode_t mode) {
    NEXT(int, mkdirat, int, const char *, mode_t);
    ENTRY(MKDIR, directory, path, next(directory, path, mode));
}

/* What would change something and the model does not know. */
#define UNKNOWN_ENTRY(call, at, path)                                           \
    char entry[PATH_MAX];                                                       \
    if (is_below_entry(at, path, entry)) {                                      \
        pthread_mutex_lock(&lock);                                              \
        unknown(call, entry);                                                   \
        pthread_mutex_unlock(&lock);                                            \
    }

int symlink(const char *target, const char *path) {
    NEXT(int, symlink, const char *, const char *);
    UNKNOWN_ENTRY("symlink", AT_FDCWD, path)
    return next(target, path);
}

int symlinkat(const char *target, int directory, const char *path) {
    NEXT(int, symlinkat, const char *, int, const char *);
    UNKNOWN_ENTRY("symlinkat", directory, path)
    return next(target, directory, path);
}

int mknodat(int directory, const char *path, mode_t mode, dev_t device) {
    NEXT(int, mknodat, int, const char *, mode_t, dev_t);
    UNKNOWN_ENTRY("mknodat", directory, path)
    return next(directory, path, mode, device);
}

#define TRUNCATE_(name)                                                         \
    int name(const char *path, off_t length) {                                  \
        NEXT(int, name, const char *, off_t);                                   \
        UNKNOWN_ENTRY(#name, AT_FDCWD, path)                                    \
        return next(path, length);                                              \
    }
TRUNCATE_(truncate)
TRUNCATE_(truncate64)

#define COPY(name, offset)                                                      \
    ssize_t name(int to, int from, offset *at, size_t length) {                 \
        NEXT(ssize_t, name, int, int, offset *, size_t);                        \
        unknown_on(#name, to);                                                  \
        return next(to, from, at, length);                                      \
    }
COPY(sendfile, off_t)
COPY(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    NEXT(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    unknown_on("copy_file_range", to);
    return next(from, from_at, to, to_at, length, flags);
}

ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    NEXT(ssize_t, splice, int, off64_t *, int, off64_t *, size_t, unsigned);
    unknown_on("splice", to);
    return next(from, from_at, to, to_at, length, flags);
}

#define PWRITEV2(name)                                                          \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at, int flags) { \
        NEXT(ssize_t, name, int, const struct iovec *, int, off_t, int);        \
        unknown_on(#name, fd);                                                  \
        return next(fd, parts, count, at, flags);                               \
    }
PWRITEV2(pwritev2)

#define FALLOCATE(name)                                                         \
    int name(int fd, int mode, off_t at, off_t length) {                        \
        NEXT(int, name, int, int, off_t, off_t);                                \
        unknown_on(#name, fd);                                                  \
        return next(fd, mode, at, length);                                      \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define POSIX_FALLOCATE(name)                                                   \
    int name(int fd, off_t at, off_t length) {                                  \
        NEXT(int, name, int, off_t, off_t);                                     \
        unknown_on(#name, fd);                                                  \
        return next(fd, at, length);                                            \
    }
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    NEXT(int, sync_file_range, int, off64_t, off64_t, unsigned);
    unknown_on("sync_file_range", fd);
    return next(fd, at, length, flags);
}

int syncfs(int fd) {
    NEXT(int, syncfs, int);
    unknown_on("syncfs", fd);
    return next(fd);
}

void sync(void) {
    NEXT(void, sync, void);
    if (journal >= 0) {
        pthread_mutex_lock(&lock);
        unknown("sync", root);
        pthread_mutex_unlock(&lock);
    }
    next();
}

#define MMAP(name)                                                              \
    void *name(void *address, size_t length, int protection, int flags, int fd, off_t at) { \
        NEXT(void *, name, void *, size_t, int, int, int, off_t);               \
        if ((flags & MAP_SHARED) && (protection & PROT_WRITE)) unknown_on(#name, fd); \
        return next(address, length, protection, flags, fd, at);                \
    }
MMAP(mmap)
MMAP(mmap64)
