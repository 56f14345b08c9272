// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The walk: what the sweep of sweep.bpf.c does, by pieces of the table, and faster.
//
//   walk4, walk6   walk `table` from a bucket on, for a time; whatever was deleted goes to `records`
//
// Of type BPF_PROG_TYPE_SYSCALL, run by BPF_PROG_TEST_RUN; Linux >= 6.2 (bpf_rdonly_cast) with BTF of its own, CAP_BPF and
// CAP_PERFMON, and maps whose entries are preallocated: their memory stays an element's as long as the map is there.
//
// Elements lie anywhere in memory, so a walk is all waiting for memory, unless several waits overlap. Hence the lanes: so
// many buckets are walked at a time, and all lanes read their elements before any of them looks at what it has read.
// Expired elements are put aside, then deleted some tens at a time, and each of those is looked at once more when all
// have been deleted: what is done for the others is the wait in which late writes of the datapath arrive.
//
// Nothing is missed that is there throughout. Lists are walked without their lock, and an element that is deleted and
// used again in another bucket leads there. But the kernel writes a new element's hash before it links it. So if the hash
// still is one of this bucket after `next` was read (loads keep their order on x86), then `next` is of a time when the element was in
// this list: it leads on or, if the element was put in front anew, back to what has been seen. A deleted element that
// nobody uses yet leads on as before. A lane that strays walks its bucket again from the start; what was kept there
// counts twice then, and what was put aside twice counts as vanished the second time.
//
// `table`, `nat` and `records` are placeholders as in sweep.bpf.c.

#include "hash.h"
#include "sweep.h"

static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_loop)(__u32 turns, void *callback, void *context, __u64 flags) = (void *)181;

enum {
	LANES = 32,   // buckets that are walked at a time
	BEGUN = 16,   // of them, begun at a time
	ENOUGH = 32,  // expired elements that are worth deleting
	EXPIRED = 64, // room for them: those, and one of each lane
	TURNS = 1 << 23,
};

// Eight bytes of the kernel's memory; zero where there is none.
static __always_inline __u64 word(__u64 address)
{
	return WORDS(address)[0];
}

#define KEY OFFSET(htab_elem, key)
#define VALUE(is6) (KEY + (is6 ? 40 : 16))
#define LIFETIME(is6) (VALUE(is6) + 32)

// An element that has expired, and what was read of it.
struct expired {
	__u64 node;
	union tuple key;
	__u64 value[sizeof(struct ct_entry) / 8];
	__u32 hash, lifetime, flags;
	__u32 is_gone; // deleted by this walk
	__u32 is_back; // and refreshed since
	__u64 fresh[sizeof(struct ct_entry) / 8];
};

// Not mapped: these are addresses of the kernel. Lists end with a number instead of an address: the lowest bit is set.
struct walk {
	__u64 heads; // of the buckets
	__u64 deadline;
	__u64 number;
	__u32 size; // of a head
	__u32 mask; // of a hash, for its bucket
	__u32 bucket, end; // the next one to begin, and where to stop
	__u32 lanes, expired, gone;
	__u64 node[LANES], next[LANES]; // elements
	__u32 of[LANES]; // bucket
	__u32 hash[LANES], lifetime[LANES];
	struct expired one[EXPIRED];
	struct sweep sweep;
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct walk)];
	int (*max_entries)[1];
} walk SEC(".maps");

// In these loops a counter that is not needed behind them is one that the verifier need not tell apart, and there is no
// branch on what was read that could be foretold wrong.
static __always_inline void begin(struct walk *at)
{
	__u32 lane = at->lanes, bucket = at->bucket, left = at->end - bucket;
	__u64 head = at->heads + (__u64)bucket * at->size;
	for (__u32 i = 0; i < BEGUN; i++) {
		if (i >= left)
			break;
		__u64 first = FIRST(head);
		lane &= LANES - 1;
		at->node[lane] = first;
		at->of[lane] = bucket;
		lane += !(first & 1);
		head += at->size;
		bucket++;
	}
	at->lanes = lane;
	at->bucket = bucket;
}

static __always_inline void read(struct walk *at, int is6)
{
	__u32 lanes = at->lanes;
	for (__u32 i = 0; i < LANES; i++) {
		if (i >= lanes)
			break;
		__u64 node = at->node[i];
		at->next[i] = NEXT(node);
		at->hash[i] = HASH(node);
		at->lifetime[i] = word(node + LIFETIME(is6));
	}
}

