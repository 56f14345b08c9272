/* SPDX-License-Identifier: Apache-2.0 */
/* What the peers in C share: a clock on the longest call, memory that was touched before, and a way to give up. */

#ifndef PEER_H
#define PEER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned long long longest;

static unsigned long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static void called(unsigned long long since)
{
	unsigned long long took = now() - since;

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
