/* A library that is preloaded into a command: it counts the calls that reach the file system below a directory,
 * makes one of them fail, fall short or end the process, and writes down what was called.
 *
 * It stands between libc and the program, and shares nothing with it. Environment:
 *
 *   RIG_ROOT    directories, ":" between them: a call counts when its path, links of the parent followed, or the
 *               path of its descriptor is in one of them
 *   RIG_KIND    the kind of call to fault, as in the log; "any" for all kinds
 *   RIG_NTH     which call of that kind, from 1
 *   RIG_FAULT   an error's name (EIO), SHORT (read or write half), TORN (write half, then SIGKILL), or a signal
 *               that the process sends to itself before the call (SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGQUIT)
 *   RIG_AFTER   a directory: calls count from the first one that reaches into it (what the interpreter does to
 *               start is not what the program does)
 *   RIG_PERSIST "1": each such call fails from the Nth on
 *   RIG_LOG     a file for the trace: one line per call, fields separated by tabs, see log_call
 *   RIG_TRACE   "all": log each call; "counted": those that count and those that change something; "changes": only
 *               these, and what was faulted
 *
 * Only the process that is started with it is faulted; its children are traced.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ROOM (PATH_MAX + 256)
#define KINDS 64

struct call {
    const char *kind;
    int changes;        /* it writes, makes or removes */
    int counted;        /* it is below a root, in the process that is watched */
    int nth;            /* its number among the counted calls of its kind */
    int act;            /* NONE, SHORT, TORN */
    const char *fault;  /* what was done to it, "" for nothing */
    char place[ROOM];   /* its path: parent resolved, last part as given */
    char other[ROOM];   /* where a link led, or the second path of a call that has two */
};

enum { NONE, SHORT, TORN };

static const struct { const char *name; int number; } ERRORS[] = {
    {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EACCES", EACCES}, {"EPERM", EPERM}, {"EINTR", EINTR},
    {"EDQUOT", EDQUOT}, {"EROFS", EROFS}, {"ESTALE", ESTALE}, {"ENOENT", ENOENT}, {"EMFILE", EMFILE},
    {"ENFILE", ENFILE}, {"EBUSY", EBUSY}, {"ENOLCK", ENOLCK}, {"EWOULDBLOCK", EWOULDBLOCK}, {"EEXIST", EEXIST},
    {"ENOTSUP", ENOTSUP}, {"ENOTEMPTY", ENOTEMPTY}, {"ELOOP", ELOOP}, {"EXDEV", EXDEV}, {"ENOMEM", ENOMEM},
    {"EINVAL", EINVAL}, {"ENOSYS", ENOSYS}, {"ENODEV", ENODEV}, {"ENXIO", ENXIO}, {"EFBIG", EFBIG},
};
static const struct { const char *name; int number; } SIGNALS[] = {
    {"SIGKILL", SIGKILL}, {"SIGTERM", SIGTERM}, {"SIGINT", SIGINT}, {"SIGHUP", SIGHUP}, {"SIGQUIT", SIGQUIT},
};

static char roots[8][ROOM], after[ROOM];
static const char *log_file = "";
static int root_count, log_descriptor = -1, trace_all, trace_counted, nth, persist, waiting;
static pid_t watched;
static char kind_wanted[32], fault_wanted[32];
static struct { const char *kind; int count; } counts[KINDS];
static int any_count;

/* ---- own access to the kernel, past the functions below ---- */

static int raw_open(int directory, const char *path, int flags) {
    return (int)syscall(SYS_openat, directory, path, flags, 0);
}

static void raw_close(int descriptor) { syscall(SYS_close, descriptor); }

static int descriptor_path(int descriptor, char *out) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, name, out, ROOM - 1);
    if (length < 0) {
        snprintf(out, ROOM, "fd:%d", descriptor);
        return -1;
    }
    out[length] = 0;
    const char *gone = " (deleted)";
    size_t tail = strlen(gone);
    if ((size_t)length > tail && strcmp(out + length - tail, gone) == 0) out[length - tail] = 0;
    return 0;
}

