// SPDX-License-Identifier: Apache-2.0
//
// Collects expired entries of an IPv4 CT map from user space, as others do: reads entries, and deletes those whose
// lifetime is over, without looking again.
//
//   collect PIN next-key NOW [0 NAT-PIN]        next key, look-up, deletion: Cilium up to 1.17
//   collect PIN each NOW CHUNK [NAT-PIN]        batch look-up, deletion each: Cilium from 1.18 on
//   collect PIN batch NOW CHUNK                 batch look-up, batch deletion
//
// With a NAT map, both halves of the mapping of every egress entry go too: a look-up and two deletions, as in Cilium.
// Prints entries seen, entries deleted, NAT entries deleted, nanoseconds, and those of CPU of the longest batch.

#include <bpf/bpf.h>
#include <errno.h>

#include "peer.h"

struct tuple {
	unsigned int daddr, saddr;
	unsigned short dport, sport;
	unsigned char nexthdr, flags;
} __attribute__((packed));

struct entry {
	unsigned long long unused[4];
	unsigned int lifetime;
	unsigned short flags;
	unsigned char rest[18];
};

struct nat_entry {
	unsigned long long unused[4];
	unsigned int address;
	unsigned short port, pad;
};

_Static_assert(sizeof(struct tuple) == 14 && sizeof(struct entry) == 56 && sizeof(struct nat_entry) == 40, "sizes");

enum { OUT = 0, IN = 1, DSR_INTERNAL = 0x80 };

static int nat = -1;
static unsigned int expired_before;
static unsigned long long seen, deleted, nat_deleted;

static void delete_mapping(const struct tuple *ct, const struct entry *entry)
{
	struct tuple out = *ct, in;
	struct nat_entry to;

	if (nat < 0 || ct->flags != OUT || entry->flags & DSR_INTERNAL)
		return;
	out.daddr = ct->saddr;
	out.saddr = ct->daddr;
	if (bpf_map_lookup_elem(nat, &out, &to))
		return;
	nat_deleted += !bpf_map_delete_elem(nat, &out);
	in = out;
	in.daddr = to.address;
	in.dport = to.port;
	in.saddr = out.daddr;
	in.sport = out.dport;
	in.flags = IN;
	nat_deleted += !bpf_map_delete_elem(nat, &in);
}

static void collect(int fd, const struct tuple *key, const struct entry *entry)
{
	if (entry->lifetime >= expired_before || bpf_map_delete_elem(fd, key))
		return;
	deleted++;
	delete_mapping(key, entry);
}

static void by_next_key(int fd)
{
	struct tuple key, next;
	struct entry entry;
	int end = bpf_map_get_next_key(fd, NULL, &key);

	while (!end) {
		end = bpf_map_get_next_key(fd, &key, &next);
		if (!bpf_map_lookup_elem(fd, &key, &entry)) {
			seen++;
			collect(fd, &key, &entry);
		}
		key = next;
	}
	if (end != -ENOENT)
		fail("next key", end);
}

static void by_batch(int fd, unsigned int chunk, int each)
{
	struct tuple *keys = room(chunk * sizeof(*keys)), *dead = room(chunk * sizeof(*dead));
	struct entry *values = room(chunk * sizeof(*values));
	char cursor[64] = {}, next[64];
	void *from = NULL;
	int end = 0;

	while (!end) {
		unsigned int count = chunk, candidates = 0;
		unsigned long long start = cpu();

		end = bpf_map_lookup_batch(fd, from, next, keys, values, &count, NULL);
		called(start);
		if (end && end != -ENOENT)
			fail("lookup batch", end);
		seen += count;
		for (unsigned int i = 0; i < count; i++) {
			if (each)
				collect(fd, &keys[i], &values[i]);
			else if (values[i].lifetime < expired_before)
				dead[candidates++] = keys[i];
		}
		if (candidates) {
			start = cpu();
			if (bpf_map_delete_batch(fd, dead, &candidates, NULL) && errno != ENOENT)
				fail("delete batch", errno);
			called(start);
			deleted += candidates;
		}
		memcpy(cursor, next, sizeof(cursor));
		from = cursor;
	}
}

static int open_pin(const char *path)
{
	int fd = bpf_obj_get(path);

	if (fd < 0)
		fail(path, fd);
	return fd;
}

int main(int argc, char **argv)
{
	unsigned long long start;
	int fd;

	if (argc < 4)
		return 2;
	fd = open_pin(argv[1]);
	expired_before = strtoul(argv[3], NULL, 10);
	if (argc > 5)
		nat = open_pin(argv[5]);
	start = now();
	if (!strcmp(argv[2], "next-key"))
		by_next_key(fd);
	else
		by_batch(fd, argc > 4 ? atoi(argv[4]) : 4096, !strcmp(argv[2], "each"));
	printf("%llu %llu %llu %llu %llu\n", seen, deleted, nat_deleted, now() - start, longest);
	return 0;
}
