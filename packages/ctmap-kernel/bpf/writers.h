// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The wait before an entry that was deleted is looked at once more: a datapath that had looked it up needs a moment to
// write to it.

// Additions that depend on each other, a cycle each: to ask the clock takes as long as a turn of a loop should, and a loop
// is more than a verifier follows for CAP_BPF alone.
__attribute__((noinline)) int wait_a_little(void)
{
	int turn = 0;
	asm volatile(".rept 256\n%0 += 1\n.endr" : "+r"(turn));
	return turn;
}

static inline __attribute__((always_inline)) void wait_for_writers(int cycles)
{
	for (int i = 0; i < cycles / 256; i++)
		wait_a_little();
}