/* The path with its parent resolved; the last part stays as it is, so that a link is named, not what it leads to. */
static void resolve(int directory, const char *path, char *out) {
    char parent[ROOM];
    if (path == NULL || *path == 0) {
        if (directory == AT_FDCWD) snprintf(out, ROOM, "(empty)");
        else descriptor_path(directory, out);
        return;
    }
    snprintf(parent, ROOM, "%s", path);
    size_t length = strlen(parent);
    while (length > 1 && parent[length - 1] == '/') parent[--length] = 0;
    char *slash = strrchr(parent, '/');
    const char *last = slash ? slash + 1 : parent;
    char name[ROOM];
    snprintf(name, sizeof name, "%s", last);
    int whole = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || *name == 0;
    if (!whole) {
        if (slash == NULL) strcpy(parent, ".");
        else if (slash == parent) parent[1] = 0;
        else *slash = 0;
    }
    int opened = raw_open(directory, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0) {  /* the parent is not there: the path as it is written */
        char base[ROOM] = "";
        if (*path != '/') {
            if (directory == AT_FDCWD) { if (syscall(SYS_getcwd, base, ROOM) < 0) *base = 0; }
            else descriptor_path(directory, base);
        }
        if (snprintf(out, ROOM, "%s%s%s", base, *base ? "/" : "", path) >= ROOM) out[ROOM - 1] = 0;
        return;
    }
    descriptor_path(opened, out);
    raw_close(opened);
    if (!whole) {
        length = strlen(out);
        snprintf(out + length, ROOM - length, "%s%s", length > 1 ? "/" : "", name);
    }
}

/* Where a path leads once its last part is followed; "" when it leads nowhere. */
static void follow(int directory, const char *path, char *out) {
    *out = 0;
    if (path == NULL || *path == 0) return;
    int opened = raw_open(directory, path, O_PATH | O_CLOEXEC);
    if (opened < 0) return;
    descriptor_path(opened, out);
    raw_close(opened);
}

static int is_below(const char *path, const char *root) {
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == 0 || path[length] == '/');
}

static int below_a_root(const char *path) {
    for (int i = 0; i < root_count; i++)
        if (is_below(path, roots[i])) return 1;
    return 0;
}

