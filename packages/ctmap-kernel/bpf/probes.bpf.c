// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The smallest programs that need a feature. Features.ts loads one at a time: whether it loads is the answer. None is
// ever run.

typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

enum { BPF_MAP_TYPE_HASH = 1 };

static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context, __u64 flags) = (void *)164;

static void *(*const bpf_get_current_task_btf)(void) = (void *)158;
extern void *bpf_rdonly_cast(const void *address, __u32 type) __attribute__((section(".ksyms"), weak));

struct files_struct {
	__u32 unused;
};

struct task_struct {
	struct files_struct *files;
} __attribute__((preserve_access_index));

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(__u32)];
	int (*max_entries)[1];
} probed SEC(".maps");

// A program that user space runs by a system call: Linux 5.14.
SEC("syscall") int probe_syscall(void *context)
{
	return 0;
}

static long visit(void *map, const void *key, void *value, void *context)
{
	return 0;
}

// Walking a map inside the kernel: Linux 5.13 (here in a program of 5.14).
SEC("syscall") int probe_for_each(void *context)
{
	bpf_for_each_map_elem(&probed, visit, 0, 0);
	return 0;
}

// Reading memory of the kernel as what it is: Linux 6.2, with the kernel's own BTF.
SEC("syscall") int probe_iterator(void *context)
{
	struct task_struct *task = bpf_get_current_task_btf();
	return bpf_rdonly_cast(task->files, __builtin_btf_type_id(*(struct files_struct *)0, 1)) == 0;
}

// A program at a traffic-control hook: Linux 4.1.
SEC("tc") int probe_tc(void *context)
{
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
