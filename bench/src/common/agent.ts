/** A real agent in a process of its own, and what can be seen of it from outside. */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { request } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import type { Readable } from "node:stream"
import { fileURLToPath } from "node:url"
import { GcPass } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const source = here("../../../apps/ctmap-agent/src/bin.ts")
const bundle = here("../../../apps/ctmap-agent/dist/ctmap-agent.js")

/** What the process says of itself each second: see `src/inside/loop.ts`. Times are hundredths of a millisecond. */
interface Report {
  readonly startedAtMillis: number
  readonly gaps: ReadonlyArray<number>
  readonly waits: ReadonlyArray<readonly [at: number, hundredths: number]>
  readonly rss: number
  readonly heapUsed: number
  readonly external: number
  readonly arrayBuffers: number
  /** What was used right after the garbage had been taken away, where it was. */
  readonly live?: number
}

/** What `/proc` says of the process, at a time. */
interface Sample {
  readonly atMillis: number
  readonly fds: number
  /** Milliseconds of CPU so far. */
  readonly cpuMillis: number
}

/** A line of the log. */
interface Line {
  readonly level: string
  /** More than one word is a list. */
  readonly message: string | ReadonlyArray<unknown>
}

/** What is known of a process so far; grows while it runs. */
export interface Watched {
  readonly child: ChildProcess
  readonly passes: Array<GcPass.GcPass>
  readonly reports: Array<Report>
  readonly samples: Array<Sample>
  /** Lines of the log above `INFO`, and whatever else it wrote. */
  readonly complaints: Array<string>
  /** How often it said that it has read its settings again. */
  readonly counts: { reloads: number; asked: number }
  /** Where its API listens. */
  readonly socket: string
  /** Code or signal, once it has ended. */
  readonly ended: Promise<number | NodeJS.Signals>
}

export interface Options {
  readonly root: string
  readonly flags: ReadonlyArray<string>
  /** `source`: as it is in the working tree. `bundle`: as `npm run build` has made it. */
  readonly program: "source" | "bundle"
  /** How often its garbage is taken away. */
  readonly gcSeconds: number
}

/** Starts an agent that logs every pass; it is gone when the scope closes. */
export const start = (options: Options): Effect.Effect<Watched, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => launch(options)),
    ({ child, ended }) =>
      Effect.promise(async () => {
        child.kill("SIGKILL")
        await ended
      })
  )

const launch = ({ flags, gcSeconds, program, root }: Options): Watched => {
  if (program === "bundle" && !existsSync(bundle)) throw new Error(`${bundle} is not there: npm run build makes it`)
  const [conditions, file] = program === "source" ? [["--conditions=ctmap-source"], source] : [[], bundle]
  const socket = join(tmpdir(), `ctmap-soak-${process.pid}.sock`)
  const log = ["--log-format", "json", "--log-level", "debug", "--api-socket", socket]
  const args = [...conditions, "--import", here("../inside/loop.ts"), file, "--bpffs-root", root, ...log, ...flags]
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CTMAP_")))
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", "inherit", "pipe", "pipe"],
    env: { ...env, SOAK_GC_SECONDS: `${gcSeconds}` }
  })
  const kill = (): void => void child.kill("SIGKILL")
  process.once("exit", kill)
  const watched: Watched = {
    child,
    passes: [],
    reports: [],
    samples: [],
    complaints: [],
    counts: { reloads: 0, asked: 0 },
    socket,
    ended: new Promise((resolve) => {
      // Not before its last line has been read.
      child.once("close", (code, signal) => {
        process.off("exit", kill)
        resolve(code ?? signal ?? -1)
      })
    })
  }
  createInterface(child.stderr!).on("line", (line) => hear(watched, line))
  createInterface(child.stdio[3] as Readable).on("line", (line) => void watched.reports.push(JSON.parse(line)))
  return watched
}

const isPass = Schema.is(GcPass.GcPass)