/* pid, kind, number (0: does not count), "w" or "r", error number, fault, place, other; control characters as \xNN. */
static void log_call(const struct call *call, int error) {
    if (log_descriptor < 0 || !(trace_all || (trace_counted && call->counted) || call->changes || *call->fault)) return;
    char line[4 * 2 * ROOM + 256];
    int used = snprintf(line, 256, "%d\t%s\t%d\t%s\t%d\t%s\t", (int)getpid(), call->kind, call->nth,
                        call->changes ? "w" : "r", error, call->fault);
    const char *texts[2] = {call->place, call->other};
    for (int i = 0; i < 2; i++) {
        for (const char *c = texts[i]; *c; c++) {
            if ((unsigned char)*c < 32 || *c == 127 || *c == '\\')
                used += sprintf(line + used, "\\x%02x", (unsigned char)*c);
            else line[used++] = *c;
        }
        line[used++] = i == 0 ? '\t' : '\n';
    }
    if (syscall(SYS_write, log_descriptor, line, (size_t)used) == used) return;
    /* Between fork and exec a child has closed all that it does not hand on. Its memory may be its parent's (vfork),
       where the descriptor is still good: it is not replaced. */
    int opened = (int)syscall(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (opened < 0 || syscall(SYS_write, opened, line, (size_t)used) != used) _exit(99);
    raw_close(opened);
}

/* ---- what happens around each call ---- */

__attribute__((constructor)) static void start(void) {
    const char *value = getenv("RIG_LOG");
    if (value && *value) {
        log_file = strdup(value);
        int opened = (int)syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (opened >= 0) {
            log_descriptor = fcntl(opened, F_DUPFD_CLOEXEC, 900);
            raw_close(opened);
        }
    }
    trace_all = (value = getenv("RIG_TRACE")) && strcmp(value, "all") == 0;
    trace_counted = value && strcmp(value, "counted") == 0;
    if ((value = getenv("RIG_ROOT"))) {
        char list[8 * ROOM];
        snprintf(list, sizeof list, "%s", value);
        for (char *save, *one = strtok_r(list, ":", &save); one && root_count < 8; one = strtok_r(NULL, ":", &save))
            snprintf(roots[root_count++], ROOM, "%s", one);
    }
    if ((value = getenv("RIG_AFTER"))) {
        snprintf(after, ROOM, "%s", value);
        waiting = 1;
    }
    if ((value = getenv("RIG_KIND"))) snprintf(kind_wanted, sizeof kind_wanted, "%s", value);
    if ((value = getenv("RIG_FAULT"))) snprintf(fault_wanted, sizeof fault_wanted, "%s", value);
    if ((value = getenv("RIG_NTH"))) nth = atoi(value);
    persist = (value = getenv("RIG_PERSIST")) && *value == '1';
    if ((value = getenv("RIG_PID"))) {
        watched = atoi(value);
    } else {
        char number[16];
        watched = getpid();
        snprintf(number, sizeof number, "%d", (int)watched);
        setenv("RIG_PID", number, 1);
    }
}

static int number_of(const char *kind) {
    for (int i = 0; i < KINDS; i++) {
        if (counts[i].kind == NULL) counts[i].kind = kind;
        if (strcmp(counts[i].kind, kind) == 0) return ++counts[i].count;
    }
    return 0;
}

/* Decide about a call; nonzero: it fails, and errno says how. A signal is sent here, before the call. */
static int enter(struct call *call) {
    int saved = errno, failing = 0;
    call->nth = 0;
    call->act = NONE;
    call->fault = "";
    if (waiting && is_below(call->place, after)) waiting = 0;
    call->counted = root_count && !waiting && getpid() == watched && (below_a_root(call->place) || below_a_root(call->other));
    if (call->counted) {
        int mine = number_of(call->kind), all = ++any_count;
        call->nth = mine;
        int at = strcmp(kind_wanted, "any") == 0 ? all : strcmp(kind_wanted, call->kind) == 0 ? mine : 0;
        if (nth > 0 && (at == nth || (persist && at > nth))) {
            call->fault = fault_wanted;
            if (strcmp(fault_wanted, "SHORT") == 0) call->act = SHORT;
            else if (strcmp(fault_wanted, "TORN") == 0) call->act = TORN;
            for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
                if (strcmp(ERRORS[i].name, fault_wanted) == 0) failing = ERRORS[i].number;
            for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++)
                if (strcmp(SIGNALS[i].name, fault_wanted) == 0) {
                    log_call(call, 0);
                    kill(getpid(), SIGNALS[i].number);
                    call->fault = "";
                }
        }
    }
    if (failing) log_call(call, failing);
    errno = failing ? failing : saved;
    return failing;
}

static void leave(const struct call *call, int failed) {
    int saved = errno;
    log_call(call, failed ? saved : 0);
    errno = saved;
}

static void at_path(struct call *call, const char *kind, int changes, int directory, const char *path, int followed) {
    int saved = errno;
    call->kind = kind;
    call->changes = changes;
    *call->other = 0;
    resolve(directory, path, call->place);
    if (followed) {
        follow(directory, path, call->other);
        if (strcmp(call->place, call->other) == 0) *call->other = 0;
    }
    errno = saved;
}

static void at_paths(struct call *call, const char *kind, int from, const char *source, int to, const char *target) {
    at_path(call, kind, 1, to, target, 0);
    int saved = errno;
    resolve(from, source, call->other);
    errno = saved;
}

static void at_descriptor(struct call *call, const char *kind, int changes, int descriptor) {
    int saved = errno;
    call->kind = kind;
    call->changes = changes;
    *call->other = 0;
    descriptor_path(descriptor, call->place);
    errno = saved;
}

#define REAL(type, name, parameters) \
    static type(*real) parameters; \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name)

