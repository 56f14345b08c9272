/**
 * A process of its own for each way of ctmap's, which lives through all rounds: compiled code stays compiled, as in a
 * program that runs for long, and the peak of its memory is its own.
 */
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { monitorEventLoopDelay } from "node:perf_hooks"
import process from "node:process"
import { createInterface } from "node:readline"
import type * as Bpf from "ctmap-kernel/Bpf"
import * as Effect from "effect/Effect"
import type { Sample } from "./rounds.ts"

/** Milliseconds for which a worker runs before it is measured. */
const WARMUP = 600

export interface Worker<S extends Sample> {
  /** Has the worker do its work once. */
  readonly run: () => Promise<S>
}

/** Starts a program of the benchmark with these arguments, until the end of the scope. Resolves once it is warm. */
export const start = <S extends Sample = Sample>(program: string, args: ReadonlyArray<string>) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const child = spawn(process.execPath, [...process.execArgv, program, ...args], {
          stdio: ["pipe", "pipe", "inherit"]
        })
        const end = (): void => void child.kill()
        process.once("exit", end)
        child.once("exit", () => process.off("exit", end))
        const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
        const next = async (): Promise<string> => {
          const { value, done } = await lines.next()
          if (done === true) throw new Error(`the worker ${args.join(" ")} ended, for the reason above`)
          return value
        }
        await next()
        return { child, next }
      }),
      ({ child }) =>
        Effect.promise(async () => {
          child.stdin.end()
          if (child.exitCode === null) await new Promise((resolve) => child.once("exit", resolve))
        })
    ),
    ({ child, next }): Worker<S> => ({
      run: async () => {
        child.stdin.write("run\n")
        return JSON.parse(await next())
      }
    })
  )

/**
 * The other side: does the work whenever it is told to, and says what it took; `work` times itself. Work that cannot be
 * done twice has something else to warm up with.
 */
export const serve = <A extends Pick<Sample, "entries" | "nanoseconds">, E, R>(
  work: Effect.Effect<A, E, R>,
  calls: Calls,
  warmUp: Effect.Effect<unknown, E, R> = work
) =>
  Effect.gen(function* () {
    const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
    for (const begin = performance.now(); performance.now() - begin < WARMUP;) yield* warmUp
    console.log("ready")
    const loop = monitorEventLoopDelay({ resolution: 1 })
    while ((yield* Effect.promise(() => lines.next())).done !== true) {
      loop.enable()
      yield* Effect.sleep(10)
      loop.reset()
      calls.longest = 0
      calls.loading = 0
      const measured = yield* work
      yield* Effect.sleep(10)
      loop.disable()
      const sample: Sample = {
        ...measured,
        longestStall: loop.max,
        peak: peakMemory(),
        ...(calls.longest === 0 ? {} : { longestCall: calls.longest * 1e6 }),
        ...(calls.loading === 0 ? {} : { longestLoad: calls.loading * 1e6 })
      }
      console.log(JSON.stringify(sample))
    }
  })

/** The high-water mark of this process; what `getrusage` says may be that of its parent. */
const peakMemory = (): number =>
  1024 * Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1])

export interface Calls {
  /** Milliseconds of the longest call that works through many entries. */
  longest: number
  /** Milliseconds of the longest load of a program, in which the verifier lets others run. */
  loading: number
}

/** Nothing was called yet. */
export const noCalls = (): Calls => ({ longest: 0, loading: 0 })

/** The same kernel, with a clock on what works through many entries. */
export const timed = (bpf: Bpf.Calls, calls: Calls): Bpf.Calls => {
  const timing = (begin: number, rc: number): number => {
    calls.longest = Math.max(calls.longest, performance.now() - begin)
    return rc
  }
  return {
    ...bpf,
    lookupBatch: (fd, cursor, next, keys, values, count) =>
      timing(performance.now(), bpf.lookupBatch(fd, cursor, next, keys, values, count)),
    deleteBatch: (fd, keys, count) => timing(performance.now(), bpf.deleteBatch(fd, keys, count)),
    runProgram: (fd, context, cpu) => timing(performance.now(), bpf.runProgram(fd, context, cpu)),
    // On another thread, and up to the moment this one hears of it.
    runProgramAsync: (fd, context, done) => {
      const begin = performance.now()
      bpf.runProgramAsync(fd, context, (rc) => done(timing(begin, rc)))
    },
    readAsync: (fd, into, done) => {
      const begin = performance.now()
      bpf.readAsync(fd, into, (bytes) => done(timing(begin, bytes)))
    },
    loadObject: (spec) => {
      const begin = performance.now()
      const loaded = bpf.loadObject(spec)
      calls.loading = Math.max(calls.loading, performance.now() - begin)
      return loaded
    }
  }
}
