/* A clock for programs in the guest, preloaded by scripts/lab/guest.
 *
 * An ordinary kernel tells a program the time without a system call. A User-Mode-Linux guest cannot, and a system call
 * there costs as much as several of the writes that are measured. So the time since the program's start is taken from
 * the processor's counter, as fio does anywhere; once in 2^26 ticks the kernel is asked again. Beside the kernel's own
 * word, intervals of a tenth of a second were right to a thousandth. Serves one thread at a time from its own readings, and only the
 * monotonic clock. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define SECOND 1000000000ull
#define TICKS_MAX (1ull << 26)

static __thread uint64_t last_ns, last_ticks, begin_ns, begin_ticks, shown_ns;

static uint64_t asked_ns(clockid_t clock, struct timespec *time, int *result)
{
	*result = syscall(SYS_clock_gettime, clock, time);
	return time->tv_sec * SECOND + time->tv_nsec;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	int result = 0;
	uint64_t ticks = __rdtsc(), now_ns;

	if (clock != CLOCK_MONOTONIC || ticks - last_ticks > TICKS_MAX || last_ticks - begin_ticks < TICKS_MAX) {
		now_ns = asked_ns(clock, time, &result);
		if (clock != CLOCK_MONOTONIC || result != 0)
			return result;
		if (begin_ticks == 0) {
			begin_ns = now_ns;
			begin_ticks = ticks;
		}
		if (ticks - last_ticks > TICKS_MAX) {
			last_ns = now_ns;
			last_ticks = ticks;
		}
	} else {
		/* By the rate of all that has passed since the first reading. */
		now_ns = last_ns + (uint64_t)((double)(ticks - last_ticks) * (last_ns - begin_ns) / (last_ticks - begin_ticks));
	}
	/* A correction never turns time back. */
	if (now_ns < shown_ns)
		now_ns = shown_ns;
	shown_ns = now_ns;
	time->tv_sec = now_ns / SECOND;
	time->tv_nsec = now_ns % SECOND;
	return 0;
}
