// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Sends signals as a datapath does, for tests only: whatever stands in the context goes into `signals`, `count` times.
//
// A raw tracepoint that is never attached: BPF_PROG_TEST_RUN (Linux >= 5.10) runs such a program on the CPU of one's
// choice, with a context of 64-bit words. It reports in `outcome`, as a run on another CPU has no other way back.

typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4, BPF_F_MMAPABLE = 1 << 10 };

#define BPF_F_CURRENT_CPU 0xffffffffULL

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_perf_event_output)(void *context, void *map, __u64 flags, void *data, __u64 size) = (void *)25;

enum { MOST = 1024, ROOM = 64 };

struct {
	int (*type)[BPF_MAP_TYPE_PERF_EVENT_ARRAY];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(__u32)];
	int (*max_entries)[1];
} signals SEC(".maps");

struct outcome {
	__u32 cpu;     // where the run was
	__u32 sent;    // how many were taken
	__u32 failed;  // how many were not
	int error;     // what the last of these was told
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*map_flags)[BPF_F_MMAPABLE];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(struct outcome)];
	int (*max_entries)[1];
} outcome SEC(".maps");

// Words of the context: the message's first two (signal and protocol, four bytes each), its size, how often; bytes
// after the first 8 count up from 1. With `number` in the fourth word, each message is numbered in its bytes 4 to 8.
SEC("raw_tp") int send_signals(__u64 *context)
{
	__u64 message[ROOM / 8];
	__u32 zero = 0;
	__u32 size = context[1];
	__u32 count = context[2];
	__u32 number = context[3];
	struct outcome *told = bpf_map_lookup_elem(&outcome, &zero);
	if (!told || size > ROOM || size < 1)
		return 0;
	message[0] = context[0];
	for (int i = 1; i < ROOM / 8; i++)
		message[i] = 0x0807060504030201ULL;
	told->cpu = bpf_get_smp_processor_id();
	told->sent = told->failed = 0;
	told->error = 0;
	for (__u32 i = 0; i < MOST && i < count; i++) {
		if (number)
			((__u32 *)message)[1] = i;
		long rc = bpf_perf_event_output(context, &signals, BPF_F_CURRENT_CPU, message, size);
		if (rc == 0) {
			told->sent++;
		} else {
			told->failed++;
			told->error = rc;
		}
	}
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
