/**
 * The gate of tests that need the kernel: they run as root, are skipped with a reason elsewhere, and fail rather than
 * be skipped where `CTMAP_PRIVILEGED=1` asks for them.
 *
 * Owns the decision. Asks the kernel itself (a bpffs is mounted and unmounted), not version numbers.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import * as TempBpfFs from "./TempBpfFs.ts"

/**
 * vitest's `describe`, as far as it is needed.
 *
 * @since 0.1.0
 */
export interface Describe {
  (name: string, define: () => void): unknown
  readonly skip: (name: string, define: () => void) => unknown
}

/**
 * Why privileged tests cannot run here, or `undefined` where they can.
 *
 * @since 0.1.0
 */
export const obstacle = (): string | undefined => {
  asked ??= { why: find() }
  return asked.why
}

/** The obstacle that whoever started this can take away. @since 0.1.0 */
export const NOT_ROOT = "not root"

/** The answer is the same for the whole process. */
let asked: { readonly why: string | undefined } | undefined

/**
 * Whether the tests must run: `CTMAP_PRIVILEGED=1`.
 *
 * @since 0.1.0
 */
export const isDemanded = (): boolean => process.env["CTMAP_PRIVILEGED"] === "1"

/**
 * A suite that needs the kernel.
 *
 * **Details**
 *
 * `define` is called either way, to name the tests that were skipped: it may touch nothing but its own variables; what
 * needs privilege belongs in `beforeAll`. Errors: throws where the tests are demanded and cannot run.
 *
 * @since 0.1.0
 */
export const suite = (describe: Describe, name: string, define: () => void): void => {
  const why = obstacle()
  if (why === undefined) describe(name, define)
  else if (isDemanded()) {
    throw new Error(`CTMAP_PRIVILEGED=1 asks for "${name}", which cannot run: ${why}`)
  } else {
    const how = why === NOT_ROOT ? " (run the tests as root, or set CTMAP_PRIVILEGED=1 to make this a failure)" : ""
    process.stderr.write(`skipped: ${name}: ${why}${how}\n`)
    describe.skip(name, define)
  }
}

const find = (): string | undefined => {
  if (process.platform !== "linux") return `this is ${process.platform}, and eBPF is a part of Linux`
  if (process.geteuid?.() !== 0) return NOT_ROOT
  if (!hasCapability(CAP_SYS_ADMIN)) return "root without CAP_SYS_ADMIN, as in a container: maps cannot be made"
  const trial = TempBpfFs.make()
  try {
    trial.start()
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  } finally {
    trial.stop()
  }
}

const CAP_SYS_ADMIN = 21n

const hasCapability = (number: bigint): boolean => {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1]
  return effective !== undefined && ((BigInt(`0x${effective}`) >> number) & 1n) === 1n
}
