/** Text of whole maps: batches come in, are written line by line into one buffer, and leave as copies of it when full. */
import type { Rows } from "ctmap-core"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import type * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import type { BpfMap } from "../BpfMap.ts"
import * as RowScan from "../RowScan.ts"
import type * as Scan from "../Scan.ts"

/** Puts the rows of a batch into a buffer. */
export interface BatchWriter {
  /** Points the writer at a batch and returns how many rows there are to write. */
  readonly bind: (rows: Rows.Rows) => number
  /** Writes rows from `from` on into the buffer at `at` until either ends; returns the row to go on with. */
  readonly fill: (into: Uint8Array, from: number, at: number) => number
  /** Where `fill` stopped in the buffer. */
  readonly end: () => number
}

/** Bytes that leave at once. */
const BUFFER = 256 * 1024

/**
 * The text of a map. What was written before an error leaves before the error does. `make` runs once per run of the
 * stream, before the map is read.
 */
export const textStream = <E, R>(
  map: BpfMap,
  make: Effect.Effect<BatchWriter, E, R>,
  options: RowScan.Options = {}
): Stream.Stream<Uint8Array<ArrayBuffer>, BpfError | Scan.Incomplete | E, Bpf.Bpf | R> =>
  Stream.unwrap(
    Effect.map(make, (writer) =>
      Stream.transformPull(RowScan.stream(map, options), (batches) =>
        Effect.sync(() => {
          type End = Exit.Exit<never, BpfError | Scan.Incomplete | Cause.Done>
          const buffer = new Uint8Array(BUFFER)
          let used = 0
          let row = 0
          let rows = 0
          let ended: End | undefined
          const emit = (): Effect.Effect<readonly [Uint8Array<ArrayBuffer>]> => {
            const chunk = buffer.slice(0, used)
            used = 0
            return Effect.succeed([chunk])
          }
          const pull: Effect.Effect<readonly [Uint8Array<ArrayBuffer>], BpfError | Scan.Incomplete | Cause.Done> =
            Effect.suspend(() => {
              if (row < rows) {
                row = writer.fill(buffer, row, used)
                used = writer.end()
                if (row < rows) return emit()
              }
              if (ended !== undefined) return used > 0 ? emit() : ended
              return Effect.flatMap(Effect.exit(batches), (exit) => {
                if (Exit.isFailure(exit)) ended = Exit.failCause(exit.cause)
                else [row, rows] = [0, writer.bind(exit.value[0])]
                return pull
              })
            })
          return pull
        })
      )
    )
  )
