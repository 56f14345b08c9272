// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Compare-and-delete: deletes the entries of a work-list that still are as they were read.
//
// Two programs of type BPF_PROG_TYPE_SYSCALL, run by BPF_PROG_TEST_RUN (Linux >= 5.14), over any CT or NAT map:
//
//   compare_delete           needs CAP_BPF only
//   compare_delete_restore   needs CAP_PERFMON as well: it reads the key in front of a value, and with that can tell
//                            whether an entry that changed while it was being deleted is still the same entry. If so,
//                            it is put back.
//
// `table` is a placeholder: the loader substitutes the real map (key of 14 or 38 bytes, value of 40 or 56). `work` is
// shared with user space by mmap(2). src/internal/workList.ts mirrors both structures; built by scripts/bpf.ts.
//
// Nothing else is included: the few names of the kernel's ABI that are used stand here, so that clang is all it takes.

typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

#include "writers.h"

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_LRU_HASH = 9, BPF_F_MMAPABLE = 1 << 10, BPF_NOEXIST = 1, ENOENT = 2 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*const bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context, __u64 flags) = (void *)164;

enum { CAPACITY = 1024, KEY_ROOM = 40, VALUE_ROOM = 56, IPV4_KEY = 14, IPV6_KEY = 38, FRESH_ROOM = 64 };

enum verdict { DELETED, REFRESHED, VANISHED, RESTORED, BUSY, VERDICTS };

// Which word of the value must be as it was read.
enum compare { PRESENCE, FIRST_WORD /* NAT: created */, NINTH_WORD /* CT: lifetime */ };

struct candidate {
	__u64 key[KEY_ROOM / 8]; // zeros after the key
	__u32 expected;          // in
	__u32 verdict;           // out
};

struct context {
	__u32 count;            // in: candidates, from the start of `work`
	__u32 compare;          // in: enum compare
	__u32 key_size;         // in: 14 or 38
	__u32 value_size;       // in: up to 56
	__u32 totals[VERDICTS]; // out
	__u32 unused;
};

struct {
	int (*type)[BPF_MAP_TYPE_LRU_HASH];
	int (*key_size)[IPV4_KEY];
	int (*value_size)[VALUE_ROOM];
	int (*max_entries)[1];
} table SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*map_flags)[BPF_F_MMAPABLE];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct candidate)];
	int (*max_entries)[CAPACITY];
} work SEC(".maps");

// Of the candidates that were deleted: where they stood, and what was written to them since. Not mapped: these are
// addresses of the kernel.
struct gone {
	__u64 value[CAPACITY]; // addresses, then one more than a place in `fresh`; zero for nothing
	__u32 count;           // of those in `fresh`
	__u64 fresh[FRESH_ROOM][VALUE_ROOM / 8];
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct gone)];
	int (*max_entries)[1];
} gone SEC(".maps");

// In assembler, as clang would compute the offset of one common load, and arithmetic on a pointer by a value that is
// only known at run time takes more than CAP_BPF.
static __always_inline __u32 compared_word(const void *value, __u32 compare)
{
	__u64 word;
	if (compare == NINTH_WORD)
		asm volatile("%0 = *(u32 *)(%1 + 32)" : "=r"(word) : "r"(value) : "memory");
	else
		asm volatile("%0 = *(u32 *)(%1 + 0)" : "=r"(word) : "r"(value) : "memory");
	return word;
}

// Whether the memory of `value` holds the entry of this key. In an element of a preallocated hash the key, rounded up
// to 8 bytes, stands right before the value; where a kernel arranges that otherwise, the answer is no.
static __always_inline int holds(const void *value, const struct candidate *candidate, __u32 key_size)
{
	__u64 key[KEY_ROOM / 8] = {};
	long rc = key_size == IPV4_KEY ? bpf_probe_read_kernel(key, IPV4_KEY, value - 16)
				       : bpf_probe_read_kernel(key, IPV6_KEY, value - 40);
	return rc == 0 && key[0] == candidate->key[0] && key[1] == candidate->key[1] && key[2] == candidate->key[2] &&
	       key[3] == candidate->key[3] && key[4] == candidate->key[4];
}

static __always_inline struct gone *gone_ones(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&gone, &zero);
}

