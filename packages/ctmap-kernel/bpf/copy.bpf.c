// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Iterators over the elements of a map (Linux >= 5.9) that copy records into memory shared with user space. A record is
// the key, zeros up to a multiple of 8 bytes, and the value; src/MapIterator.ts knows the same sizes.
//
// User space says in `control` which part of `records` to fill and calls read(2). The iterator copies until the part is
// full, and then answers 1: the kernel ends the read and shows that element again at the next. The byte it writes per
// read only tells the end of the map (a read of nothing) from a part that was filled.
//
//   copy_*    Linux >= 5.9. The kernel goes on at the nth element of a bucket, and walks buckets without their lock. So
//             it misses elements where others delete: of the bucket where a read ended, when one in front of its place
//             goes; of any bucket, when the element it stands on is deleted and used again in another bucket.
//   exact_*   Linux >= 6.2 (bpf_rdonly_cast). Ends a read between two buckets only, and looks at every bucket again once
//             it has been copied. If no element went while it was copied, the first two are still the first two, and
//             the last one still ends this very bucket, then whatever was there throughout has been copied:
//             src/MapIterator.ts says why. Otherwise it copies the bucket anew, by itself, until that is so. A key is
//             copied once: while the kernel replaces an element, the new one and the old one are both in the list.

typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_F_MMAPABLE = 1 << 10 };
enum { CAPACITY = 8192, RECORD_ROOM = 96, TURNS = 8, LONGEST = 64 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static long (*const bpf_seq_write)(void *seq, const void *data, __u32 length) = (void *)127;
static long (*const bpf_loop)(__u32 turns, void *callback, void *context, __u64 flags) = (void *)181;

struct control {
	__u32 next;   // where the next record goes
	__u32 limit;  // from here on, no other bucket is begun
	__u32 first;  // the first of this part
	__u32 begin;  // a read begins
	__u32 end;    // one past the last of this part
	__u32 again;  // out: buckets that were copied anew
	__u32 missed; // out: buckets of which elements may be missing
	__u32 took;   // out: nanoseconds from the first element of a read to its end
	__u64 began;  // when that was
};

// Two looks at the clock a read; whatever ends it answers what this does. The answer is made behind the call, where the
// compiler keeps it in its register: of one that it keeps on the stack, the verifier does not know that it is 0 or 1.
static __always_inline void begin(struct control *part)
{
	part->begin = 0;
	part->began = bpf_ktime_get_ns();
}

#define END(part, answer)                                                                                              \
	({                                                                                                             \
		int made;                                                                                              \
		part->took = bpf_ktime_get_ns() - part->began;                                                         \
		asm volatile("%0 = " #answer : "=r"(made));                                                            \
		made;                                                                                                  \
	})

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*map_flags)[BPF_F_MMAPABLE];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct control)];
	int (*max_entries)[1];
} control SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*map_flags)[BPF_F_MMAPABLE];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[CAPACITY * RECORD_ROOM];
	int (*max_entries)[1];
} records SEC(".maps");

// What the exact programs know of the bucket they are in. Not mapped: these are addresses of the kernel.
struct walk {
	__u64 first; // elements; 0 for none, GONE if one went while it was copied
	__u64 second; // or the end of the list
	__u64 last;
	__u64 head; // of the list
	__u32 bucket;
	__u32 mask; // of a hash, for its bucket
	__u32 hash; // of the first element
	__u32 start; // its first record
	__u64 hashes; // of its records, by their upper six bits
	__u32 same; // a record whose key is looked for among those in front of it; NONE if it was found
	// Of a bucket that is copied anew: elements and records so far, where it stands (0 for before the first), and how
	// often.
	__u32 found;
	__u32 kept;
	__u32 turn;
	__u64 node;
	__u64 number; // see below
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct walk)];
	int (*max_entries)[1];
} walk SEC(".maps");

// The kernel's own structures, as far as they are used; the loader puts in where the fields are (CO-RE).
#define KERNEL __attribute__((preserve_access_index))

struct hlist_nulls_node {
	struct hlist_nulls_node *next, **pprev;
} KERNEL;