#define WRAP(name, parameters, arguments, locate) \
    int name parameters { \
        REAL(int, name, parameters); \
        struct call call; \
        locate; \
        if (enter(&call)) return -1; \
        int result = real arguments; \
        leave(&call, result < 0); \
        return result; \
    }

#define WRAP_LONG(name, parameters, arguments, locate) \
    ssize_t name parameters { \
        REAL(ssize_t, name, parameters); \
        struct call call; \
        locate; \
        if (enter(&call)) return -1; \
        ssize_t result = real arguments; \
        leave(&call, result < 0); \
        return result; \
    }

/* ---- open and close ---- */

#define OPENS_TO_WRITE(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))
#define HAS_MODE(flags) (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE)

#define OPEN(name, head, directory, pass) \
    int name(head const char *path, int flags, ...) { \
        mode_t mode = 0; \
        if (HAS_MODE(flags)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        REAL(int, name, (head const char *, int, ...)); \
        struct call call; \
        at_path(&call, "open", OPENS_TO_WRITE(flags) != 0, directory, path, !(flags & O_NOFOLLOW)); \
        if (enter(&call)) return -1; \
        int result = real pass; \
        leave(&call, result < 0); \
        return result; \
    }
#define NOTHING
#define FIRST int directory,
OPEN(open, NOTHING, AT_FDCWD, (path, flags, mode))
OPEN(open64, NOTHING, AT_FDCWD, (path, flags, mode))
OPEN(openat, FIRST, directory, (directory, path, flags, mode))
OPEN(openat64, FIRST, directory, (directory, path, flags, mode))

WRAP(creat, (const char *path, mode_t mode), (path, mode), at_path(&call, "open", 1, AT_FDCWD, path, 1))
WRAP(creat64, (const char *path, mode_t mode), (path, mode), at_path(&call, "open", 1, AT_FDCWD, path, 1))

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, name, (const char *, const char *)); \
        struct call call; \
        at_path(&call, "open", strpbrk(mode, "wa+") != NULL, AT_FDCWD, path, 1); \
        if (enter(&call)) return NULL; \
        FILE *result = real(path, mode); \
        leave(&call, result == NULL); \
        return result; \
    }
FOPEN(fopen)
FOPEN(fopen64)

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, (const char *));
    struct call call;
    at_path(&call, "open", 0, AT_FDCWD, path, 1);
    if (enter(&call)) return NULL;
    DIR *result = real(path);
    leave(&call, result == NULL);
    return result;
}

/* As the kernel has it: the descriptor is gone, whatever is reported. */
int close(int descriptor) {
    REAL(int, close, (int));
    struct call call;
    at_descriptor(&call, "close", 0, descriptor);
    int failing = enter(&call), result = real(descriptor);
    if (failing) {
        errno = failing;
        return -1;
    }
    leave(&call, result < 0);
    return result;
}

/* ---- bytes ---- */

static size_t half(const struct call *call, size_t count) {
    return call->act == NONE || count < 2 ? count : count / 2;
}

static void tear(const struct call *call) {
    if (call->act == TORN) kill(getpid(), SIGKILL);
}

#define TRANSFER(name, changes, kind, parameters, arguments) \
    ssize_t name parameters { \
        REAL(ssize_t, name, parameters); \
        struct call call; \
        at_descriptor(&call, kind, changes, descriptor); \
        if (enter(&call)) return -1; \
        count = half(&call, count); \
        ssize_t result = real arguments; \
        leave(&call, result < 0); \
        tear(&call); \
        return result; \
    }
TRANSFER(read, 0, "read", (int descriptor, void *data, size_t count), (descriptor, data, count))
TRANSFER(pread, 0, "read", (int descriptor, void *data, size_t count, off_t from), (descriptor, data, count, from))
TRANSFER(pread64, 0, "read", (int descriptor, void *data, size_t count, off64_t from), (descriptor, data, count, from))
TRANSFER(write, 1, "write", (int descriptor, const void *data, size_t count), (descriptor, data, count))
TRANSFER(pwrite, 1, "write", (int descriptor, const void *data, size_t count, off_t from),
         (descriptor, data, count, from))
