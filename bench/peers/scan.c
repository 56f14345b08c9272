// SPDX-License-Identifier: Apache-2.0
//
// The yardstick: the plainest way through a map that C and libbpf have. Counts entries, looks at none of them.
//
//   scan PIN batch CHUNK
//   scan PIN next-key
//
// Prints entries, nanoseconds, the nanoseconds of CPU of the longest batch, and those of all of it.

#include <bpf/bpf.h>
#include <errno.h>

#include "peer.h"

static unsigned long long by_batch(int fd, const struct bpf_map_info *info, unsigned int chunk, void *keys, void *values)
{
	char cursor[64] = {}, next[64];
	void *from = NULL;
	unsigned long long entries = 0;

	for (;;) {
		unsigned int count = chunk;
		unsigned long long start = cpu();
		int error = bpf_map_lookup_batch(fd, from, next, keys, values, &count, NULL);

		called(start);
		if (error && error != -ENOENT)
			fail("lookup batch", error);
		entries += count;
		if (error)
			return entries;
		memcpy(cursor, next, sizeof(cursor));
		from = cursor;
	}
}

static unsigned long long by_next_key(int fd, void *key, void *next, void *value)
{
	unsigned long long entries = 0;
	int error = bpf_map_get_next_key(fd, NULL, next);

	while (!error) {
		void *swap = key;

		key = next;
		next = swap;
		if (!bpf_map_lookup_elem(fd, key, value))
			entries++;
		error = bpf_map_get_next_key(fd, key, next);
	}
	if (error != -ENOENT)
		fail("next key", error);
	return entries;
}

int main(int argc, char **argv)
{
	struct bpf_map_info info = {};
	unsigned int length = sizeof(info), chunk;
	unsigned long long start, used, entries, took;
	int fd, batch;

	if (argc < 3)
		return 2;
	fd = bpf_obj_get(argv[1]);
	if (fd < 0)
		fail(argv[1], fd);
	if (bpf_obj_get_info_by_fd(fd, &info, &length))
		fail("map info", errno);
	batch = !strcmp(argv[2], "batch");
	chunk = batch && argc > 3 ? atoi(argv[3]) : 2;
	if (batch) {
		void *keys = room((size_t)chunk * info.key_size), *values = room((size_t)chunk * info.value_size);

		used = cpu();
		start = now();
		entries = by_batch(fd, &info, chunk, keys, values);
	} else {
		void *key = room(info.key_size), *next = room(info.key_size), *value = room(info.value_size);

		used = cpu();
		start = now();
		entries = by_next_key(fd, key, next, value);
	}
	took = now() - start;
	printf("%llu %llu %llu %llu\n", entries, took, longest, cpu() - used);
	return 0;
}
