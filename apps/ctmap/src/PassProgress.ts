/**
 * A bar on the terminal that says how far a long pass is; nothing where nobody looks.
 *
 * @since 0.1.0
 */
import * as TableEstimate from "ctmap-gc/TableEstimate"
import type { Bpf } from "ctmap-kernel/Bpf"
import type { BpfMap } from "ctmap-kernel/BpfMap"
import * as Effect from "effect/Effect"
import { Output } from "./Output.ts"
import { EVERY_MS, QUIET_MS } from "./Progress.ts"

/** Hears how many entries of a map have been seen. */
type Hear = (map: string, seen: number) => void

/**
 * Runs a pass over some maps, with a bar for each that is wiped at the end. How many entries there are to see is sampled
 * before, in milliseconds; where that cannot be done, what the map has room for is said.
 *
 * @since 0.1.0
 */
export const during = <A, E, R>(
  maps: ReadonlyArray<BpfMap>,
  pass: (hear: Hear | undefined) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R | Output | Bpf> =>
  Effect.gen(function* () {
    const { progress, terminals } = yield* Output
    if (!terminals.stderr) return yield* pass(undefined)
    const began = performance.now()
    const expected = new Map<string, string | number>()
    for (const map of maps) expected.set(map.name, yield* expectedOf(map))
    let due = began + QUIET_MS
    let shown = false
    const hear: Hear = (map, seen) => {
      if (performance.now() < due) return
      due = performance.now() + EVERY_MS
      shown = true
      Effect.runFork(progress(line(map, seen, expected.get(map) ?? "")))
    }
    return yield* Effect.ensuring(
      pass(hear),
      Effect.suspend(() => (shown ? progress("") : Effect.void))
    )
  })

/** Entries to see, or in words what is known. */
const expectedOf = (map: BpfMap): Effect.Effect<string | number, never, Bpf> =>
  Effect.gen(function* () {
    const { maxEntries } = map.info
    const room = `, room for ${maxEntries.toLocaleString("en")}`
    // Counting it would take as long as the pass.
    if (maxEntries >= TableEstimate.COUNTED_BELOW && (yield* TableEstimate.obstacle) !== undefined) return room
    const estimated = Effect.map(TableEstimate.estimate(map), ({ entries }) => entries)
    return yield* Effect.orElseSucceed(estimated, () => room)
  })

const WIDTH = 14

/**
 * `cilium_ct4_global [#######.......]  50 %  262,144 of 524,288`; without a number to go by, as it is. Never wider
 * than 80 columns, and never at its end before the pass is.
 *
 * @since 0.1.0
 */
export const line = (map: string, seen: number, expected: string | number): string => {
  const count = seen.toLocaleString("en")
  if (typeof expected === "string") return `${map} ${count} entries${expected}`
  const share = Math.min(0.99, seen / Math.max(1, expected))
  const full = Math.floor(share * WIDTH)
  const bar = "#".repeat(full) + ".".repeat(WIDTH - full)
  const percent = `${Math.floor(share * 100)}`.padStart(3)
  return `${map} [${bar}] ${percent} %  ${count} of ${Math.max(seen, expected).toLocaleString("en")}`
}
