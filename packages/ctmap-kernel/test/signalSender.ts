/** Plays a datapath that sends signals: the program of `bpf/signal_test.bpf.c`, and its twin. */
import { readFileSync } from "node:fs"
import { MapSpec } from "ctmap-core"
import { Bpf, type BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** What one run came to. */
export interface Outcome {
  readonly cpu: number
  readonly sent: number
  readonly failed: number
  /** What the last that failed was told. */
  readonly error: number
}

/** What to send. */
export interface Message {
  readonly cpu: number
  /** The first two words. Default: a CT fill-up of IPv6. */
  readonly words?: readonly [number, number]
  /** Bytes. Default 8. */
  readonly size?: number
  /** How often, at most 1024 in one run. Default 1. */
  readonly count?: number
  /** The second word of each message is its number in the run. */
  readonly numbered?: boolean
}

export type Send = (message: Message) => Outcome

/** A run sends at most so many. */
export const MOST = 1024

const ELF = new URL("../bpf/signal_test.bpf.o", import.meta.url)

/** Loads the program over an open array. */
export const sender = (signals: number): Effect.Effect<Send, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const object = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const spec = { name: "signal_test", elf: readFileSync(ELF), programs: ["send_signals"], reuse: { signals } }
        const loaded = bpf.loadObject(spec)
        if ("errno" in loaded) throw new Error(`load: ${loaded.errno}: ${loaded.log}`)
        return loaded
      }),
      (loaded) => Effect.sync(() => loaded.close())
    )
    return ({ cpu, words = [1, 1], size = 8, count = 1, numbered = false }) => {
      const context = new Uint8Array(32)
      new Uint32Array(context.buffer).set([...words, size, 0, count, 0, numbered ? 1 : 0])
      const rc = bpf.runProgram(object.programs["send_signals"]!, context, cpu)
      if (rc < 0) throw new Error(`run: ${rc}`)
      const outcome = new Uint8Array(16)
      bpf.lookup(object.maps["outcome"]!, new Uint8Array(4), outcome)
      const [ranOn, sent, failed, error] = new Int32Array(outcome.buffer)
      return { cpu: ranOn!, sent: sent!, failed: failed!, error: error! }
    }
  })

/** The program for the twin. */
export const twin: BpfMemory.ObjectTwin = {
  maps: { outcome: { type: MapSpec.mapType.array, keySize: 4, valueSize: 16, maxEntries: 1, flags: 0x400 } },
  programs: {
    send_signals: ({ cpu }, context, { signals, outcome }) => {
      const words = new Uint32Array(context.buffer, context.byteOffset, 8)
      const [first = 0, second = 0, size = 0, , count = 0, , numbered = 0] = words
      const message = Uint8Array.from({ length: 64 }, (_, i) => (i % 8) + 1)
      const view = new DataView(message.buffer)
      view.setUint32(0, first, true)
      const told = [cpu, 0, 0, 0]
      for (let i = 0; i < Math.min(count, MOST); i++) {
        view.setUint32(4, numbered === 0 ? second : i, true)
        const rc = signals!.output(cpu, message.subarray(0, size))
        told[rc === 0 ? 1 : 2]! += 1
        if (rc !== 0) told[3] = rc
      }
      outcome!.lookup(new Uint8Array(4))!.set(new Uint8Array(Int32Array.from(told).buffer))
      return 0
    }
  }
}
