/* A disk that takes nothing more while the file that FULL_DISK names is there: what would make a file longer fails with
   ENOSPC, and what is in a file can be written over. Loaded before the C library into a database server. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define OF_THE_LIBRARY(name) static __typeof__(name) *original; if (!original) original = dlsym(RTLD_NEXT, #name)

/* The offset is -1 for where the file stands. */
static int is_refused(int file, off64_t offset, off64_t length)
{
    const char *full = getenv("FULL_DISK");
    struct stat64 about;
    int before = errno, refused = 0;
    /* What a server says of itself is no part of its disk. */
    if (full && file > 2 && access(full, F_OK) == 0 && fstat64(file, &about) == 0 && S_ISREG(about.st_mode)) {
        if (offset < 0)
            offset = fcntl(file, F_GETFL) & O_APPEND ? about.st_size : lseek64(file, 0, SEEK_CUR);
        refused = offset + length > about.st_size;
    }
    errno = refused ? ENOSPC : before;
    return refused;
}

ssize_t write(int file, const void *data, size_t length)
{
    OF_THE_LIBRARY(write);
    return is_refused(file, -1, length) ? -1 : original(file, data, length);
}

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset)
{
    OF_THE_LIBRARY(pwrite64);
    return is_refused(file, offset, length) ? -1 : original(file, data, length, offset);
}

int ftruncate64(int file, off64_t length)
{
    OF_THE_LIBRARY(ftruncate64);
    return is_refused(file, length, 0) ? -1 : original(file, length);
}

int fallocate64(int file, int mode, off64_t offset, off64_t length)
{
    OF_THE_LIBRARY(fallocate64);
    return !mode && is_refused(file, offset, length) ? -1 : original(file, mode, offset, length);
}

int posix_fallocate64(int file, off64_t offset, off64_t length)
{
    OF_THE_LIBRARY(posix_fallocate64);
    return is_refused(file, offset, length) ? ENOSPC : original(file, offset, length);
}
