/**
 * The ring of one perf event, in memory shared with the kernel: a page of positions, then records.
 *
 * Owns the protocol: the kernel moves the head, the reader the tail; both only grow, and their remainders by the size of
 * the data are places in it. A record is a multiple of 8 bytes and may go on at the start of the data.
 */

/** In `struct perf_event_mmap_page`, in 8-byte words. */
const DATA_HEAD = 128
const DATA_TAIL = 129
const DATA_OFFSET = 130
const DATA_SIZE = 131

const PERF_RECORD_LOST = 2
const PERF_RECORD_SAMPLE = 9
const HEADER_BYTES = 8
const LOST_BYTES = 24
const SAMPLE_AT = 12

/** Hears of records. */
export interface Sink {
  readonly sample: (cpu: number, bytes: Uint8Array) => void
  readonly lost: (cpu: number, count: number) => void
}

/** What stands in the place of a record, and cannot be one. */
export interface Damage {
  readonly at: number
  readonly size: number
}

/** Reads one ring. Must not be used once its memory is unmapped. */
export class PerfRecords {
  readonly #cpu: number
  readonly #positions: BigUint64Array
  readonly #data: Uint8Array
  readonly #view: DataView
  /** Where the next record is: nobody but us moves the tail. */
  #tail: number

  constructor(cpu: number, memory: Uint8Array) {
    this.#cpu = cpu
    this.#positions = new BigUint64Array(memory.buffer, memory.byteOffset, DATA_SIZE + 1)
    const at = Number(this.#positions[DATA_OFFSET])
    this.#data = memory.subarray(at, at + Number(this.#positions[DATA_SIZE]))
    this.#view = new DataView(this.#data.buffer, this.#data.byteOffset, this.#data.byteLength)
    this.#tail = Number(this.#positions[DATA_TAIL])
  }

  /** Whether there is a record. */
  get isEmpty(): boolean {
    return this.#head() === this.#tail
  }

  /**
   * Hands out what is there at the time of the call, in order; how many records. Where one cannot be, gives up everything
   * until then and says so. A sink that throws has had its record.
   */
  drain(sink: Sink): { readonly records: number; readonly damage: Damage | undefined } {
    const head = this.#head()
    let records = 0
    try {
      while (this.#tail < head) {
        const at = this.#tail % this.#data.byteLength
        const size = this.#view.getUint16(at + 6, true)
        const type = this.#view.getUint32(at, true)
        if (size < HEADER_BYTES || size % 8 !== 0 || size > head - this.#tail || isTooShort(type, size)) {
          this.#tail = head
          return { records, damage: { at, size } }
        }
        this.#tail += size
        records += 1
        this.#tell(sink, type, this.#record(at, size))
      }
      return { records, damage: undefined }
    } finally {
      // Only now may the kernel write over what was read.
      Atomics.store(this.#positions, DATA_TAIL, BigInt(this.#tail))
    }
  }

  #head(): number {
    // The kernel writes records before it moves the head: nothing may be read ahead of this.
    return Number(Atomics.load(this.#positions, DATA_HEAD))
  }

  #record(at: number, size: number): Uint8Array {
    const whole = this.#data.byteLength
    if (at + size <= whole) return this.#data.subarray(at, at + size)
    const bytes = new Uint8Array(size)
    bytes.set(this.#data.subarray(at))
    bytes.set(this.#data.subarray(0, size - (whole - at)), whole - at)
    return bytes
  }

  #tell(sink: Sink, type: number, record: Uint8Array): void {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength)
    if (type === PERF_RECORD_SAMPLE) {
      const end = Math.min(record.byteLength, SAMPLE_AT + view.getUint32(HEADER_BYTES, true))
      sink.sample(this.#cpu, record.subarray(SAMPLE_AT, end))
    } else if (type === PERF_RECORD_LOST) sink.lost(this.#cpu, Number(view.getBigUint64(16, true)))
    // Others, such as throttling, are about the event and not about what was sent.
  }
}

const isTooShort = (type: number, size: number): boolean =>
  (type === PERF_RECORD_LOST && size < LOST_BYTES) || (type === PERF_RECORD_SAMPLE && size < SAMPLE_AT)
