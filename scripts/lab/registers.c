/* What a User-Mode-Linux kernel lacks on processors with large registers, preloaded into it by scripts/lab/run.
 *
 * It keeps the extended registers of its processes in a buffer of fixed size, which holds everything but the tiles (AMX).
 * Linux hands out that much of them, and takes back only all of them. The rest, which no process in the guest uses, is
 * given here as empty; where the buffer is large enough, nothing is changed. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define XSTATE 0x202
#define WHOLE_MAX (1 << 16)

static char whole[WHOLE_MAX] __attribute__((aligned(64)));
static size_t whole_bytes;

long ptrace(enum __ptrace_request request, ...)
{
	va_list rest;
	va_start(rest, request);
	pid_t process = va_arg(rest, pid_t);
	void *address = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);

	/* These give what they read as their result, as the C library has it. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word, result = syscall(SYS_ptrace, request, process, address, &word);
		if (result >= 0)
			errno = 0;
		return result < 0 ? result : word;
	}
	struct iovec *part = data;
	if (request != PTRACE_SETREGSET || (size_t)address != XSTATE || part->iov_len >= WHOLE_MAX)
		return syscall(SYS_ptrace, request, process, address, data);
	if (whole_bytes == 0) {
		struct iovec all = {whole, WHOLE_MAX};
		if (syscall(SYS_ptrace, PTRACE_GETREGSET, process, address, &all) < 0)
			return -1;
		whole_bytes = all.iov_len;
		memset(whole, 0, WHOLE_MAX);
	}
	if (part->iov_len >= whole_bytes)
		return syscall(SYS_ptrace, request, process, address, data);
	memcpy(whole, part->iov_base, part->iov_len);
	struct iovec all = {whole, whole_bytes};
	return syscall(SYS_ptrace, request, process, address, &all);
}
