// SPDX-License-Identifier: Apache-2.0
//
// Runs a command with its output in a file, and says what it took as a whole process.
//
//   peak FILE COMMAND [ARGUMENT...]
//
// Prints wall time in nanoseconds, peak memory in bytes and the exit status. A parent of its own, because a process
// inherits the peak of whoever started it, and Node's is larger than most of what is measured here.

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static unsigned long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000ull + at.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long long start = now();
	struct rusage usage;
	int status = 0;
	pid_t child;

	if (argc < 3)
		return 2;
	child = fork();
	if (child == 0) {
		int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);

		if (fd < 0 || dup2(fd, 1) < 0)
			_exit(126);
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	if (child < 0 || wait4(child, &status, 0, &usage) < 0)
		return 1;
	printf("%llu %llu %d\n", now() - start, usage.ru_maxrss * 1024ull,
	       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