TRANSFER(pwrite64, 1, "write", (int descriptor, const void *data, size_t count, off64_t from),
         (descriptor, data, count, from))
WRAP_LONG(readv, (int descriptor, const struct iovec *data, int count), (descriptor, data, count),
          at_descriptor(&call, "read", 0, descriptor))
WRAP_LONG(writev, (int descriptor, const struct iovec *data, int count), (descriptor, data, count),
          at_descriptor(&call, "write", 1, descriptor))
WRAP_LONG(sendfile, (int out, int in, off_t *from, size_t count), (out, in, from, count),
          at_descriptor(&call, "write", 1, out))
WRAP_LONG(sendfile64, (int out, int in, off64_t *from, size_t count), (out, in, from, count),
          at_descriptor(&call, "write", 1, out))
WRAP_LONG(copy_file_range, (int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags),
          (in, from, out, to, count, flags), at_descriptor(&call, "write", 1, out))
WRAP(ftruncate, (int descriptor, off_t size), (descriptor, size), at_descriptor(&call, "truncate", 1, descriptor))
WRAP(ftruncate64, (int descriptor, off64_t size), (descriptor, size), at_descriptor(&call, "truncate", 1, descriptor))
WRAP(truncate, (const char *path, off_t size), (path, size), at_path(&call, "truncate", 1, AT_FDCWD, path, 1))
WRAP(truncate64, (const char *path, off64_t size), (path, size), at_path(&call, "truncate", 1, AT_FDCWD, path, 1))
WRAP(fsync, (int descriptor), (descriptor), at_descriptor(&call, "fsync", 0, descriptor))
WRAP(fdatasync, (int descriptor), (descriptor), at_descriptor(&call, "fsync", 0, descriptor))

/* ---- names ---- */

WRAP(rename, (const char *from, const char *to), (from, to), at_paths(&call, "rename", AT_FDCWD, from, AT_FDCWD, to))
WRAP(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to),
     at_paths(&call, "rename", a, from, b, to))
WRAP(renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags),
     at_paths(&call, "rename", a, from, b, to))
WRAP(link, (const char *from, const char *to), (from, to), at_paths(&call, "link", AT_FDCWD, from, AT_FDCWD, to))
WRAP(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags),
     at_paths(&call, "link", a, from, b, to))
WRAP(symlink, (const char *value, const char *path), (value, path), at_path(&call, "symlink", 1, AT_FDCWD, path, 0))
WRAP(symlinkat, (const char *value, int directory, const char *path), (value, directory, path),
     at_path(&call, "symlink", 1, directory, path, 0))
WRAP(unlink, (const char *path), (path), at_path(&call, "unlink", 1, AT_FDCWD, path, 0))
WRAP(unlinkat, (int directory, const char *path, int flags), (directory, path, flags),
     at_path(&call, flags & AT_REMOVEDIR ? "rmdir" : "unlink", 1, directory, path, 0))
WRAP(rmdir, (const char *path), (path), at_path(&call, "rmdir", 1, AT_FDCWD, path, 0))
WRAP(mkdir, (const char *path, mode_t mode), (path, mode), at_path(&call, "mkdir", 1, AT_FDCWD, path, 0))
WRAP(mkdirat, (int directory, const char *path, mode_t mode), (directory, path, mode),
     at_path(&call, "mkdir", 1, directory, path, 0))
WRAP(mkfifo, (const char *path, mode_t mode), (path, mode), at_path(&call, "mknod", 1, AT_FDCWD, path, 0))
WRAP(mknod, (const char *path, mode_t mode, dev_t device), (path, mode, device),
     at_path(&call, "mknod", 1, AT_FDCWD, path, 0))

/* ---- metadata ---- */

