// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// What sweep.bpf.c and walk.bpf.c share: keys and entries, records, a context, and the rule of what goes from the NAT
// map with a CT entry. src/internal/sweepLayout.ts mirrors the structures.
//
// Nothing else is included: the few names of the kernel's ABI that are used stand here, so that clang is all it takes.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#include "writers.h"

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define barrier() asm volatile("" ::: "memory")

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_LRU_HASH = 9, BPF_F_MMAPABLE = 1 << 10, BPF_NOEXIST = 1, ENOENT = 2 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context, __u64 flags) = (void *)164;

enum { TUPLE_OUT = 0, TUPLE_IN = 1, DSR_INTERNAL = 0x80 };

enum { WITH_NAT = 1, DRY_RUN = 2, IDLE = 4, NO_RECORDS = 8 };

enum nat_verdict { NONE, MAPPING, OUT_ONLY, SWAPPED, ABSENT, KEPT, FAILED };

// A key of either family, on the stack: zeros after its 14 or 38 bytes. Addresses and ports stay in network order.
union tuple {
	__u64 words[5];
	struct {
		__u32 daddr, saddr;
		__u16 dport, sport;
		__u8 nexthdr, flags;
	} v4;
	struct {
		__u64 daddr[2], saddr[2];
		__u16 dport, sport;
		__u8 nexthdr, flags;
	} v6;
};

// Of both families: what is read stands at the same place.
struct ct_entry {
	__u64 unused[4];
	__u32 lifetime;
	__u16 flags, rev_nat;
	__u64 rest[2];
};

struct nat_entry {
	__u64 unused[4];
	union {
		struct {
			__u32 address;
			__u16 port;
		} v4;
		struct {
			__u64 address[2];
			__u16 port;
		} v6;
	};
};

struct record {
	union tuple key;
	__u64 value[sizeof(struct ct_entry) / 8]; // as it was read
	__u32 nat;                                // enum nat_verdict
	__u32 unused;
};

struct nat_totals {
	__u32 egress, ingress; // NAT entries deleted, by direction
	__u32 absent, halves, kept, failed; // CT entries
};

struct sweep {
	__u32 now;     // in
	__u32 options; // in: WITH_NAT, DRY_RUN, NO_RECORDS; IDLE: only show that it can be run
	__u32 limit;   // in: records at most; without them, deletions
	__u32 records; // out
	__u32 seen, kept, deleted, refreshed, vanished, restored, busy; // out
	struct nat_totals nat;                                          // out
	__u32 stopped;                                                  // out: `records` was full
	// Of a walk only.
	__u32 bucket;      // in: where it begins; out: where the next one does, 0 at the end of the table
	__u32 nanoseconds; // in: begins no more buckets after so long; 0 for as long as it takes
	__u32 enough;      // in: nor with so many records
	__u32 took;        // out: nanoseconds
};

#define MAP(name, TYPE, FLAGS, KEY, VALUE)                                                                             \
	struct {                                                                                                       \
		int (*type)[TYPE];                                                                                     \
		int (*map_flags)[FLAGS];                                                                               \
		int (*key_size)[KEY];                                                                                  \
		int (*value_size)[VALUE];                                                                              \
		int (*max_entries)[1];                                                                                 \
	} name SEC(".maps")

MAP(table, BPF_MAP_TYPE_LRU_HASH, 0, 14, sizeof(struct ct_entry));
MAP(nat, BPF_MAP_TYPE_LRU_HASH, 0, 14, 40);
MAP(records, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, sizeof(__u32), sizeof(struct record));

// By words: keys start at multiples of 8 bytes in a map. `is6` is a constant wherever it stands.
static __always_inline void copy_key(union tuple *to, const void *from, int is6)
{
	const __u64 *words = from;
	if (is6) {
		for (int i = 0; i < 4; i++)
			to->words[i] = words[i];
		to->words[4] = *(const __u32 *)(from + 32) | (__u64) * (const __u16 *)(from + 36) << 32;
	} else {
		to->words[0] = words[0];
		to->words[1] = *(const __u32 *)(from + 8) | (__u64) * (const __u16 *)(from + 12) << 32;
		to->words[2] = to->words[3] = to->words[4] = 0;
	}
}

static __always_inline int same_key(const union tuple *a, const union tuple *b, int is6)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       (!is6 ||
		(a->words[2] == b->words[2] && a->words[3] == b->words[3] && a->words[4] == b->words[4]));
}

// `D S dp sp` becomes `S D dp sp`, flags OUT: see NatDerivation.ts.
static __always_inline void swap_addresses(union tuple *to, const union tuple *from, int is6)
{
	*to = *from;
	if (is6) {
		for (int i = 0; i < 2; i++) {
			to->v6.daddr[i] = from->v6.saddr[i];
			to->v6.saddr[i] = from->v6.daddr[i];
		}
	} else {
		to->v4.daddr = from->v4.saddr;
		to->v4.saddr = from->v4.daddr;
	}
}

