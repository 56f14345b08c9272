// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Iterators over the elements of a map (Linux >= 5.9) that copy records into memory shared with user space. A record is
// the key, zeros up to a multiple of 8 bytes, and the value; src/MapIterator.ts knows the same sizes.
//
// User space says in `control` which part of `records` to fill and calls read(2). The iterator copies until the part is
// full, and then answers 1: the kernel ends the read and shows that element again at the next. The one byte it writes
// per read only tells the end of the map (a read of nothing) from a part that was filled.
//
// The first field of the iterator's meta data is its seq_file, in every kernel that has iterators.

typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_F_MMAPABLE = 1 << 10 };
enum { CAPACITY = 8192, RECORD_ROOM = 96 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_seq_write)(void *seq, const void *data, __u32 length) = (void *)127;

struct control {
	__u32 next;  // where the next record goes
	__u32 limit; // one past the last of this part
	__u32 first; // the first of this part
};

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

// struct bpf_iter__bpf_map_elem
struct element {
	void **meta;
	void *map;
	const void *key;
	const void *value;
};

// By words: keys and values start at multiples of 8 bytes in the map. A key of 14 or 38 bytes is so many words, four
// bytes and two.
#define ITERATOR(name, KEY, VALUE)                                                                                     \
	struct name##_record {                                                                                         \
		__u64 key[(KEY + 7) / 8];                                                                              \
		__u64 value[VALUE / 8];                                                                                \
	};                                                                                                             \
	SEC("iter/bpf_map_elem") int name(struct element *element)                                                     \
	{                                                                                                              \
		const __u64 *key = element->key, *value = element->value;                                              \
		__u32 zero = 0;                                                                                        \
		if (!key || !value)                                                                                    \
			return 0;                                                                                      \
		struct control *part = bpf_map_lookup_elem(&control, &zero);                                           \
		struct name##_record *to = bpf_map_lookup_elem(&records, &zero);                                       \
		if (!part || !to)                                                                                      \
			return 0;                                                                                      \
		__u32 at = part->next;                                                                                 \
		if (at >= part->limit || at >= CAPACITY)                                                               \
			return 1;                                                                                      \
		to += at;                                                                                              \
		for (int i = 0; i < KEY / 8; i++)                                                                      \
			to->key[i] = key[i];                                                                           \
		to->key[KEY / 8] = *(const __u32 *)&key[KEY / 8] |                                                     \
				   (__u64)((const __u16 *)key)[KEY / 2 - 1] << 32;                                     \
		for (int i = 0; i < VALUE / 8; i++)                                                                    \
			to->value[i] = value[i];                                                                       \
		if (at == part->first)                                                                                 \
			bpf_seq_write(*element->meta, part, 1);                                                         \
		part->next = at + 1;                                                                                   \
		return 0;                                                                                              \
	}

ITERATOR(copy_14_56, 14, 56)
ITERATOR(copy_38_56, 38, 56)
ITERATOR(copy_14_40, 14, 40)

char _license[] SEC("license") = "Dual BSD/GPL";
