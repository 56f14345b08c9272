// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Reading a whole map inside the kernel, a stretch of buckets a run, into memory shared with user space. A record is the
// key, zeros up to a multiple of 8 bytes, and the value; src/MapIterator.ts knows the same sizes.
//
// Programs of type BPF_PROG_TYPE_SYSCALL, run by BPF_PROG_TEST_RUN. Each walks the buckets of any hash map of its sizes by
// itself: user space names the map in `control` by an fd of its own and by its id, and says which part of `records` to
// fill; the program goes on at `control.bucket` and ends where the part is full or the time is up, always between two
// buckets. Linux >= 6.2 (bpf_rdonly_cast), CAP_BPF and CAP_PERFMON. Nothing of the kernel is written; what is read of it
// may be wrong or gone, and reads as 0 then.
//
// A group of buckets is taken in three steps. Their first elements are noted; all of these are touched, so that the cache
// misses overlap, which is most of the time there is to win; then the buckets are copied. A bucket is looked at again once
// it has been copied, for others change it meanwhile and nobody holds its lock. Is every element still linked to the one
// behind it, and back to the one in front, does the list still begin and end in this bucket, are the hashes the same? Then
// whatever was there throughout has been copied (src/MapIterator.ts says why). Otherwise the bucket is copied anew, one
// element at a time, until that is so. A key is copied once: while the kernel replaces an element, the new one and the old
// one are both in the list.

#include "hash.h"

#define SEC(name) __attribute__((section(name), used))
enum { BPF_MAP_TYPE_ARRAY = 2, BPF_F_MMAPABLE = 1 << 10 };
enum { CAPACITY = 8192, RECORD_ROOM = 96, TURNS = 8 };
// Buckets of a group, and how many groups pass between two looks at the clock.
enum { GROUP = 32, GROUPS_A_LOOK = 4, GROUPS = 1 << 16 };
// Elements of a bucket that are copied at once; longer ones are copied one element at a time, so many a run.
enum { SHORT = 4, LONGEST = 512, STEPS = 1 << 16 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_loop)(__u32 turns, void *callback, void *context, __u64 flags) = (void *)181;

// What became of a run. STRANGE: the fd is not that map, or the map is not what these programs can read.
enum state { STRANGE, MORE, END };

struct control {
	__u32 next;   // where the next record goes; out: one past the last
	__u32 first;  // the first of this part
	__u32 end;    // one past the last there is room for
	__u32 state;  // out
	__u32 bucket; // the next one; 0 at first, then left alone
	__u32 skip;   // elements of it that have been copied; likewise
	__u32 again;  // out: buckets that were copied anew
	__u32 missed; // out: buckets of which elements may be missing
	__u32 took;   // out: nanoseconds
	__u32 time;   // nanoseconds after which no other bucket is begun, but for a few
	__u32 fd, id; // of the map
};

#define MAP(name, FLAGS, VALUE)                                                                                        \
	struct {                                                                                                       \
		int (*type)[BPF_MAP_TYPE_ARRAY];                                                                       \
		int (*map_flags)[FLAGS];                                                                               \
		int (*key_size)[sizeof(__u32)];                                                                        \
		int (*value_size)[VALUE];                                                                              \
		int (*max_entries)[1];                                                                                 \
	} name SEC(".maps")

MAP(control, BPF_F_MMAPABLE, sizeof(struct control));
MAP(records, BPF_F_MMAPABLE, CAPACITY *RECORD_ROOM);

// A bucket that is not empty, and its first element.
struct seen {
	__u64 first;
	__u64 bucket;
};

// What the programs know of the map. Not mapped: these are addresses of the kernel.
struct walk {
	__u64 buckets;
	__u32 mask; // of a hash, for its bucket
	__u32 count; // of buckets
	__u64 until;
	__u64 touched;
	struct seen seen[GROUP];
	// Of a bucket that is copied anew.
	__u64 first; // elements; the second may be the end of the list
	__u64 second;
	__u64 node; // where it stands; 0 for before the first
	__u64 hashes; // of its records, by their upper six bits
	__u32 bucket;
	__u32 hash; // of the first element
	__u32 start; // its first record
	__u32 skip; // elements that are not copied
	__u32 found; // elements and records so far, and how often
	__u32 kept;
	__u32 turn;
	__u32 outcome;
	__u32 same; // a record whose key is looked for among those in front of it; NONE if it was found
};

MAP(walk, 0, sizeof(struct walk));

enum outcome { CHANGED, WHOLE, NO_ROOM, TOO_LONG };
enum { NONE = CAPACITY };

