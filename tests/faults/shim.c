/* Preloaded into relayd: system calls on files below $SHIM_ROOT fail as $SHIM_CONTROL says, and
   the wall clock runs ahead or behind. The control file is shared memory: changes count at once. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile struct control {
    int32_t write_error, open_error, sync_error, one_in;
    int64_t clock_seconds;
} *control, none;
static const char *root = "";
static unsigned seed = 1;

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHIM_CONTROL");
    int fd = path ? NEXT(open)(path, O_RDONLY | O_CLOEXEC) : -1;
    if (getenv("SHIM_ROOT"))
        root = strdup(getenv("SHIM_ROOT"));
    control = &none;
    if (fd >= 0) {
        void *shared = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED)
            control = shared;
        close(fd);
    }
}

static int hit(int32_t error, const char *path) {
    if (!error || strncmp(path, root, strlen(root)) != 0)
        return 0;
    if (control->one_in > 1 && rand_r(&seed) % control->one_in != 0)
        return 0;
    errno = error;
    return 1;
}

static int hit_fd(int32_t error, int fd) {
    char link[32], path[4096];
    if (!error)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return hit(error, path);
}

#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;           \
        va_end(rest);                                                       \
        if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && control &&           \
            hit(control->open_error, path))                                 \
            return -1;                                                      \
        return NEXT(name)(path, flags, mode);                               \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    return hit_fd(control->write_error, fd) ? -1 : NEXT(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return hit_fd(control->write_error, fd) ? -1 : NEXT(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return hit_fd(control->write_error, fd) ? -1 : NEXT(pwrite64)(fd, data, size, at);
}
int fsync(int fd) { return hit_fd(control->sync_error, fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return hit_fd(control->sync_error, fd) ? -1 : NEXT(fdatasync)(fd); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = NEXT(clock_gettime)(clock, now);
    if (clock == CLOCK_REALTIME && control)
        now->tv_sec += control->clock_seconds;
    return status;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int status = NEXT(gettimeofday)(now, zone);
    now->tv_sec += control->clock_seconds;
    return status;
}
time_t time(time_t *where) {
    time_t now = NEXT(time)(NULL) + control->clock_seconds;
    if (where)
        *where = now;
    return now;
}
