// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Iterators over the elements of a map (Linux >= 5.9): read(2) hands out the table as records, about 32 KiB a call. A
// record is the key, zeros up to a multiple of 8 bytes, and the value; src/MapIterator.ts knows the same sizes. It is
// written at once: one that does not fit into the caller's buffer is shown again by the next read.
//
// The first field of the iterator's meta data is its seq_file, in every kernel that has iterators.

typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

static long (*const bpf_seq_write)(void *seq, const void *data, __u32 length) = (void *)127;

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
	SEC("iter/bpf_map_elem") int name(struct element *element)                                                     \
	{                                                                                                              \
		struct {                                                                                               \
			__u64 key[(KEY + 7) / 8];                                                                      \
			__u64 value[VALUE / 8];                                                                        \
		} record;                                                                                              \
		const __u64 *key = element->key, *value = element->value;                                              \
		if (!key || !value)                                                                                    \
			return 0;                                                                                      \
		for (int i = 0; i < KEY / 8; i++)                                                                      \
			record.key[i] = key[i];                                                                        \
		record.key[KEY / 8] = *(const __u32 *)&key[KEY / 8] |                                                  \
				      (__u64)((const __u16 *)key)[KEY / 2 - 1] << 32;                                  \
		for (int i = 0; i < VALUE / 8; i++)                                                                    \
			record.value[i] = value[i];                                                                    \
		bpf_seq_write(*element->meta, &record, sizeof(record));                                                \
		return 0;                                                                                              \
	}

ITERATOR(copy_14_56, 14, 56)
ITERATOR(copy_38_56, 38, 56)
ITERATOR(copy_14_40, 14, 40)

char _license[] SEC("license") = "GPL";