// Only preallocated elements stay where they are for as long as the map is there.
static __always_inline int find(struct walk *to, __u32 fd, __u32 id, __u32 key_size, __u32 value_size)
{
	__u64 address = map_at(fd);
	struct bpf_map *map = AS(bpf_map, address);
	__u32 type = map->map_type;
	if (map->id != id || ((map->key_size + 7) & ~7u) != ((key_size + 7) & ~7u) || map->value_size != value_size ||
	    (type != HASH_MAP && type != LRU_HASH_MAP) || (map->map_flags & NO_PREALLOC))
		return 0;
	to->buckets = WORDS(address + OFFSET(bpf_htab, buckets))[0];
	to->count = AS(bpf_htab, address)->n_buckets;
	to->mask = to->count - 1;
	return 1;
}

struct look {
	struct walk *walk;
	__u64 head;
	__u64 bucket;
	__u32 found;
};

// Notes a bucket, and keeps the note if there is something in it. No branch depends on what is read.
static long look(__u32 index, struct look *at)
{
	__u32 found = at->found;
	if (found >= GROUP)
		return 1;
	__u64 first = FIRST(at->head);
	at->walk->seen[found].first = first;
	at->walk->seen[found].bucket = at->bucket++;
	at->found = found + !IS_END(first);
	at->head += SIZE_OF_BUCKET;
	return 0;
}

struct copy {
	struct walk *walk;
	struct control *part;
	void *records;
	__u32 next;
	__u32 stopped; // at bucket `at`, which is not copied, or not to its end
	__u32 at;
};

// The element is in this bucket: nobody has deleted it meanwhile, or made another of it. The one that was first does not
// know yet of the one that has just been put in front of it.
static __always_inline int is_there(const struct walk *at, __u64 element, __u32 hash)
{
	if ((hash & at->mask) != at->bucket || HASH(element) != hash)
		return 0;
	__u64 there = WORDS(BACK(element))[0];
	return there == element || (!IS_END(there) && NEXT(there) == element);
}

// What was the first element still is, with what was the second behind it.
static __always_inline int is_in_front(const struct walk *at)
{
	return FIRST(at->buckets + at->bucket * SIZE_OF_BUCKET) == at->first && NEXT(at->first) == at->second &&
	       HASH(at->first) == at->hash;
}

