/**
 * Plays a datapath that sends signals into a perf event array, on the CPU of a test's choice.
 *
 * Owns the program of `bpf/signal_test.bpf.c`, and what its runs are given and answer.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"

/**
 * What is needed of a kernel: a part of `Bpf.Calls`.
 *
 * @since 0.1.0
 */
export interface Kernel {
  readonly loadObject: (spec: {
    readonly name: string
    readonly elf: Uint8Array
    readonly programs: ReadonlyArray<string>
    readonly reuse: Readonly<Record<string, number>>
  }) => Loaded | { readonly errno: number; readonly log: string }
  readonly runProgram: (fd: number, context: Uint8Array, cpu: number) => number
  readonly lookup: (fd: number, key: Uint8Array, value: Uint8Array) => number
}

/** @since 0.1.0 */
export interface Loaded {
  readonly programs: Readonly<Record<string, number>>
  readonly maps: Readonly<Record<string, number>>
  readonly close: () => void
}

/**
 * What to send.
 *
 * @since 0.1.0
 */
export interface Message {
  readonly cpu: number
  /** The first two words. Default: a CT fill-up of IPv6. */
  readonly words?: readonly [number, number]
  /** Bytes. Default 8. */
  readonly size?: number
  /** How often, at most {@link MOST} in one run. Default 1. */
  readonly count?: number
  /** The second word of each message is its number in the run. */
  readonly numbered?: boolean
}

/**
 * What one run came to.
 *
 * @since 0.1.0
 */
export interface Outcome {
  readonly cpu: number
  readonly sent: number
  readonly failed: number
  /** What the last that failed was told, `-errno`. */
  readonly error: number
}

/** A run sends at most so many. @since 0.1.0 */
export const MOST = 1024

/** The name it is loaded under, for a twin in memory. @since 0.1.0 */
export const NAME = "signal_test"

/**
 * A sender into the open array `signals`; to be closed.
 *
 * @since 0.1.0
 */
export const make = (
  kernel: Kernel,
  signals: number
): { readonly send: (message: Message) => Outcome; readonly close: () => void } => {
  const elf = readFileSync(new URL("../bpf/signal_test.bpf.o", import.meta.url))
  const object = kernel.loadObject({ name: NAME, elf, programs: ["send_signals"], reuse: { signals } })
  if ("errno" in object) throw new Error(`load: ${object.errno}: ${object.log}`)
  const { send_signals: program, outcome: map } = { ...object.programs, ...object.maps }
  if (program === undefined || map === undefined) throw new Error("the object lacks its program or its map")
  return {
    close: object.close,
    send: ({ cpu, words = [1, 1], size = 8, count = 1, numbered = false }) => {
      const context = new Uint8Array(32)
      new Uint32Array(context.buffer).set([...words, size, 0, count, 0, numbered ? 1 : 0])
      const rc = kernel.runProgram(program, context, cpu)
      if (rc < 0) throw new Error(`run: ${rc}`)
      const outcome = new Uint8Array(16)
      kernel.lookup(map, new Uint8Array(4), outcome)
      const [ranOn = -1, sent = 0, failed = 0, error = 0] = new Int32Array(outcome.buffer)
      return { cpu: ranOn, sent, failed, error }
    }
  }
}
