/**
 * Plays a datapath that refreshes entries of a CT map: looks each up, and writes its lifetime in place.
 *
 * Owns the program of `bpf/refresh_test.bpf.c` and the layout of the list that it works through.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import type { Loaded } from "./SignalSender.ts"

/**
 * What is needed of a kernel: a part of `Bpf.Calls`.
 *
 * @since 0.1.0
 */
export interface Kernel {
  readonly loadObject: (spec: {
    readonly name: string
    readonly elf: Uint8Array
    readonly programs: ReadonlyArray<string>
    readonly reuse: Readonly<Record<string, number>>
  }) => Loaded | { readonly errno: number; readonly log: string }
  readonly runProgram: (fd: number, context: Uint8Array) => number
}

/** The properties of a list: a mmapable array. @since 0.1.0 */
export const list = { type: 2, keySize: 4, valueSize: 48, maxEntries: 1024, flags: 1024 } as const

/**
 * Of a slot of the list, in bytes: the key, the lifetime to write (u32), and whether the entry was there (u32).
 *
 * @since 0.1.0
 */
export const slot = { size: list.valueSize, key: 0, lifetime: 40, hit: 44 } as const

/**
 * A refresher of the open map `table` by the open list; to be closed.
 *
 * @since 0.1.0
 */
export const make = (
  kernel: Kernel,
  maps: { readonly table: number; readonly list: number }
): { readonly refresh: (count: number) => void; readonly close: () => void } => {
  const elf = readFileSync(new URL("../bpf/refresh_test.bpf.o", import.meta.url))
  const object = kernel.loadObject({ name: "refresh_test", elf, programs: ["refresh"], reuse: { ...maps } })
  if ("errno" in object) throw new Error(`load: ${object.errno}: ${object.log}`)
  const program = object.programs["refresh"]
  if (program === undefined) throw new Error("the object lacks its program")
  const context = new Uint32Array(1)
  const bytes = new Uint8Array(context.buffer)
  return {
    close: object.close,
    refresh: (count) => {
      context[0] = count
      const rc = kernel.runProgram(program, bytes)
      if (rc < 0) throw new Error(`run: ${rc}`)
    }
  }
}