// `D S dp sp` becomes `D S sp dp`, flags OUT.
static __always_inline void swap_ports(union tuple *to, const union tuple *from, int is6)
{
	*to = *from;
	if (is6) {
		to->v6.dport = from->v6.sport;
		to->v6.sport = from->v6.dport;
	} else {
		to->v4.dport = from->v4.sport;
		to->v4.sport = from->v4.dport;
	}
}

// The other half of a mapping: from where it goes, to the translated address, flags IN.
static __always_inline void reverse(union tuple *to, const union tuple *out, const struct nat_entry *value, int is6)
{
	*to = *out;
	if (is6) {
		for (int i = 0; i < 2; i++) {
			to->v6.daddr[i] = value->v6.address[i];
			to->v6.saddr[i] = out->v6.daddr[i];
		}
		to->v6.dport = value->v6.port;
		to->v6.sport = out->v6.dport;
		to->v6.flags = TUPLE_IN;
	} else {
		to->v4.daddr = value->v4.address;
		to->v4.saddr = out->v4.daddr;
		to->v4.dport = value->v4.port;
		to->v4.sport = out->v4.dport;
		to->v4.flags = TUPLE_IN;
	}
}

static __always_inline int leads_to(const struct nat_entry *value, const union tuple *out, int is6)
{
	return is6 ? value->v6.address[0] == out->v6.saddr[0] && value->v6.address[1] == out->v6.saddr[1] &&
			       value->v6.port == out->v6.sport
		   : value->v4.address == out->v4.saddr && value->v4.port == out->v4.sport;
}

static __always_inline enum nat_verdict clean_swapped(const union tuple *key, int is6, int dry,
						      struct nat_totals *totals)
{
	union tuple out;
	swap_ports(&out, key, is6);
	long rc = dry ? (bpf_map_lookup_elem(&nat, &out) ? 0 : -ENOENT) : bpf_map_delete_elem(&nat, &out);
	totals->egress += rc == 0;
	totals->absent += rc == -ENOENT;
	totals->failed += rc != 0 && rc != -ENOENT;
	return rc == 0 ? SWAPPED : rc == -ENOENT ? ABSENT : FAILED;
}

// A reverse half that leads elsewhere is another connection's, which got the translated port meanwhile.
static __always_inline enum nat_verdict clean_mapping(const union tuple *key, int is6, int dry,
						      struct nat_totals *totals)
{
	union tuple out, in;
	swap_addresses(&out, key, is6);
	const struct nat_entry *value = bpf_map_lookup_elem(&nat, &out);
	if (!value) {
		totals->absent++;
		return ABSENT;
	}
	reverse(&in, &out, value, is6);
	const struct nat_entry *back = bpf_map_lookup_elem(&nat, &in);
	int whole = back && leads_to(back, &out, is6);
	long rc = dry ? 0 : bpf_map_delete_elem(&nat, &out);
	if (rc != 0) {
		totals->absent += rc == -ENOENT;
		totals->failed += rc != -ENOENT;
		return rc == -ENOENT ? ABSENT : FAILED;
	}
	totals->egress++;
	rc = !whole ? -ENOENT : dry ? 0 : bpf_map_delete_elem(&nat, &in);
	totals->ingress += rc == 0;
	totals->halves += rc == -ENOENT;
	totals->failed += rc != 0 && rc != -ENOENT;
	return rc == 0 ? MAPPING : rc == -ENOENT ? OUT_ONLY : FAILED;
}

// What goes from the NAT map with a CT entry that was deleted. Where the connection is back, it needs its mapping.
static __always_inline enum nat_verdict clean_nat(const union tuple *key, __u32 flags, __u32 dry,
						  struct nat_totals *totals, int is6)
{
	if ((is6 ? key->v6.flags : key->v4.flags) != TUPLE_OUT)
		return NONE;
	if (!dry && bpf_map_lookup_elem(&table, key)) {
		totals->kept++;
		return KEPT;
	}
	return flags & DSR_INTERNAL ? clean_swapped(key, is6, dry, totals) : clean_mapping(key, is6, dry, totals);
}

// Functions that are not static are verified by themselves, once; in line, their branches would multiply those of the
// callbacks beyond what a verifier looks at. It takes their pointers for ones that may be null.
#define CLEAN_NAT(n)                                                                                                   \
	__noinline int clean_nat##n(union tuple *key, __u32 flags, __u32 dry, struct nat_totals *totals)               \
	{                                                                                                              \
		return key && totals ? clean_nat(key, flags, dry, totals, n == 6) : NONE;                              \
	}
CLEAN_NAT(4)
CLEAN_NAT(6)
