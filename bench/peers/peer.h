/* SPDX-License-Identifier: Apache-2.0 */
/* What the peers in C share: a clock on the CPU time of the longest call, memory that was touched before, and a way to give up. */

#ifndef PEER_H
#define PEER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned long long longest;

static unsigned long long read_clock(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static unsigned long long now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

// How long a call holds a CPU, whatever else the machine does.
static unsigned long long cpu(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static void called(unsigned long long since)
{
	unsigned long long took = cpu() - since;

	if (took > longest)
		longest = took;
}

// Touched before the clock starts: what a first write to a page costs is not the map's.
static void *room(size_t bytes)
{
	void *at = malloc(bytes);

	if (!at)
		exit(3);
	return memset(at, 1, bytes);
}

static void fail(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(1);
}

#endif
