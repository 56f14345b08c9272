/**
 * Measures subjects side by side: every round runs each of them once, so that a busy machine slows all alike.
 *
 * The result of a subject is the median of its rounds. Nothing is asserted about time: numbers are for reading.
 */
import { hrtime } from "node:process"

export interface Subject {
  readonly name: string
  /** How many entries one run handles. */
  readonly entries: number
  /** Does the work once. Returns something that depends on all of it, so that none of it can be left out. */
  readonly run: () => number
}

export interface Measured {
  readonly name: string
  /** Median of the rounds. */
  readonly nsPerEntry: number
  /** Fastest and slowest round. */
  readonly spread: readonly [fastest: number, slowest: number]
  /** What the last run returned. */
  readonly checksum: number
}

export interface Plan {
  /** Default 9, at least 5. */
  readonly rounds?: number
  /** Milliseconds for which each subject runs before, so that it is compiled as well as it will be. Default 600. */
  readonly warmup?: number
}

/** Runs the subjects in turn, round after round. */
export const measure = (
  subjects: ReadonlyArray<Subject>,
  { rounds = 9, warmup = 600 }: Plan = {}
): ReadonlyArray<Measured> => {
  const times = subjects.map((): Array<number> => [])
  const checksums = subjects.map(() => 0)
  for (const subject of subjects) {
    for (const start = performance.now(); performance.now() - start < warmup;) subject.run()
  }
  for (let round = 0; round < Math.max(rounds, 5); round++) {
    subjects.forEach((subject, i) => {
      const start = hrtime.bigint()
      checksums[i] = subject.run()
      times[i]?.push(Number(hrtime.bigint() - start) / subject.entries)
    })
  }
  return subjects.map(({ name }, i) => {
    const sorted = (times[i] ?? []).toSorted((a, b) => a - b)
    return {
      name,
      nsPerEntry: median(sorted),
      spread: [sorted[0] ?? Number.NaN, sorted.at(-1) ?? Number.NaN],
      checksum: checksums[i] ?? Number.NaN
    }
  })
}

/** A table of results; `× loop` is the ratio to the first of them. */
export const table = (title: string, results: ReadonlyArray<Measured>): string => {
  const base = results[0]?.nsPerEntry ?? Number.NaN
  const rows = results.map(({ name, nsPerEntry, spread }) => [
    name,
    nsPerEntry.toFixed(1),
    `${spread[0].toFixed(1)}..${spread[1].toFixed(1)}`,
    `${(1e3 / nsPerEntry).toFixed(2)} M`,
    (nsPerEntry / base).toFixed(2)
  ])
  return markdown([title, "ns/entry", "fastest..slowest", "entries/s", "× loop"], rows)
}

/** A Markdown table, aligned so that it can be read as it is: the first column to the left, the others to the right. */
export const markdown = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = head.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]?.length ?? 0)))
  const line = (row: ReadonlyArray<string>) =>
    `| ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(" | ")} |`
  const rule = `|${widths.map((width, i) => (i === 0 ? "-".repeat(width + 2) : `${"-".repeat(width + 1)}:`)).join("|")}|`
  return [line(head), rule, ...rows.map(line)].join("\n")
}

/** Where the numbers come from, in one line. */
export const machine = (): string =>
  `node ${process.version} (V8 ${process.versions.v8}), ${process.platform} ${process.arch}`

/** Of numbers in ascending order. */
export const median = (sorted: ReadonlyArray<number>): number => {
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}
