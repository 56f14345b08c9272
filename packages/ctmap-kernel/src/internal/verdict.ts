/** `enum verdict` of `bpf/compare_delete.bpf.c`. */
export const verdict = { deleted: 0, refreshed: 1, vanished: 2, restored: 3, busy: 4 } as const
