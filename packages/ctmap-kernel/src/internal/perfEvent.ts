/**
 * What perf_event_open(2) is asked for, and the number it has.
 */

const SIZE = 112
const PERF_TYPE_SOFTWARE = 1
const PERF_COUNT_SW_BPF_OUTPUT = 10n
const PERF_SAMPLE_RAW = 0x400n

/** `struct perf_event_attr` of the output of BPF programs: every record is kept, and wakes whoever waits for it. */
export const outputAttributes = (): Uint8Array => {
  const bytes = new Uint8Array(SIZE)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, PERF_TYPE_SOFTWARE, true)
  view.setUint32(4, SIZE, true)
  view.setBigUint64(8, PERF_COUNT_SW_BPF_OUTPUT, true)
  // A record for every one event, and a wake-up for every one record.
  view.setBigUint64(16, 1n, true)
  view.setBigUint64(24, PERF_SAMPLE_RAW, true)
  view.setUint32(48, 1, true)
  return bytes
}

/** The number of the system call, by Node's name of the processor; libc has no function for it. */
export const perfEventOpenNumber = (processor: string): number | undefined => numbers[processor]

const numbers: Readonly<Record<string, number>> = {
  x64: 298,
  arm64: 241,
  riscv64: 241,
  loong64: 241,
  ppc64: 319,
  ia32: 336,
  arm: 364
}