WRAP(chmod, (const char *path, mode_t mode), (path, mode), at_path(&call, "chmod", 1, AT_FDCWD, path, 1))
WRAP(fchmod, (int descriptor, mode_t mode), (descriptor, mode), at_descriptor(&call, "chmod", 1, descriptor))
WRAP(fchmodat, (int directory, const char *path, mode_t mode, int flags), (directory, path, mode, flags),
     at_path(&call, "chmod", 1, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(chown, (const char *path, uid_t user, gid_t group), (path, user, group),
     at_path(&call, "chown", 1, AT_FDCWD, path, 1))
WRAP(lchown, (const char *path, uid_t user, gid_t group), (path, user, group),
     at_path(&call, "chown", 1, AT_FDCWD, path, 0))
WRAP(fchown, (int descriptor, uid_t user, gid_t group), (descriptor, user, group),
     at_descriptor(&call, "chown", 1, descriptor))
WRAP(fchownat, (int directory, const char *path, uid_t user, gid_t group, int flags),
     (directory, path, user, group, flags), at_path(&call, "chown", 1, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(futimens, (int descriptor, const struct timespec times[2]), (descriptor, times),
     at_descriptor(&call, "utime", 1, descriptor))
WRAP(utimensat, (int directory, const char *path, const struct timespec times[2], int flags),
     (directory, path, times, flags), at_path(&call, "utime", 1, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(setxattr, (const char *path, const char *name, const void *value, size_t size, int flags),
     (path, name, value, size, flags), at_path(&call, "setxattr", 1, AT_FDCWD, path, 1))
WRAP(lsetxattr, (const char *path, const char *name, const void *value, size_t size, int flags),
     (path, name, value, size, flags), at_path(&call, "setxattr", 1, AT_FDCWD, path, 0))
WRAP(fsetxattr, (int descriptor, const char *name, const void *value, size_t size, int flags),
     (descriptor, name, value, size, flags), at_descriptor(&call, "setxattr", 1, descriptor))
WRAP(removexattr, (const char *path, const char *name), (path, name),
     at_path(&call, "setxattr", 1, AT_FDCWD, path, 1))
WRAP(lremovexattr, (const char *path, const char *name), (path, name),
     at_path(&call, "setxattr", 1, AT_FDCWD, path, 0))
WRAP(fremovexattr, (int descriptor, const char *name), (descriptor, name),
     at_descriptor(&call, "setxattr", 1, descriptor))
WRAP(flock, (int descriptor, int operation), (descriptor, operation), at_descriptor(&call, "flock", 0, descriptor))

/* ---- looks ---- */

WRAP(stat, (const char *path, struct stat *out), (path, out), at_path(&call, "stat", 0, AT_FDCWD, path, 1))
WRAP(stat64, (const char *path, struct stat64 *out), (path, out), at_path(&call, "stat", 0, AT_FDCWD, path, 1))
WRAP(lstat, (const char *path, struct stat *out), (path, out), at_path(&call, "stat", 0, AT_FDCWD, path, 0))
WRAP(lstat64, (const char *path, struct stat64 *out), (path, out), at_path(&call, "stat", 0, AT_FDCWD, path, 0))
WRAP(fstat, (int descriptor, struct stat *out), (descriptor, out), at_descriptor(&call, "fstat", 0, descriptor))
WRAP(fstat64, (int descriptor, struct stat64 *out), (descriptor, out), at_descriptor(&call, "fstat", 0, descriptor))
WRAP(fstatat, (int directory, const char *path, struct stat *out, int flags), (directory, path, out, flags),
     at_path(&call, "stat", 0, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(fstatat64, (int directory, const char *path, struct stat64 *out, int flags), (directory, path, out, flags),
     at_path(&call, "stat", 0, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(statx, (int directory, const char *path, int flags, unsigned mask, struct statx *out),
     (directory, path, flags, mask, out), at_path(&call, "stat", 0, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
/* The names that programs built against glibc before 2.33 call. */
WRAP(__xstat, (int version, const char *path, struct stat *out), (version, path, out),
     at_path(&call, "stat", 0, AT_FDCWD, path, 1))
WRAP(__xstat64, (int version, const char *path, struct stat64 *out), (version, path, out),
     at_path(&call, "stat", 0, AT_FDCWD, path, 1))
WRAP(__lxstat, (int version, const char *path, struct stat *out), (version, path, out),
     at_path(&call, "stat", 0, AT_FDCWD, path, 0))
WRAP(__lxstat64, (int version, const char *path, struct stat64 *out), (version, path, out),
     at_path(&call, "stat", 0, AT_FDCWD, path, 0))
WRAP(__fxstat, (int version, int descriptor, struct stat *out), (version, descriptor, out),
     at_descriptor(&call, "fstat", 0, descriptor))
WRAP(__fxstat64, (int version, int descriptor, struct stat64 *out), (version, descriptor, out),
     at_descriptor(&call, "fstat", 0, descriptor))
WRAP(__fxstatat, (int version, int directory, const char *path, struct stat *out, int flags),
     (version, directory, path, out, flags), at_path(&call, "stat", 0, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(__fxstatat64, (int version, int directory, const char *path, struct stat64 *out, int flags),
     (version, directory, path, out, flags), at_path(&call, "stat", 0, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP(statvfs, (const char *path, struct statvfs *out), (path, out), at_path(&call, "statvfs", 0, AT_FDCWD, path, 1))
WRAP(statvfs64, (const char *path, struct statvfs64 *out), (path, out),
     at_path(&call, "statvfs", 0, AT_FDCWD, path, 1))
WRAP(access, (const char *path, int mode), (path, mode), at_path(&call, "access", 0, AT_FDCWD, path, 1))
WRAP(faccessat, (int directory, const char *path, int mode, int flags), (directory, path, mode, flags),
     at_path(&call, "access", 0, directory, path, !(flags & AT_SYMLINK_NOFOLLOW)))
WRAP_LONG(readlink, (const char *path, char *out, size_t size), (path, out, size),
          at_path(&call, "readlink", 0, AT_FDCWD, path, 0))
WRAP_LONG(readlinkat, (int directory, const char *path, char *out, size_t size), (directory, path, out, size),
          at_path(&call, "readlink", 0, directory, path, 0))
WRAP_LONG(getxattr, (const char *path, const char *name, void *value, size_t size), (path, name, value, size),
          at_path(&call, "getxattr", 0, AT_FDCWD, path, 1))
WRAP_LONG(lgetxattr, (const char *path, const char *name, void *value, size_t size), (path, name, value, size),
          at_path(&call, "getxattr", 0, AT_FDCWD, path, 0))
WRAP_LONG(fgetxattr, (int descriptor, const char *name, void *value, size_t size), (descriptor, name, value, size),
          at_descriptor(&call, "getxattr", 0, descriptor))
WRAP_LONG(listxattr, (const char *path, char *list, size_t size), (path, list, size),
          at_path(&call, "getxattr", 0, AT_FDCWD, path, 1))
WRAP_LONG(llistxattr, (const char *path, char *list, size_t size), (path, list, size),
          at_path(&call, "getxattr", 0, AT_FDCWD, path, 0))
WRAP_LONG(flistxattr, (int descriptor, char *list, size_t size), (descriptor, list, size),
          at_descriptor(&call, "getxattr", 0, descriptor))

#define READDIR(name, type) \
    struct type *name(DIR *stream) { \
        REAL(struct type *, name, (DIR *)); \
        struct call call; \
        at_descriptor(&call, "readdir", 0, dirfd(stream)); \
        if (enter(&call)) return NULL; \
        struct type *result = real(stream); \
        leave(&call, 0); \
        return result; \
    }
READDIR(readdir, dirent)
READDIR(readdir64, dirent64)

WRAP(execve, (const char *path, char *const arguments[], char *const environment[]), (path, arguments, environment),
     at_path(&call, "exec", 0, AT_FDCWD, path, 1))
WRAP(execv, (const char *path, char *const arguments[]), (path, arguments),
     at_path(&call, "exec", 0, AT_FDCWD, path, 1))
