// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Hash maps as they stand in the kernel's memory, as far as copy.bpf.c and walk.bpf.c read them.

typedef unsigned int __u32;
typedef unsigned long long __u64;

#define __always_inline inline __attribute__((always_inline))

static void *(*const bpf_get_current_task_btf)(void) = (void *)158;

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

enum bpf_map_type { UNUSED };

struct bpf_map {
	enum bpf_map_type map_type;
	__u32 key_size, value_size, map_flags, id;
} KERNEL;

struct bpf_htab {
	struct bpf_map map;
	struct bucket *buckets;
	__u32 n_buckets;
} KERNEL;

struct file {
	void *private_data;
} KERNEL;

struct fdtable {
	__u32 max_fds;
	struct file **fd;
} KERNEL;

struct files_struct {
	struct fdtable *fdt;
} KERNEL;

struct task_struct {
	struct files_struct *files;
} KERNEL;

// Ten words: a type of the kernel's to read numbers as, of whatever they are.
struct kernel_cpustat {
	__u64 cpustat[10];
};

extern void *bpf_rdonly_cast(const void *address, __u32 type) __attribute__((section(".ksyms"), weak));

#define AS(type, address) ((struct type *)bpf_rdonly_cast((void *)(address), __builtin_btf_type_id(*(struct type *)0, 1)))
#define WORDS(address) ((const volatile __u64 *)AS(kernel_cpustat, address)->cpustat)
#define OFFSET(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 0)
#define SIZE(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 1)
#define FIRST(bucket_head) WORDS((bucket_head) + OFFSET(bucket, head))[0]
#define NEXT(element) WORDS((element) + OFFSET(htab_elem, hash_node.next))[0]
#define BACK(element) WORDS((element) + OFFSET(htab_elem, hash_node.pprev))[0]
#define HASH(element) (*(const volatile __u32 *)WORDS((element) + OFFSET(htab_elem, hash)))
#define SIZE_OF_BUCKET ((OFFSET(bucket, raw_lock) + SIZE(bucket, raw_lock) + 7) & ~7ull)

// A list ends with its bucket's number instead of an address.
#define END_OF(bucket) ((__u64)(bucket) << 1 | 1)
#define IS_END(node) ((node) & 1)

enum { HASH_MAP = 1, LRU_HASH_MAP = 9, NO_PREALLOC = 1 };

// Zero, but nobody knows before `words` have been read: what is read at an address that it was added to is read after them,
// on every CPU.
static __always_inline __u64 after(__u64 words)
{
	asm volatile("%0 ^= %0" : "+r"(words));
	return words;
}

// The address of the map that the running thread has open as `fd`. Whether it is one, the caller finds out.
static __always_inline __u64 map_at(__u32 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *table = AS(files_struct, task->files)->fdt;
	if (fd >= table->max_fds)
		return 0;
	__u64 files = WORDS((__u64)table + OFFSET(fdtable, fd))[0];
	return WORDS(WORDS(files + fd * sizeof(__u64))[0] + OFFSET(file, private_data))[0];
}
