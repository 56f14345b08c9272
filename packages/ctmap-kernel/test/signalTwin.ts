/** The program that sends signals, and its twin. */
import { MapSpec } from "ctmap-core"
import { Bpf, type BpfMemory } from "ctmap-kernel"
import * as SignalSender from "ctmap-testing/SignalSender"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** Loads the program over an open array. */
export const sender = (
  signals: number
): Effect.Effect<(message: SignalSender.Message) => SignalSender.Outcome, never, Bpf.Bpf | Scope.Scope> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.acquireRelease(
      Effect.sync(() => SignalSender.make(bpf, signals)),
      ({ close }) => Effect.sync(close)
    )
  ).pipe(Effect.map(({ send }) => send))

const twin: BpfMemory.ObjectTwin = {
  maps: { outcome: { type: MapSpec.mapType.array, keySize: 4, valueSize: 16, maxEntries: 1, flags: 0x400 } },
  programs: {
    send_signals: ({ cpu }, context, { signals, outcome }) => {
      const words = new Uint32Array(context.buffer, context.byteOffset, 8)
      const [first = 0, second = 0, size = 0, , count = 0, , numbered = 0] = words
      const message = Uint8Array.from({ length: 64 }, (_, i) => (i % 8) + 1)
      const view = new DataView(message.buffer)
      view.setUint32(0, first, true)
      const told = [cpu, 0, 0, 0]
      for (let i = 0; i < Math.min(count, SignalSender.MOST); i++) {
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

/** For `BpfMemory.Options`. */
export const objects = { [SignalSender.NAME]: twin }
