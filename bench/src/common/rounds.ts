/**
 * Measures whole scans side by side, where some subjects are other processes: every round runs each of them once, every
 * second round in the opposite order, so that a busy machine slows all alike.
 *
 * Ratios are taken within a round and the median of them is reported: what changes from round to round cancels out.
 */
import { loadavg } from "node:os"
import * as Effect from "effect/Effect"
import { markdown, median } from "./measure.ts"

export interface Sample {
  readonly entries: number
  readonly nanoseconds: number
  /** Nanoseconds of CPU that all threads of the process have used. */
  readonly cpu?: number
  /** Nanoseconds of CPU of the longest single call into the kernel. */
  readonly longestCall?: number
  /** Nanoseconds of the longest one by the clock. */
  readonly longestByClock?: number
  /** Nanoseconds of the longest walk of a table, by the clock of the kernel, which it reads itself. */
  readonly longestWalk?: number
  /** Nanoseconds of the longest load of a program. */
  readonly longestLoad?: number
  /** Nanoseconds for which the event loop stood still at the longest. */
  readonly longestStall?: number
  /** Bytes of memory that the process had at most. */
  readonly peak?: number
}

export interface Subject {
  readonly name: string
  /** Take part in so many of the rounds only. Default: in all. */
  readonly rounds?: number
  readonly run: () => Promise<Sample> | Sample
}

export interface Result {
  readonly name: string
  /** One a round, from the first on. */
  readonly samples: ReadonlyArray<Sample>
}

/** Runs the subjects, at least once each. A subject that gives another number of entries is an error. */
export const interleave = Effect.fnUntraced(function* (
  subjects: ReadonlyArray<Subject>,
  { rounds, entries }: { readonly rounds: number; readonly entries: number }
) {
  const results = subjects.map(({ name }) => ({ name, samples: Array.from<Sample>([]) }))
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? subjects.keys() : subjects.keys().toArray().toReversed()
    for (const i of order) {
      const { name, run, rounds: only = rounds } = subjects[i]!
      if (round >= only) continue
      const sample = yield* Effect.promise(async () => run())
      if (sample.entries !== entries) throw new Error(`${name} saw ${sample.entries} of ${entries} entries`)
      results[i]!.samples.push(sample)
    }
  }
  return results satisfies ReadonlyArray<Result>
})

/** Times an entry of a result, in the order of the rounds. */
const perEntry = ({ samples }: Result): ReadonlyArray<number> =>
  samples.map(({ nanoseconds, entries }) => nanoseconds / entries)

/** The median of the CPU time an entry, where it was measured. */
const cpuPerEntry = ({ samples }: Result): string => {
  const times = samples.flatMap(({ cpu, entries }) => (cpu === undefined ? [] : [cpu / entries]))
  return times.length === 0 ? "" : medianOf(times).toFixed(0)
}

const medianOf = (numbers: ReadonlyArray<number>): number => median(numbers.toSorted((a, b) => a - b))

/** How much longer a result took than another one in the same rounds. */
export const ratio = (result: Result, to: Result): number => {
  const base = perEntry(to)
  return medianOf(perEntry(result).map((time, round) => time / (base[round] ?? Number.NaN)))
}

/** The same for the fastest rounds of both: what is left of it on a busy machine. */
export const fastestRatio = (result: Result, to: Result): number =>
  Math.min(...perEntry(result)) / Math.min(...perEntry(to))

export const find = (results: ReadonlyArray<Result>, name: string): Result | undefined =>
  results.find((result) => result.name === name)

/** The largest of what was measured, or nothing where it was not. */
export const largest = (
  { samples }: Result,
  field: "longestCall" | "longestByClock" | "longestWalk" | "longestLoad" | "longestStall" | "peak"
): number | undefined => {
  const measured = samples.flatMap((sample) => sample[field] ?? [])
  return measured.length === 0 ? undefined : Math.max(...measured)
}

/** The least of what was measured: of a round in which nobody else was in the way. */
export const least = (
  { samples }: Result,
  field: "longestCall" | "longestByClock" | "longestWalk" | "longestStall"
): number => Math.min(...samples.map((sample) => sample[field] ?? Number.NaN))

/** Bytes of memory that the processes of a result had at most. */
export const peak = (result: Result): number | undefined => largest(result, "peak")

const milliseconds = (nanoseconds: number | undefined): string =>
  nanoseconds === undefined ? "" : (nanoseconds / 1e6).toFixed(2)

export const megabytes = (bytes: number | undefined): string =>
  bytes === undefined ? "" : (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)

/** A table of results with the ratio to one of them. Columns in which nothing was measured are left out. */
export const table = (title: string, results: ReadonlyArray<Result>, base: Result): string => {
  const rows = results.map((result) => {
    const times = perEntry(result).toSorted((a, b) => a - b)
    const middle = median(times)
    return [
      result.name,
      middle.toFixed(0),
      times.length < 2 ? "" : `${times[0]?.toFixed(0)}..${times.at(-1)?.toFixed(0)}`,
      cpuPerEntry(result),
      `${(1e3 / middle).toFixed(2)} M`,
      ratio(result, base).toFixed(2),
      milliseconds(largest(result, "longestCall")),
      milliseconds(largest(result, "longestByClock")),
      milliseconds(largest(result, "longestWalk")),
      milliseconds(largest(result, "longestLoad")),
      milliseconds(largest(result, "longestStall")),
      megabytes(peak(result))
    ]
  })
  const head = [
    title,
    "ns/entry",
    "fastest..slowest",
    "CPU, ns/entry",
    "entries/s",
    `× ${base.name}`,
    "longest call, ms of CPU",
    "by the clock",
    "of walks, by their own",
    "loading, ms",
    "loop stall, ms",
    "peak, MB"
  ]
  const shown = head.map((_, i) => i === 0 || rows.some((row) => row[i] !== ""))
  const visible = (row: ReadonlyArray<string>) => row.filter((_, i) => shown[i])
  return markdown(visible(head), rows.map(visible))
}

/** A line about a target: benchmarks state it, and whether it is met, and do not fail. */
export const target = (
  what: string,
  limit: { readonly atMost: number } | { readonly atLeast: number },
  is: number
): string => {
  const [relation, wanted, met] =
    "atMost" in limit ? ["≤", limit.atMost, is <= limit.atMost] : ["≥", limit.atLeast, is >= limit.atLeast]
  return `- ${what}: ${is.toFixed(2)}, target ${relation} ${wanted}: ${met ? "met" : "NOT met"}`
}

/** What else the machine was doing. */
export const load = (): string => `load average ${loadavg()[0]?.toFixed(1)}`
