// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Plays the datapath for the race stress: refreshes the entries of a list, in order, as a datapath does to the entry of
// a packet. It looks the entry up, and writes its lifetime in place, without a lock.
//
// `table` is an IPv4 CT map (keys of 14 bytes, values of 56), `list` an array that is shared with user space by mmap(2);
// the loader substitutes both. src/Refresher.ts mirrors `struct slot`; built by scripts/bpf.ts. The map is declared as
// LRU, so this is for the tables Cilium makes by default.

typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_LRU_HASH = 9, BPF_F_MMAPABLE = 1 << 10, SLOTS = 1024, LIFETIME_WORD = 8 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context, __u64 flags) = (void *)164;

struct slot {
	__u64 key[5];   // zeros after the key
	__u32 lifetime; // in: what to write
	__u32 hit;      // out: the entry was there
};

struct {
	int (*type)[BPF_MAP_TYPE_LRU_HASH];
	int (*key_size)[14];
	int (*value_size)[56];
	int (*max_entries)[1];
} table SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*map_flags)[BPF_F_MMAPABLE];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct slot)];
	int (*max_entries)[SLOTS];
} list SEC(".maps");

static long visit(void *map, const __u32 *index, struct slot *slot, __u32 *count)
{
	if (*index >= *count)
		return 1;
	volatile __u32 *value = bpf_map_lookup_elem(&table, slot->key);
	slot->hit = value != 0;
	if (value)
		value[LIFETIME_WORD] = slot->lifetime;
	return 0;
}

SEC("syscall") int refresh(__u32 *given)
{
	__u32 count = *given;
	bpf_for_each_map_elem(&list, visit, &count, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
