/** The command line of the benchmarks that fill real maps, and the end of their processes. */
import { constants } from "node:os"
import { parseArgs } from "node:util"
import { Privileged } from "ctmap-testing"

const SIZES = "65536,524288,4194304"

export interface Options {
  /** Numbers of entries. */
  readonly sizes: ReadonlyArray<number>
  readonly rounds: number
  /** Set in a worker: which of its kinds, and the pin of the map. */
  readonly worker: string | undefined
  readonly pin: string
  /** The folder that files are written to. */
  readonly to: string | undefined
  /** Names of the subjects to measure; none for all. */
  readonly only: ReadonlyArray<string>
}

export const options = ({ takesOnly = false } = {}): Options => {
  const { values } = parseArgs({
    options: {
      sizes: { type: "string", default: SIZES },
      rounds: { type: "string", default: "7" },
      worker: { type: "string" },
      entries: { type: "string" },
      pin: { type: "string", default: "" },
      to: { type: "string" },
      only: { type: "string", multiple: true, default: [] }
    }
  })
  const sizes = (values.entries ?? values.sizes).split(",").map((size) => Number(size.replaceAll("_", "")))
  const rounds = Number(values.rounds)
  if (!sizes.every((size) => Number.isInteger(size) && size > 0))
    throw new Error(`--sizes ${values.sizes}: say ${SIZES}`)
  if (!Number.isInteger(rounds) || rounds < 5) throw new Error(`--rounds ${values.rounds}: at least 5`)
  if (values.only.length > 0 && !takesOnly) throw new Error("--only: this benchmark measures all its subjects")
  return { sizes, rounds, worker: values.worker, pin: values.pin, to: values.to, only: values.only }
}

/** Ends the process where it is of no use; makes an ordinary end of an interrupted one, so that mounts and files go. */
export const guard = (): void => {
  const why = Privileged.obstacle()
  if (why !== undefined) {
    console.error(`This benchmark makes BPF maps, and cannot here: ${why}`)
    process.exit(1)
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => process.exit(128 + constants.signals[signal]))
  }
}

/** What a round costs in a table of four million is seconds: fewer do. */
export const roundsFor = (rounds: number, size: number): number => (size > 1_000_000 ? 5 : rounds)