const hear = (watched: Watched, text: string): void => {
  const line = parse(text)
  if (line === undefined || !["TRACE", "DEBUG", "INFO"].includes(line.level)) watched.complaints.push(text)
  else if (typeof line.message !== "string") watched.passes.push(...line.message.filter(isPass))
  else if (line.message.startsWith("settings were read again")) watched.counts.reloads++
}

const parse = (text: string): Line | undefined => {
  try {
    return JSON.parse(text) as Line
  } catch {
    return undefined
  }
}

/** What the API answers to a question: its text. */
const get = ({ counts, socket }: Watched, path: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const asked = request({ socketPath: socket, path }, (response) => {
      let body = ""
      response.setEncoding("utf8")
      response.on("data", (part: string) => void (body += part))
      response.on("error", reject)
      response.on("end", () => {
        if (response.statusCode !== 200) return reject(new Error(`${path}: ${response.statusCode}: ${body}`))
        counts.asked++
        resolve(body)
      })
    })
    asked.on("error", reject)
    asked.end()
  })

/** Asks what a monitoring asks. What goes wrong is a complaint. */
export const scrape = async (watched: Watched): Promise<void> => {
  try {
    await Promise.all(["/metrics", "/v1/status", "/v1/health"].map((path) => get(watched, path)))
  } catch (error) {
    watched.complaints.push(String(error))
  }
}

/** Entries that the agent's own counters say were deleted. */
export const deletedByMetrics = async (watched: Watched): Promise<number> => {
  const lines = (await get(watched, "/metrics")).split("\n").filter((line) => line.startsWith("ctmap_gc_deleted_total"))
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0)
}

/** Ticks of a second in `/proc/PID/stat`, on every Linux that Node runs on. */
const TICKS = 100

/** Adds a sample; nothing where the process has gone. */
export const look = ({ child, samples }: Watched): void => {
  try {
    const fds = readdirSync(`/proc/${child.pid}/fd`).length
    const stat = readFileSync(`/proc/${child.pid}/stat`, "latin1")
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    const cpuMillis = ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS
    samples.push({ atMillis: Date.now(), fds, cpuMillis })
  } catch {
    // Gone.
  }
}

/** For how long the event loop did not turn, one number for each turn, in milliseconds. */
export interface Delays {
  /** By the clock, in passes. */
  readonly passing: ReadonlyArray<number>
  /** The same without the time for which another thread had the CPU. */
  readonly passingOwn: ReadonlyArray<number>
  readonly restingOwn: ReadonlyArray<number>
}

/** The turns of the event loop from the first pass on, those that a pass overlaps apart from others; ascending. */
export const delays = ({ passes, reports }: Pick<Watched, "passes" | "reports">): Delays => {
  const spans = passes
    .map(({ startedAtMillis, millis }) => [startedAtMillis, startedAtMillis + millis] as const)
    .toSorted(([a], [b]) => a - b)
  const [passing, passingOwn, restingOwn]: [Array<number>, Array<number>, Array<number>] = [[], [], []]
  let span = 0
  for (const { startedAtMillis, gaps, waits } of reports) {
    const waitOf = new Map(waits)
    let at = startedAtMillis
    for (const [i, gap] of gaps.entries()) {
      const [begin, end, own] = [at, at + gap / 100, Math.max(0, gap - (waitOf.get(i) ?? 0)) / 100]
      at = end
      // Spans of two families can overlap: one that ends later than the next is rare, and costs a turn or two.
      while (span < spans.length && spans[span]![1] < begin) span++
      const isPassing = span < spans.length && spans[span]![0] <= end
      if (isPassing) {
        passing.push(gap / 100)
        passingOwn.push(own)
      } else if (span > 0) restingOwn.push(own)
    }
  }
  const ascending = (numbers: Array<number>) => numbers.toSorted((a, b) => a - b)
  return { passing: ascending(passing), passingOwn: ascending(passingOwn), restingOwn: ascending(restingOwn) }
}

/** Of numbers in ascending order. */
export const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
