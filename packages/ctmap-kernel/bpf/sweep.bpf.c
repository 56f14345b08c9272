// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The sweep: one run walks a whole CT map, deletes what has expired, and takes the NAT entries that belonged to it.
//
// Four programs of type BPF_PROG_TYPE_SYSCALL, run by BPF_PROG_TEST_RUN (Linux >= 5.14, CAP_BPF and no more):
//
//   sweep4, sweep6           walk `table`; whatever was deleted goes to `records`, for user space to look at
//   nat_clean4, nat_clean6   the NAT half alone, for the CT entries of `work`, which somebody else has just deleted
//
// `table`, `nat`, `records` and `work` are placeholders: the loader substitutes the real maps (keys of 14 or 38 bytes,
// values of 56; values of `nat` of 40 or 56). `records` and `work` are shared with user space by mmap(2).
// src/internal/sweepLayout.ts mirrors the structures; built by scripts/bpf.ts.
//
// Nothing is included: the few names of the kernel's ABI that are used stand here, so that clang is all it takes.

#include "sweep.h"

struct candidate {
	__u64 key[5]; // zeros after the key
	__u32 flags;  // in: flag word of the CT entry
	__u32 nat;    // out: enum nat_verdict
};

struct clean {
	__u32 count;   // in: candidates, from the start of `work`
	__u32 options; // in: DRY_RUN
	struct nat_totals nat; // out
};

MAP(work, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, sizeof(__u32), sizeof(struct candidate));

static __always_inline __u32 lifetime_of(const void *value)
{
	return *(const volatile __u32 *)&((const struct ct_entry *)value)->lifetime;
}

// The entry was deleted between two instructions of a datapath that had looked it up, and that wrote to it since. The
// value is copied before the key is read: a slot that is given to another entry gets its key before its value.
static __always_inline int put_back(const void *element, const __u64 *value, const union tuple *key, int is6)
{
	__u64 copy[sizeof(struct ct_entry) / 8];
	union tuple owner;
	for (int i = 0; i < 7; i++)
		copy[i] = value[i];
	barrier();
	copy_key(&owner, element, is6);
	return same_key(&owner, key, is6) && bpf_map_update_elem(&table, key, copy, BPF_NOEXIST) == 0;
}

static __always_inline long visit(const void *element, const __u64 *value, struct sweep *sweep, int is6)
{
	__u32 index = sweep->records, now = sweep->now, dry = sweep->options & DRY_RUN;
	if (lifetime_of(value) >= now) {
		sweep->seen++;
		sweep->kept++;
		return 0;
	}
	__u32 told = !(sweep->options & NO_RECORDS);
	struct record *record = told && index < sweep->limit ? bpf_map_lookup_elem(&records, &index) : 0;
	// A dry run gets nowhere by running again: it counts on.
	if (!dry && (told ? !record : sweep->deleted >= sweep->limit)) {
		sweep->stopped = 1;
		return 1;
	}
	sweep->seen++;
	union tuple key;
	copy_key(&key, element, is6);
	__u32 flags = ((const struct ct_entry *)value)->flags;
	if (record) {
		record->key = key;
		for (int i = 0; i < 7; i++)
			record->value[i] = value[i];
	}
	if (!dry) {
		__u32 lifetime = lifetime_of(value);
		if (lifetime >= now) {
			sweep->refreshed++;
			return 0;
		}
		long rc = bpf_map_delete_elem(&table, &key);
		if (rc != 0) {
			sweep->vanished += rc == -ENOENT;
			sweep->busy += rc != -ENOENT;
			return 0;
		}
		wait_for_writers(2048);
		__u32 left = lifetime_of(value);
		if (left != lifetime && left >= now && put_back(element, value, &key, is6)) {
			sweep->refreshed++;
			sweep->restored++;
			return 0;
		}
	}
	sweep->deleted++;
	__u32 verdict = NONE;
	if (sweep->options & WITH_NAT)
		verdict = is6 ? clean_nat6(&key, flags, dry, &sweep->nat) : clean_nat4(&key, flags, dry, &sweep->nat);
	if (record) {
		record->nat = verdict;
		sweep->records = index + 1;
	}
	return 0;
}

static __always_inline long visit_candidate(const __u32 *index, struct candidate *candidate, struct clean *clean,
					    int is6)
{
	union tuple key;
	if (*index >= clean->count)
		return 1;
	copy_key(&key, candidate->key, is6);
	__u32 flags = candidate->flags, dry = clean->options & DRY_RUN;
	candidate->nat = is6 ? clean_nat6(&key, flags, dry, &clean->nat) : clean_nat4(&key, flags, dry, &clean->nat);
	return 0;
}

// A callback takes its context from the stack only.
#define FAMILY(n)                                                                                                      \
	static long visit##n(void *map, const void *key, const __u64 *value, struct sweep *sweep)                      \
	{                                                                                                              \
		return visit(key, value, sweep, n == 6);                                                               \
	}                                                                                                              \
	SEC("syscall") int sweep##n(struct sweep *given)                                                               \
	{                                                                                                              \
		struct sweep sweep = *given;                                                                           \
		if (sweep.options & IDLE)                                                                              \
			return 0;                                                                                      \
		bpf_for_each_map_elem(&table, visit##n, &sweep, 0);                                                    \
		*given = sweep;                                                                                        \
		return 0;                                                                                              \
	}                                                                                                              \
	static long visit_candidate##n(void *map, const __u32 *index, struct candidate *candidate,                     \
				       struct clean *clean)                                                            \
	{                                                                                                              \
		return visit_candidate(index, candidate, clean, n == 6);                                               \
	}                                                                                                              \
	SEC("syscall") int nat_clean##n(struct clean *given)                                                           \
	{                                                                                                              \
		struct clean clean = *given;                                                                           \
		bpf_for_each_map_elem(&work, visit_candidate##n, &clean, 0);                                           \
		*given = clean;                                                                                        \
		return 0;                                                                                              \
	}

FAMILY(4)
FAMILY(6)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
