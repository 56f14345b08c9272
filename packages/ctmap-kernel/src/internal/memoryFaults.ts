/**
 * What tests do to the calls of the in-memory kernel: fail them, count them, step in between two of them.
 *
 * Owns no kernel state. A call that nobody watches costs one increment and one comparison more.
 */
import type * as Bpf from "../Bpf.ts"
import { ENOENT, ENOSPC } from "./memoryErrno.ts"

/** A method of {@link Bpf.Calls}. */
export type Call = keyof Bpf.Calls

/** Hears of a call; `result` is there after it. */
export type Hook = (call: Call, args: ReadonlyArray<unknown>, result?: unknown) => void

/** Calls that can fail. */
export type Fallible = Exclude<Call, "monotonic" | "isBpfFs">

interface Fault {
  readonly call: Fallible | "any"
  readonly errno: number
  /** Every nth call from now on; a fault without it ends by itself. */
  readonly every: number | undefined
  skip: number
  times: number
}

/** Watches and spoils calls. */
export class Faults {
  readonly #counts = new Map<Call, number>()
  readonly #before = new Set<Hook>()
  readonly #after = new Set<Hook>()
  #faults: Array<Fault> = []
  #isWatched = false
  /** Hooks do not hear of the calls of hooks. */
  #isInHook = false

  /** Fails the next `times` calls, after `skip` that succeed. */
  failNext(call: Fallible | "any", errno: number, { times = 1, skip = 0 } = {}): void {
    this.#faults.push({ call, errno, every: undefined, skip, times })
    this.#update()
  }

  /** Fails every `n`th call. */
  failEvery(n: number, call: Fallible | "any", errno: number): void {
    this.#faults.push({ call, errno, every: n, skip: n - 1, times: Number.POSITIVE_INFINITY })
    this.#update()
  }

  /** Forgets all faults that are left. */
  clear(): void {
    this.#faults = []
    this.#update()
  }

  /** Runs `hook` around every call until what it returns is called. */
  onCall(hook: Hook, when: "before" | "after" = "before"): () => void {
    const hooks = when === "before" ? this.#before : this.#after
    hooks.add(hook)
    this.#update()
    return () => {
      hooks.delete(hook)
      this.#update()
    }
  }

  /** How often a method was called, or all of them. */
  count(call?: Call): number {
    if (call !== undefined) return this.#counts.get(call) ?? 0
    let all = 0
    for (const count of this.#counts.values()) all += count
    return all
  }

  /** The same calls, watched. */
  around(calls: Bpf.Calls): Bpf.Calls {
    const names = Object.keys(calls) as Array<Call>
    const wrapped = names.map((name) => [name, this.#wrap(name, calls[name])] as const)
    return Object.fromEntries(wrapped) as unknown as Bpf.Calls
  }

  #wrap(name: Call, call: Bpf.Calls[Call]): unknown {
    const run = call as (...args: ReadonlyArray<unknown>) => unknown
    return (...args: ReadonlyArray<unknown>): unknown => {
      if (this.#isInHook) return run(...args)
      this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1)
      if (!this.#isWatched) return run(...args)
      this.#tell(this.#before, name, args)
      const errno = this.#faultOf(name)
      // Linux closes an fd whatever close(2) answers.
      const result = errno === undefined || name === "close" ? run(...args) : failed(name, errno, args)
      this.#tell(this.#after, name, args, result)
      return name === "close" && errno !== undefined ? -errno : result
    }
  }

  #tell(hooks: ReadonlySet<Hook>, ...call: Parameters<Hook>): void {
    this.#isInHook = true
    try {
      for (const hook of hooks) hook(...call)
    } finally {
      this.#isInHook = false
    }
  }

  /** The errno that this call is to fail with. Every fault counts down, the first that is due decides. */
  #faultOf(name: Call): number | undefined {
    if (name === "monotonic" || name === "isBpfFs") return undefined
    let errno: number | undefined
    for (const fault of this.#faults) {
      if (fault.call !== "any" && fault.call !== name) continue
      if (fault.skip > 0) fault.skip -= 1
      else if (errno === undefined) {
        errno = fault.errno
        fault.times -= 1
        if (fault.every !== undefined) fault.skip = fault.every - 1
      }
    }
    this.#faults = this.#faults.filter(({ times }) => times > 0)
    this.#update()
    return errno
  }

  #update(): void {
    this.#isWatched = this.#faults.length + this.#before.size + this.#after.size > 0
  }
}

const refused = (errno: number) => ({ errno, log: "the twin was told to fail" })

/** What a failing call leaves behind: batches say how many went where the kernel would, and none did. */
const failed = (name: Call, errno: number, args: ReadonlyArray<unknown>): unknown => {
  if (name.endsWith("Async")) {
    const done = args.at(-1) as (answer: unknown) => void
    return void setImmediate(() => done(name === "loadObjectAsync" ? refused(errno) : -errno))
  }
  if (name === "loadObject") return refused(errno)
  const count = args.at(-1)
  if (name.endsWith("Batch") && count instanceof Uint32Array && (errno === ENOENT || errno === ENOSPC)) count[0] = 0
  if (name === "lookupBatch" && errno === ENOSPC) {
    const [, cursor, nextCursor] = args
    if (nextCursor instanceof Uint8Array && cursor !== nextCursor) {
      if (cursor instanceof Uint8Array) nextCursor.set(cursor)
      else nextCursor.fill(0)
    }
  }
  return -errno
}
