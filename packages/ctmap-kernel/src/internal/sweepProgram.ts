/**
 * Loading the programs of `bpf/sweep.bpf.c` and `bpf/walk.bpf.c`: which maps stand for which, and what it means where one
 * cannot be loaded.
 */
import { type Family, NatEntry, Tuple } from "ctmap-core"
import * as Effect from "effect/Effect"
import type * as Bpf from "../Bpf.ts"
import { BpfError, fromErrno } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
import { loadProgram, type Program } from "./loadProgram.ts"
import { objectFile } from "./objectFile.ts"
import * as StillOpen from "./stillOpen.ts"
import { CT_VALUE } from "./sweepLayout.ts"

/** The object that the programs are in, by the name of its twin. Those that walk are in a file of their own. */
export const OBJECT = "sweep"
const fileOf = { sweep: OBJECT, nat_clean: OBJECT, walk: "walk" } as const

const EINVAL = 22
const EOPNOTSUPP = 95
const HASH = 1
const FEATURES = {
  sweep: "programs of type syscall that walk a map (Linux 5.14)",
  nat_clean: "programs of type syscall (Linux 5.14)",
  walk: "programs that read the elements of a map by themselves (Linux 6.2, with BTF of its own)"
} as const

export const failure = (operation: BpfError["operation"], errno: number, { name }: Table, feature?: string): BpfError =>
  fromErrno({ operation, errno, map: name, feature })

/** What a program works on. */
export interface Target {
  readonly ct: Table
  readonly nat: Table | undefined
  readonly family: Family.Family
}

/** Why the sizes of the maps are not those of their family. */
export const refusal = ({ ct, nat, family }: Target): BpfError | undefined => {
  const keySize = Tuple.shape(family).size
  if (ct.keySize !== keySize || ct.valueSize !== CT_VALUE) return failure("load program", EINVAL, ct)
  if (nat !== undefined && (nat.keySize !== keySize || nat.valueSize !== NatEntry.shape(family).size))
    return failure("load program", EINVAL, nat)
  return undefined
}

/** That a program is not for this map. */
export const unsupported = (program: keyof typeof FEATURES, ct: Table): BpfError =>
  failure("load program", EOPNOTSUPP, ct, FEATURES[program])

/** Loads a program. What is shared has to stay open meanwhile, and nothing may interrupt it. */
export const load = (
  kernel: Bpf.Calls,
  { ct, nat, family }: Target,
  program: keyof typeof fileOf,
  shared: Readonly<Record<string, number>>,
  idle: Uint8Array
): Effect.Effect<Program, BpfError> =>
  Effect.suspend(() => {
    const elf = objectFile(fileOf[program])
    if (elf instanceof BpfError) return Effect.fail(elf)
    for (const table of nat === undefined ? [ct] : [ct, nat]) {
      const gone = StillOpen.check(kernel, table)
      if (gone !== 0) return Effect.fail(failure("load program", gone, table))
    }
    // A program names the map whether it will use it or not.
    const placeholder = nat === undefined ? noNat(kernel, family) : undefined
    if (placeholder !== undefined && placeholder < 0) return Effect.fail(failure("map create", -placeholder, ct))
    const spec = {
      object: OBJECT,
      name: `${program}${family === "ipv4" ? 4 : 6}`,
      elf,
      reuse: { ...shared, table: ct.fd, nat: nat?.fd ?? placeholder ?? -1 }
    }
    return Effect.ensuring(
      loadProgram(kernel, spec, idle, (operation, errno) => failure(operation, errno, ct, FEATURES[program])),
      Effect.sync(() => placeholder === undefined || kernel.close(placeholder))
    )
  })

const noNat = (kernel: Bpf.Calls, family: Family.Family): number =>
  kernel.mapCreate(
    {
      type: HASH,
      keySize: Tuple.shape(family).size,
      valueSize: NatEntry.shape(family).size,
      maxEntries: 1,
      flags: 0
    },
    "ctmap_no_nat"
  )