struct hlist_nulls_head {
	struct hlist_nulls_node *first;
} KERNEL;

struct lock_of_bucket {
	__u32 unused;
};

struct bucket {
	struct hlist_nulls_head head;
	struct lock_of_bucket raw_lock;
} KERNEL;

struct htab_elem {
	struct hlist_nulls_node hash_node;
	__u32 hash;
	char key[0];
} KERNEL;

struct bpf_htab {
	struct bucket *buckets;
	__u32 n_buckets;
} KERNEL;

struct bpf_iter_seq_hash_map_info {
	struct bpf_htab *htab;
	__u32 bucket_id, skip_elems;
} KERNEL;

struct seq_file {
	void *private;
} KERNEL;

struct bpf_iter_meta {
	struct seq_file *seq;
} KERNEL;

// struct bpf_iter__bpf_map_elem
struct element {
	struct bpf_iter_meta *meta;
	void *map;
	const void *key;
	const void *value;
};

extern void *bpf_rdonly_cast(const void *address, __u32 type) __attribute__((section(".ksyms"), weak));

#define AS(type, address) ((struct type *)bpf_rdonly_cast((void *)(address), __builtin_btf_type_id(*(struct type *)0, 1)))
#define OFFSET(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 0)
#define SIZE(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 1)

enum { GONE = 2, NONE = CAPACITY };

// A list ends with its bucket's number instead of an address.
#define END_OF(bucket) ((__u64)(bucket) << 1 | 1)

// An address as a number that may be computed with: the verifier forgets what is stored.
static __always_inline __u64 number(struct walk *at, const void *address)
{
	*(const void *volatile *)&at->number = address;
	return *(volatile __u64 *)&at->number;
}

// The element is in this bucket: nobody has deleted it meanwhile, or made another of it. The one that was first does not
// know yet of the one that has just been put in front of it.
static __always_inline int is_there(const struct walk *at, __u64 address, __u32 hash)
{
	struct htab_elem *element = AS(htab_elem, address);
	if ((hash & at->mask) != at->bucket || element->hash != hash)
		return 0;
	__u64 there = (__u64)AS(hlist_nulls_head, element->hash_node.pprev)->first;
	return there == address || (__u64)AS(hlist_nulls_node, there)->next == address;
}

// What was the first element still is, with what was the second behind it.
static __always_inline int is_in_front(const struct walk *at)
{
	struct htab_elem *first = AS(htab_elem, at->first);
	return (__u64)AS(hlist_nulls_head, at->head)->first == at->first &&
	       (__u64)first->hash_node.next == at->second && first->hash == at->hash;
}

static __always_inline int is_whole(const struct walk *at)
{
	return at->first != GONE && (__u64)AS(htab_elem, at->last)->hash_node.next == END_OF(at->bucket) &&
	       is_in_front(at);
}

// By words: keys and values start at multiples of 8 bytes in the map. A key of 14 or 38 bytes is so many words, four
// bytes and two.
#define COPY(KEY, VALUE)                                                                                               \
	for (int i = 0; i < KEY / 8; i++)                                                                              \
		to->key[i] = key[i];                                                                                   \
	to->key[KEY / 8] =                                                                                             \
		*(const __u32 *)&key[KEY / 8] | (__u64)((const __u16 *)key)[KEY / 2 - 1] << 32;                        \
	for (int i = 0; i < VALUE / 8; i++)                                                                            \
		to->value[i] = value[i];

