/**
 * What BPF_PROG_TEST_RUN is given: `struct bpf_test_run_opts`, 80 bytes. The kernel copies the context in and, after the
 * run, back to the same place.
 */
export const testRunOptions =
  (addressOf: (memory: Uint8Array) => bigint) =>
  (context: Uint8Array, cpu?: number): Uint8Array => {
    const bytes = new Uint8Array(80)
    const view = new DataView(bytes.buffer)
    view.setBigUint64(0, 80n, true)
    if (context.byteLength > 0) view.setBigUint64(32, addressOf(context), true)
    view.setUint32(48, context.byteLength, true)
    if (cpu !== undefined) {
      view.setUint32(68, BPF_F_TEST_RUN_ON_CPU, true)
      view.setUint32(72, cpu, true)
    }
    return bytes
  }

const BPF_F_TEST_RUN_ON_CPU = 1