static __always_inline void judge(struct walk *at)
{
	__u32 lanes = at->lanes, lane = 0, expired = at->expired, kept = 0;
	__u32 now = at->sweep.now, mask = at->mask;
	for (__u32 i = 0; i < LANES; i++) {
		if (i >= lanes)
			break;
		__u64 node = at->node[i], next = at->next[i];
		__u32 hash = at->hash[i], bucket = at->of[i];
		if ((hash & mask) != bucket || (next & 1 && next >> 1 != bucket)) {
			next = FIRST(at->heads + (__u64)bucket * at->size);
		} else {
			__u32 has_expired = at->lifetime[i] < now;
			expired &= EXPIRED - 1;
			at->one[expired].node = node;
			at->one[expired].hash = hash;
			expired += has_expired;
			kept += !has_expired;
		}
		lane &= LANES - 1;
		at->node[lane] = next;
		at->of[lane] = bucket;
		lane += !(next & 1);
	}
	at->lanes = lane;
	at->expired = expired;
	at->sweep.kept += kept;
	at->sweep.seen += kept;
}

static __always_inline void read_key(union tuple *key, __u64 node, int is6)
{
	const int last = is6 ? 4 : 1;
	for (int i = 0; i < 5; i++)
		key->words[i] = i > last ? 0 : word(node + KEY + i * 8);
	key->words[last] &= 0xffffffffffff;
}

// Whether the table has this element under its key. The list says so in a moment; but it is read without its lock, and an
// element that was put in front of this one, or taken away from there, leaves it for a moment with a neighbour that does
// not lead to it. Then the table is asked.
static __always_inline int is_there(const struct expired *one, __u64 node, __u64 linked, int is6)
{
	return linked == node || (__u64)bpf_map_lookup_elem(&table, &one->key) == node + VALUE(is6);
}

// Deletes an expired element if it still is one. An element that was replaced has the key of a live one: deleting takes
// a key, so whether this is the element that is in the list is asked as late as can be. Its hash, which tells whether key
// and value were of one entry, is asked behind that: whoever gives the element to another entry takes it from the list, writes
// it, and links it then. So an element that is in the list with the hash that it had is not one that was written meanwhile.
static __always_inline long delete(struct walk *at, __u32 index, int is6)
{
	struct expired *one = &at->one[index & (EXPIRED - 1)];
	struct sweep *sweep = &at->sweep;
	__u64 node = one->node;
	__u32 dry = sweep->options & DRY_RUN;
	one->is_gone = 0;
	if (!dry && sweep->deleted + at->gone >= sweep->limit) {
		// The others have not been looked at: what stands there is of those before them.
		at->expired = index;
		sweep->stopped = 1;
		return 1;
	}
	sweep->seen++;
	read_key(&one->key, node, is6);
	if (!(sweep->options & NO_RECORDS))
		for (int i = 0; i < 7; i++)
			one->value[i] = word(node + VALUE(is6) + i * 8);
	__u64 lifetime_and_flags = word(node + LIFETIME(is6));
	one->lifetime = lifetime_and_flags;
	one->flags = lifetime_and_flags >> 32 & 0xffff;
	__u64 read = lifetime_and_flags;
	for (int i = 0; i < 5; i++)
		read |= one->key.words[i];
	node += after(read);
	__u64 linked = word(BACK(node));
	if (!is_there(one, node, linked, is6) || HASH(node + after(linked)) != one->hash) {
		sweep->vanished++;
		return 0;
	}
	if (one->lifetime >= sweep->now) {
		sweep->refreshed++;
		return 0;
	}
	long rc = dry ? 0 : bpf_map_delete_elem(&table, &one->key);
	one->is_gone = rc == 0;
	at->gone += rc == 0;
	sweep->vanished += rc == -ENOENT;
	sweep->busy += rc != 0 && rc != -ENOENT;
	return 0;
}

// The second look, at all of them before any is put back: that takes the memory of an element that was deleted, and
// the last that was deleted first. As in sweep.bpf.c: the value is copied before the key is read.
static __always_inline long look(struct walk *at, __u32 index, int is6)
{
	struct expired *one = &at->one[index & (EXPIRED - 1)];
	union tuple owner;
	__u32 left = word(one->node + LIFETIME(is6));
	one->is_back = 0;
	if (!one->is_gone || left == one->lifetime || left < at->sweep.now)
		return 0;
	for (int i = 0; i < 7; i++)
		one->fresh[i] = word(one->node + VALUE(is6) + i * 8);
	read_key(&owner, one->node, is6);
	one->is_back = same_key(&owner, &one->key, is6);
	return 0;
}