#define ITERATORS(sizes, KEY, VALUE)                                                                                   \
	struct record_##sizes {                                                                                        \
		__u64 key[(KEY + 7) / 8];                                                                              \
		__u64 value[VALUE / 8];                                                                                \
	};                                                                                                             \
	SEC("iter/bpf_map_elem") int copy_##sizes(struct element *element)                                             \
	{                                                                                                              \
		const __u64 *key = element->key, *value = element->value;                                              \
		__u32 zero = 0;                                                                                        \
		struct control *part = bpf_map_lookup_elem(&control, &zero);                                           \
		struct record_##sizes *to = bpf_map_lookup_elem(&records, &zero);                                      \
		if (!part || !to)                                                                                      \
			return 0;                                                                                      \
		if (part->begin)                                                                                       \
			begin(part);                                                                                   \
		if (!key || !value)                                                                                    \
			return END(part, 0);                                                                           \
		__u32 at = part->next;                                                                                 \
		if (at >= part->end || at >= CAPACITY)                                                                 \
			return END(part, 1);                                                                           \
		to += at;                                                                                              \
		COPY(KEY, VALUE)                                                                                       \
		if (at == part->first)                                                                                 \
			bpf_seq_write(*(void **)element->meta, part, 1);                                               \
		part->next = at + 1;                                                                                   \
		return 0;                                                                                              \
	}                                                                                                              \
	/* Looks for the key of the record `same` among the bucket's records. */                                       \
	static long same_##sizes(__u32 index, void *unused)                                                            \
	{                                                                                                              \
		__u32 zero = 0;                                                                                        \
		struct record_##sizes *records_of = bpf_map_lookup_elem(&records, &zero);                              \
		struct walk *bucket = bpf_map_lookup_elem(&walk, &zero);                                               \
		if (!records_of || !bucket)                                                                            \
			return 1;                                                                                      \
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
	static __always_inline int is_new_##sizes(struct walk *bucket, __u32 at, __u32 hash)                           \
	{                                                                                                              \
		__u64 bit = 1ull << (hash >> 26);                                                                      \
		if (bucket->hashes & bit) {                                                                            \
			bucket->same = at;                                                                             \
			bpf_loop(at - bucket->start, same_##sizes, 0, 0);                                              \
			if (bucket->same == NONE)                                                                      \
				return 0;                                                                              \
		}                                                                                                      \
		bucket->hashes |= bit;                                                                                 \
		return 1;                                                                                              \
	}                                                                                                              \
	/* One element of a bucket that is copied anew, from its first record on; 1 at the end, with `first` 0 if it is whole. */ \
	static long again_##sizes(__u32 index, void *unused)                                                           \
	{                                                                                                              \
		__u32 zero = 0;                                                                                        \
		struct control *part = bpf_map_lookup_elem(&control, &zero);                                           \
		struct record_##sizes *to = bpf_map_lookup_elem(&records, &zero);                                      \
		struct walk *bucket = bpf_map_lookup_elem(&walk, &zero);                                               \
		if (!part || !to || !bucket)                                                                           \
			return 1;                                                                                      \
		if (!bucket->node) {                                                                                   \
			if (bucket->turn++ >= TURNS)                                                                   \
				return 1;                                                                              \
			bucket->node = bucket->first = number(bucket, AS(hlist_nulls_head, bucket->head)->first);      \
			bucket->hash = AS(htab_elem, bucket->first)->hash;                                             \
			bucket->second = END_OF(bucket->bucket);                                                       \
			bucket->found = bucket->kept = bucket->hashes = 0;                                             \
		}                                                                                                      \
		__u64 node = bucket->node;                                                                             \
		__u32 at = bucket->start + bucket->kept;                                                               \
		bucket->node = 0;                                                                                      \
		if (node & 1) {                                                                                        \
			if (node != END_OF(bucket->bucket) || (bucket->found ? !is_in_front(bucket) :                  \
			    (__u64)AS(hlist_nulls_head, bucket->head)->first != node))                                 \
				return 0;                                                                              \
			part->again++;                                                                                 \
			bucket->first = 0;                                                                             \
			return 1;                                                                                      \
		}                                                                                                      \
		if (bucket->found >= LONGEST || at >= CAPACITY)                                                        \
			return 0;                                                                                      \
		if (bucket->found++ == 1)                                                                              \
			bucket->second = node;                                                                         \
		__u32 hash = AS(htab_elem, node)->hash;                                                                \
		const char *key = (const char *)node + OFFSET(htab_elem, key);                                         \
		to += at;                                                                                              \
		to->key[KEY / 8] = 0;                                                                                  \
		bpf_probe_read_kernel(to->key, KEY, key);                                                              \
		bpf_probe_read_kernel(to->value, VALUE, key + (KEY + 7) / 8 * 8);                                      \
		if (!is_there(bucket, node, hash))                                                                     \
			return 0;                                                                                      \
		if (is_new_##sizes(bucket, at, hash))                                                                  \
			bucket->kept++;                                                                                \
		bucket->node = number(bucket, AS(htab_elem, node)->hash_node.next);                                    \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("iter/bpf_map_elem") int exact_##sizes(struct element *element)                                            \
	{                                                                                                              \
		const __u64 *key = element->key, *value = element->value;                                              \
		__u32 zero = 0;                                                                                        \
		struct control *part = bpf_map_lookup_elem(&control, &zero);                                           \
		struct record_##sizes *to = bpf_map_lookup_elem(&records, &zero);                                      \
		struct walk *bucket = bpf_map_lookup_elem(&walk, &zero);                                               \
		if (!part || !to || !bucket)                                                                           \
			return 0;                                                                                      \
		struct seq_file *seq = element->meta->seq;                                                             \
		struct bpf_iter_seq_hash_map_info *place = AS(bpf_iter_seq_hash_map_info, seq->private);               \
		int is_first = place->skip_elems == 0;                                                                 \
		if (part->begin) {                                                                                     \
			begin(part);                                                                                   \
			bucket->first = bucket->hashes = 0;                                                            \
			bucket->start = part->next;                                                                    \
			bucket->bucket = place->bucket_id;                                                             \
			bucket->mask = place->htab->n_buckets - 1;                                                     \
		}                                                                                                      \
		if (bucket->first && (!key || is_first)) {                                                             \
			if (!is_whole(bucket)) {                                                                       \
				bucket->turn = bucket->node = 0;                                                       \
				bpf_loop(TURNS * (LONGEST + 2), again_##sizes, 0, 0);                                  \
				part->next = bucket->start + bucket->kept;                                             \
				if (bucket->first)                                                                     \
					part->missed++;                                                                \
			}                                                                                              \
			bucket->first = 0;                                                                             \
		}                                                                                                      \
		if (!key || !value)                                                                                    \
			return END(part, 0);                                                                           \
		__u32 at = part->next;                                                                                 \
		if (at >= part->limit && is_first)                                                                     \
			return END(part, 1);                                                                           \
		if (at >= part->end || at >= CAPACITY) {                                                               \
			part->missed++;                                                                                \
			return END(part, 1);                                                                           \
		}                                                                                                      \
		__u64 address = (__u64)key - OFFSET(htab_elem, key);                                                   \
		__u32 hash = AS(htab_elem, address)->hash;                                                             \
		if (is_first) {                                                                                        \
			__u64 size = (OFFSET(bucket, raw_lock) + SIZE(bucket, raw_lock) + 7) & ~7ull;                  \
			bucket->first = address;                                                                       \
			bucket->hash = hash;                                                                           \
			bucket->bucket = place->bucket_id;                                                             \
			bucket->second = END_OF(place->bucket_id);                                                     \
			bucket->head = (__u64)place->htab->buckets + place->bucket_id * size + OFFSET(bucket, head);   \
			bucket->start = at;                                                                            \
			bucket->hashes = 0;                                                                            \
		} else if (place->skip_elems == 1)                                                                     \
			bucket->second = address;                                                                      \
		bucket->last = address;                                                                                \
		if (at == part->first)                                                                                 \
			bpf_seq_write(seq, part, 1);                                                                   \
		to += at;                                                                                              \
		COPY(KEY, VALUE)                                                                                       \
		if (is_there(bucket, address, hash)) {                                                                 \
			if (is_new_##sizes(bucket, at, hash))                                                          \
				part->next = at + 1;                                                                   \
		} else if (bucket->first)                                                                              \
			bucket->first = GONE;                                                                          \
		return 0;                                                                                              \
	}

ITERATORS(14_56, 14, 56)
ITERATORS(38_56, 38, 56)
ITERATORS(14_40, 14, 40)

char _license[] SEC("license") = "Dual BSD/GPL";
