/** 64-bit fields read as two halves, so that nothing is allocated until a caller wants the number. */

const TWO_32 = 4_294_967_296

export const u64 = (lo: number, hi: number): bigint => (BigInt(hi) << 32n) | BigInt(lo)

/** Exact below 2^53, rounded to the nearest double above: for comparisons and sums. */
export const u64Approximate = (lo: number, hi: number): number => hi * TWO_32 + lo
