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
      // The first turn after this is what the next one is measured from.
      yield* Effect.sleep(5)
      Object.assign(calls, noCalls())
      const measured = yield* work
      yield* Effect.sleep(10)
      loop.disable()
      const sample: Sample = {
        ...measured,
        longestStall: loop.max,
        peak: peakMemory(),
        ...(calls.longest === 0 ? {} : { longestCall: calls.longest * 1e6, longestByClock: calls.byClock * 1e6 }),
        ...(calls.walk === 0 ? {} : { longestWalk: calls.walk }),
        ...(calls.loading === 0 ? {} : { longestLoad: calls.loading * 1e6 })
      }
      console.log(JSON.stringify(sample))
    }
  })

/** The high-water mark of this process; what `getrusage` says may be that of its parent. */
const peakMemory = (): number =>
  1024 * Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1])

export interface Calls {
  /** Milliseconds of CPU of the call that works through many entries and takes the most: see {@link timed}. */
  longest: number
  /** The longest of these calls by the clock: with what others did on its CPU, this machine's host included. */
  byClock: number
  /** Nanoseconds of the longest run of a walk by the clock of the kernel, which it reads itself at its begin and end. */
  walk: number
  /** Milliseconds of CPU of the longest load of a program, in which the verifier lets others run. */
  loading: number
}

/** `struct sweep` of `sweep.h`, whose last word is how long a walk took. */
const SWEEP_CONTEXT = 88
const TOOK = 84

/** Nothing was called yet. */
export const noCalls = (): Calls => ({ longest: 0, byClock: 0, walk: 0, loading: 0 })

/**
 * Milliseconds of CPU that this thread has used. They are up to date only right after those of the process were asked
 * for.
 */
const cpuTime = (): number => {
  process.cpuUsage()
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1e3
}

/** Milliseconds of CPU that all threads of this process have used. */
const cpuOfAll = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e3
}

/**
 * The same kernel, with a clock on what works through many entries: how long a call holds a CPU, and how long it takes. For
 * calls on another thread, that is the CPU that the whole process uses until this thread hears of them: this one waits, so
 * it is what the call used, and a little more.
 */
export const timed = (bpf: Bpf.Calls, calls: Calls): Bpf.Calls => {
  const note = (kind: "longest" | "loading", cpu: number, clock: number): void => {
    calls[kind] = Math.max(calls[kind], Math.min(cpu, clock))
    if (kind === "longest") calls.byClock = Math.max(calls.byClock, clock)
  }
  const timing = <A>(kind: "longest" | "loading", call: () => A): A => {
    const [cpu, clock] = [cpuTime(), performance.now()]
    const answer = call()
    note(kind, cpuTime() - cpu, performance.now() - clock)
    return answer
  }
  const elsewhere = <A>(kind: "longest" | "loading", done: (answer: A) => void): ((answer: A) => void) => {
    const [cpu, clock] = [cpuOfAll(), performance.now()]
    return (answer) => {
      note(kind, cpuOfAll() - cpu, performance.now() - clock)
      done(answer)
    }
  }
  return {
    ...bpf,
    lookupBatch: (...args) => timing("longest", () => bpf.lookupBatch(...args)),
    deleteBatch: (...args) => timing("longest", () => bpf.deleteBatch(...args)),
    runProgram: (...args) => timing("longest", () => bpf.runProgram(...args)),
    runProgramAsync: (fd, context, done) => {
      const heard = elsewhere("longest", done)
      bpf.runProgramAsync(fd, context, (rc) => {
        if (context.byteLength === SWEEP_CONTEXT) {
          calls.walk = Math.max(calls.walk, new DataView(context.buffer, context.byteOffset).getUint32(TOOK, true))
        }
        heard(rc)
      })
    },
    loadObject: (spec) => timing("loading", () => bpf.loadObject(spec)),
    loadObjectAsync: (spec, done) => bpf.loadObjectAsync(spec, elsewhere("loading", done))
  }
}