#define PROGRAM(sizes, KEY, VALUE)                                                                                     \
	struct record_##sizes {                                                                                        \
		__u64 key[(KEY + 7) / 8];                                                                              \
		__u64 value[VALUE / 8];                                                                                \
	};                                                                                                             \
	/* Three words of the first element of a bucket, and in between one a cache line. */                           \
	static long touch_##sizes(__u32 index, struct copy *in)                                                        \
	{                                                                                                              \
		struct walk *at = in->walk;                                                                            \
		if (index >= GROUP)                                                                                    \
			return 1;                                                                                      \
		__u64 from = at->seen[index].first + OFFSET(htab_elem, key), sum = WORDS(from - 8)[0];                 \
		for (int i = 64; i < (int)sizeof(struct record_##sizes); i += 64)                                      \
			sum += WORDS(from - 8 + i)[0];                                                                 \
		at->touched += sum + WORDS(from + sizeof(struct record_##sizes) - 8)[0];                               \
		return 0;                                                                                              \
	}                                                                                                              \
	/* By words: keys and values start at multiples of 8 bytes in the map. Answers what it read, in one word. */   \
	static __always_inline __u64 copy_##sizes(struct record_##sizes *to, __u64 from)                               \
	{                                                                                                              \
		const volatile __u64 *key = WORDS(from), *value = WORDS(from + sizeof(to->key));                       \
		__u64 all = 0, word;                                                                                   \
		for (int i = 0; i < (int)sizeof(to->key) / 8; i++) {                                                   \
			word = key[i];                                                                                 \
			all |= word;                                                                                   \
			to->key[i] = i < KEY / 8 ? word : word & ((1ull << KEY % 8 * 8) - 1);                          \
		}                                                                                                      \
		for (int i = 0; i < VALUE / 8; i++) {                                                                  \
			word = value[i];                                                                               \
			all |= word;                                                                                   \
			to->value[i] = word;                                                                           \
		}                                                                                                      \
		return all;                                                                                            \
	}                                                                                                              \
	/* Looks for the key of the record `same` among the bucket's records. */                                       \
	static long same_##sizes(__u32 index, struct copy *at)                                                         \
	{                                                                                                              \
		struct record_##sizes *records_of = at->records;                                                       \
		struct walk *bucket = at->walk;                                                                        \
		__u32 one = bucket->start + index, other = bucket->same;                                               \
		if (one >= CAPACITY || other >= CAPACITY)                                                              \
			return 1;                                                                                      \
		for (int i = 0; i < (KEY + 7) / 8; i++)                                                                \
			if (records_of[one].key[i] != records_of[other].key[i])                                        \
				return 0;                                                                              \
		bucket->same = NONE;                                                                                   \
		return 1;                                                                                              \
	}                                                                                                              \
	/* The key of this record is in none in front of it. Hardly ever has to look. */                               \
	static __always_inline int is_new_##sizes(struct copy *in, __u32 at, __u32 hash)                               \
	{                                                                                                              \
		struct walk *bucket = in->walk;                                                                        \
		__u64 bit = 1ull << (hash >> 26);                                                                      \
		if (bucket->hashes & bit) {                                                                            \
			bucket->same = at;                                                                             \
			bpf_loop(at - bucket->start, same_##sizes, in, 0);                                             \
			if (bucket->same == NONE)                                                                      \
				return 0;                                                                              \
		}                                                                                                      \
		bucket->hashes |= bit;                                                                                 \
		return 1;                                                                                              \
	}                                                                                                              \
	/* One element of a bucket that is copied anew, from its first record on. */                                   \
	static long again_##sizes(__u32 index, struct copy *in)                                                        \
	{                                                                                                              \
		struct walk *bucket = in->walk;                                                                        \
		struct control *part = in->part;                                                                       \
		__u64 node = bucket->node;                                                                             \
		bucket->node = 0;                                                                                      \
		if (!node) {                                                                                           \
			if (bucket->turn++ >= TURNS)                                                                   \
				return 1;                                                                              \
			bucket->first = node = FIRST(bucket->buckets + bucket->bucket * SIZE_OF_BUCKET);               \
			bucket->second = END_OF(bucket->bucket);                                                       \
			bucket->found = bucket->kept = bucket->hashes = 0;                                             \
			if (!IS_END(node))                                                                             \
				bucket->hash = HASH(node);                                                             \
		}                                                                                                      \
		if (IS_END(node)) {                                                                                    \
			if (node != END_OF(bucket->bucket) || (bucket->found && !is_in_front(bucket)))                 \
				return 0;                                                                              \
			bucket->outcome = WHOLE;                                                                       \
			return 1;                                                                                      \
		}                                                                                                      \
		if (bucket->found++ == 1)                                                                              \
			bucket->second = node;                                                                         \
		__u32 at = bucket->start + bucket->kept, hash = HASH(node);                                            \
		__u64 read = 0;                                                                                        \
		if (bucket->found > bucket->skip) {                                                                    \
			if (bucket->kept >= LONGEST || at >= part->end || at >= CAPACITY) {                            \
				bucket->found--;                                                                       \
				bucket->outcome = bucket->kept < LONGEST ? NO_ROOM : TOO_LONG;                         \
				return 1;                                                                              \
			}                                                                                              \
			struct record_##sizes *to = in->records;                                                       \
			read = copy_##sizes(to + at, node + OFFSET(htab_elem, key));                                   \
		}                                                                                                      \
		node += after(read);                                                                                   \
		if (!is_there(bucket, node, hash))                                                                     \
			return 0;                                                                                      \
		if (bucket->found > bucket->skip && is_new_##sizes(in, at, hash))                                      \
			bucket->kept++;                                                                                \
		bucket->node = NEXT(node);                                                                             \
		return 0;                                                                                              \
	}                                                                                                              \
	/* The short way: a few elements of different hashes, looked at again once all are copied; 0 if that is not so. */ \
	static long bucket_##sizes(__u32 index, struct copy *in)                                                       \
	{                                                                                                              \
		struct walk *walk = in->walk;                                                                          \
		struct control *part = in->part;                                                                       \
		struct record_##sizes *to = in->records;                                                               \
		if (index >= GROUP)                                                                                    \
			return 1;                                                                                      \
		__u64 first = walk->seen[index].first, node = first, all = 0, bits = 0, elements[SHORT];               \
		__u32 bucket = walk->seen[index].bucket, next = in->next, hashes[SHORT];                               \
		__u64 head = walk->buckets + bucket * SIZE_OF_BUCKET;                                                  \
		int found = 0, is_short = !part->skip;                                                                 \
		_Pragma("unroll") for (int i = 0; i < SHORT; i++)                                                      \
		{                                                                                                      \
			if (IS_END(node))                                                                              \
				break;                                                                                 \
			if (next >= CAPACITY)                                                                          \
				return 1;                                                                              \
			elements[i] = node;                                                                            \
			hashes[i] = HASH(node);                                                                        \
			__u64 bit = 1ull << (hashes[i] >> 26);                                                         \
			is_short &= !(bits & bit);                                                                     \
			bits |= bit;                                                                                   \
			all |= copy_##sizes(to + next, node + OFFSET(htab_elem, key));                                 \
			node = NEXT(node);                                                                             \
			next++;                                                                                        \
			found++;                                                                                       \
		}                                                                                                      \
		is_short &= IS_END(node);                                                                              \
		__u64 behind = node, zero = after(all);                                                                \
		int is_whole = behind == END_OF(bucket) && FIRST(head + zero) == first;                                \
		_Pragma("unroll") for (int i = SHORT - 1; i >= 0; i--)                                                 \
		{                                                                                                      \
			if (i >= found)                                                                                \
				continue;                                                                              \
			__u64 element = elements[i] + zero, front = i ? elements[i - 1] : head;                        \
			is_whole &= NEXT(element) == behind && BACK(element) == front && HASH(element) == hashes[i] && \
				    (hashes[i] & walk->mask) == bucket;                                                \
			behind = elements[i];                                                                          \
		}                                                                                                      \
		if (is_short && is_whole) {                                                                            \
			in->next = next;                                                                               \
			return 0;                                                                                      \
		}                                                                                                      \
		walk->bucket = bucket;                                                                                 \
		walk->start = in->next;                                                                                \
		walk->skip = bucket == part->bucket ? part->skip : 0;                                                  \
		walk->node = walk->turn = walk->kept = 0;                                                              \
		walk->outcome = CHANGED;                                                                               \
		bpf_loop(STEPS, again_##sizes, in, 0);                                                                 \
		part->again += is_short || walk->turn > 1;                                                             \
		in->at = bucket;                                                                                       \
		in->stopped = walk->outcome == NO_ROOM || walk->outcome == TOO_LONG;                                   \
		if (walk->outcome == NO_ROOM)                                                                          \
			return 1;                                                                                      \
		in->next = walk->start + walk->kept;                                                                   \
		part->skip = in->stopped ? walk->found : 0;                                                            \
		part->missed += walk->outcome != WHOLE;                                                                \
		return in->stopped;                                                                                    \
	}                                                                                                              \
	static long group_##sizes(__u32 index, void *unused)                                                           \
	{                                                                                                              \
		__u32 zero = 0;                                                                                        \
		struct control *part = bpf_map_lookup_elem(&control, &zero);                                           \
		struct walk *at = bpf_map_lookup_elem(&walk, &zero);                                                   \
		void *to = bpf_map_lookup_elem(&records, &zero);                                                       \
		if (!part || !at || !to)                                                                               \
			return 1;                                                                                      \
		__u32 from = part->bucket;                                                                             \
		if (from >= at->count) {                                                                               \
			part->state = END;                                                                             \
			return 1;                                                                                      \
		}                                                                                                      \
		if (part->next + GROUP * SHORT > part->end)                                                            \
			return 1;                                                                                      \
		if (index % GROUPS_A_LOOK == GROUPS_A_LOOK - 1 && bpf_ktime_get_ns() > at->until)                      \
			return 1;                                                                                      \
		__u32 count = at->count - from < GROUP ? at->count - from : GROUP;                                     \
		struct look seen = { at, at->buckets + from * SIZE_OF_BUCKET, from, 0 };                               \
		bpf_loop(count, look, &seen, 0);                                                                       \
		struct copy in = { at, part, to, part->next, 0, 0 };                                                   \
		bpf_loop(seen.found, touch_##sizes, &in, 0);                                                           \
		bpf_loop(seen.found, bucket_##sizes, &in, 0);                                                          \
		part->next = in.next;                                                                                  \
		part->bucket = in.stopped ? in.at : from + count;                                                      \
		if (!in.stopped)                                                                                       \
			part->skip = 0;                                                                                \
		return in.stopped & 1;                                                                                 \
	}                                                                                                              \
	SEC("syscall") int walk_##sizes(void *unused)                                                                  \
	{                                                                                                              \
		__u32 zero = 0;                                                                                        \
		struct control *part = bpf_map_lookup_elem(&control, &zero);                                           \
		struct walk *at = bpf_map_lookup_elem(&walk, &zero);                                                   \
		if (!part || !at)                                                                                      \
			return 0;                                                                                      \
		__u64 began = bpf_ktime_get_ns();                                                                      \
		part->state = STRANGE;                                                                                 \
		if (!find(at, part->fd, part->id, KEY, VALUE))                                                         \
			return 0;                                                                                      \
		part->state = MORE;                                                                                    \
		at->until = began + part->time;                                                                        \
		bpf_loop(GROUPS, group_##sizes, 0, 0);                                                                 \
		part->took = bpf_ktime_get_ns() - began;                                                               \
		return 0;                                                                                              \
	}

PROGRAM(14_56, 14, 56)
PROGRAM(38_56, 38, 56)
PROGRAM(14_40, 14, 40)

char _license[] SEC("license") = "Dual BSD/GPL";
