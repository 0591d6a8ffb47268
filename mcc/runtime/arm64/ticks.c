/* A clock that counts its readings, for the emulator only: the n-th reading since the start gives n milliseconds.
 *
 * LiteRT's profiler reads the clock where an operator begins and ends, so the times in its events are numbers of
 * readings, and counter.c, which sees each reading as a system call, has a window for each.
 */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static long readings;
    syscall(SYS_clock_gettime, clock, now);
    readings++;
    now->tv_sec = readings / 1000;
    now->tv_nsec = readings % 1000 * 1000000;
    return 0;
}