// `address`, out: where the entry was, if it was deleted and can be put back.
static __always_inline enum verdict judge(const struct candidate *candidate, const struct context *context,
					  __u64 *address)
{
	__u32 compare = context->compare;
	const void *value = bpf_map_lookup_elem(&table, candidate->key);
	if (!value)
		return VANISHED;
	// Asked before the comparison, so that comparing and deleting stay next to each other.
	int sure = address && compare != PRESENCE && holds(value, candidate, context->key_size);
	if (compare != PRESENCE && compared_word(value, compare) != candidate->expected)
		return REFRESHED;
	long rc = bpf_map_delete_elem(&table, candidate->key);
	if (rc == -ENOENT)
		return VANISHED;
	if (rc != 0)
		return BUSY;
	if (sure)
		*address = (__u64)value;
	return DELETED;
}

static __always_inline void count(struct candidate *candidate, struct context *context, enum verdict verdict)
{
	candidate->verdict = verdict;
	context->totals[DELETED] += verdict == DELETED;
	context->totals[REFRESHED] += verdict == REFRESHED;
	context->totals[VANISHED] += verdict == VANISHED;
	context->totals[BUSY] += verdict == BUSY;
}

static __always_inline void back(struct candidate *candidate, struct context *context, const __u64 *fresh)
{
	if (bpf_map_update_elem(&table, candidate->key, fresh, BPF_NOEXIST) != 0)
		return;
	candidate->verdict = RESTORED;
	context->totals[DELETED]--;
	context->totals[RESTORED]++;
}

static long visit_plain(void *map, const __u32 *index, struct candidate *candidate, struct context *context)
{
	if (*index >= context->count)
		return 1;
	count(candidate, context, judge(candidate, context, 0));
	return 0;
}

static long visit_restore(void *map, const __u32 *index, struct candidate *candidate, struct context *context)
{
	struct gone *gone = gone_ones();
	if (*index >= context->count || !gone)
		return 1;
	__u64 address = 0;
	count(candidate, context, judge(candidate, context, &address));
	gone->value[*index & (CAPACITY - 1)] = address;
	return 0;
}

// An entry that was deleted between two instructions of a datapath that had looked it up, and that wrote to it since, is
// copied; the value before the key, as a slot that is given to another entry gets its key before its value. All are looked
// at before one is put back: that takes a slot of the table, and one that was given up a moment ago is the first at hand.
static long look(void *map, const __u32 *index, struct candidate *candidate, struct context *context)
{
	struct gone *gone = gone_ones();
	if (*index >= context->count || !gone)
		return 1;
	__u64 copy[VALUE_ROOM / 8] = {}, address = gone->value[*index & (CAPACITY - 1)];
	__u32 word, size = context->value_size;
	if (!address)
		return 0;
	gone->value[*index & (CAPACITY - 1)] = 0;
	if (bpf_probe_read_kernel(&word, sizeof(word), (void *)address + (context->compare == NINTH_WORD ? 32 : 0)) != 0 ||
	    word == candidate->expected)
		return 0;
	if (size > VALUE_ROOM || bpf_probe_read_kernel(copy, size, (void *)address) != 0)
		return 0;
	if (!holds((void *)address, candidate, context->key_size))
		return 0;
	__u32 at = gone->count;
	if (at >= FRESH_ROOM) {
		back(candidate, context, copy);
		return 0;
	}
	for (int i = 0; i < VALUE_ROOM / 8; i++)
		gone->fresh[at][i] = copy[i];
	gone->count = at + 1;
	gone->value[*index & (CAPACITY - 1)] = at + 1;
	return 0;
}

static long put_back(void *map, const __u32 *index, struct candidate *candidate, struct context *context)
{
	struct gone *gone = gone_ones();
	if (*index >= context->count || !gone)
		return 1;
	__u64 place = gone->value[*index & (CAPACITY - 1)];
	if (place)
		back(candidate, context, gone->fresh[(place - 1) & (FRESH_ROOM - 1)]);
	return 0;
}

// A callback takes its context from the stack only.
SEC("syscall") int compare_delete(struct context *given)
{
	struct context context = *given;
	bpf_for_each_map_elem(&work, visit_plain, &context, 0);
	*given = context;
	return 0;
}

SEC("syscall") int compare_delete_restore(struct context *given)
{
	struct context context = *given;
	struct gone *gone = gone_ones();
	if (!gone)
		return 1;
	bpf_for_each_map_elem(&work, visit_restore, &context, 0);
	if (context.compare != PRESENCE && context.totals[DELETED] > 0) {
		// For the last ones: everything that was deleted is looked at once more behind the last deletion.
		wait_for_writers(3072);
		gone->count = 0;
		bpf_for_each_map_elem(&work, look, &context, 0);
		if (gone->count > 0)
			bpf_for_each_map_elem(&work, put_back, &context, 0);
	}
	*given = context;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