// What follows from a deletion: NAT, a record.
static __always_inline long settle(struct walk *at, __u32 number, int is6)
{
	struct expired *one = &at->one[number & (EXPIRED - 1)];
	struct sweep *sweep = &at->sweep;
	__u32 dry = sweep->options & DRY_RUN;
	if (!one->is_gone)
		return 0;
	if (!dry && one->is_back && bpf_map_update_elem(&table, &one->key, one->fresh, BPF_NOEXIST) == 0) {
		sweep->refreshed++;
		sweep->restored++;
		return 0;
	}
	sweep->deleted++;
	__u32 verdict = NONE, index = sweep->records;
	if (sweep->options & WITH_NAT)
		verdict = is6 ? clean_nat6(&one->key, one->flags, dry, &sweep->nat)
			      : clean_nat4(&one->key, one->flags, dry, &sweep->nat);
	if (sweep->options & NO_RECORDS || index >= sweep->limit)
		return 0;
	struct record *record = bpf_map_lookup_elem(&records, &index);
	if (!record)
		return 0;
	record->key = one->key;
	for (int i = 0; i < 7; i++)
		record->value[i] = one->value[i];
	record->nat = verdict;
	sweep->records = index + 1;
	return 0;
}

static __always_inline int is_over(const struct walk *at)
{
	const struct sweep *sweep = &at->sweep;
	return (at->deadline && bpf_ktime_get_ns() >= at->deadline) ||
	       (!(sweep->options & (NO_RECORDS | DRY_RUN)) && sweep->records + at->expired >= sweep->enough);
}

#define STATE()                                                                                                        \
	__u32 zero = 0;                                                                                                \
	struct walk *at = bpf_map_lookup_elem(&walk, &zero);                                                           \
	if (!at)                                                                                                       \
		return 1;

#define FAMILY(n)                                                                                                      \
	static long delete##n(__u32 index, void *unused)                                                               \
	{                                                                                                              \
		STATE()                                                                                                \
		return delete(at, index, n == 6);                                                                      \
	}                                                                                                              \
	static long look##n(__u32 index, void *unused)                                                                 \
	{                                                                                                              \
		STATE()                                                                                                \
		return look(at, index, n == 6);                                                                        \
	}                                                                                                              \
	static long settle##n(__u32 index, void *unused)                                                               \
	{                                                                                                              \
		STATE()                                                                                                \
		return settle(at, index, n == 6);                                                                      \
	}                                                                                                              \
	static long step##n(__u32 turn, void *unused)                                                                  \
	{                                                                                                              \
		STATE()                                                                                                \
		if (turn && !(turn & 7) && is_over(at))                                                                \
			at->end = at->bucket;                                                                          \
		if (at->lanes <= LANES - BEGUN)                                                                        \
			begin(at);                                                                                     \
		read(at, n == 6);                                                                                      \
		judge(at);                                                                                             \
		int is_last = at->lanes == 0 && at->bucket >= at->end;                                                 \
		if (at->expired < ENOUGH && !is_last)                                                                  \
			return 0;                                                                                      \
		at->gone = 0;                                                                                          \
		bpf_loop(at->expired, delete##n, 0, 0);                                                                \
		if (at->gone)                                                                                          \
			wait_for_writers(1024);                                                                        \
		bpf_loop(at->expired, look##n, 0, 0);                                                                  \
		bpf_loop(at->expired, settle##n, 0, 0);                                                                \
		at->expired = 0;                                                                                       \
		return is_last || at->sweep.stopped;                                                                   \
	}                                                                                                              \
	SEC("syscall") int walk##n(struct sweep *given)                                                                \
	{                                                                                                              \
		STATE()                                                                                                \
		at->sweep = *given;                                                                                    \
		struct sweep *sweep = &at->sweep;                                                                      \
		if (sweep->options & IDLE)                                                                             \
			return 0;                                                                                      \
		__u64 began = bpf_ktime_get_ns();                                                                      \
		const struct bpf_htab *hash = (struct bpf_htab *)&table;                                               \
		/* An address as a number: the verifier forgets what is stored. */                                     \
		*(const void *volatile *)&at->number = hash->buckets;                                                  \
		at->heads = *(volatile __u64 *)&at->number;                                                            \
		at->size = SIZE_OF_BUCKET;                                                                             \
		at->end = hash->n_buckets;                                                                             \
		at->mask = at->end - 1;                                                                                \
		at->bucket = sweep->bucket & at->mask;                                                                 \
		at->deadline = sweep->nanoseconds ? began + sweep->nanoseconds : 0;                                    \
		at->lanes = at->expired = 0;                                                                           \
		bpf_loop(TURNS, step##n, 0, 0);                                                                        \
		/* What was put aside for a deletion that was not allowed is found again. */                           \
		if (!sweep->stopped)                                                                                   \
			sweep->bucket = at->bucket & at->mask;                                                         \
		sweep->took = bpf_ktime_get_ns() - began;                                                              \
		*given = *sweep;                                                                                       \
		return 0;                                                                                              \
	}

FAMILY(4)
FAMILY(6)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
