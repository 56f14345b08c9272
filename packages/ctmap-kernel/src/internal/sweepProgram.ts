/**
 * Loading the programs of `bpf/sweep.bpf.c` and `bpf/walk.bpf.c`: which maps stand for which, and what it means where one
 * cannot be loaded.
 */
import { type Family, NatEntry, Tuple } from "ctmap-core"
import * as Effect from "effect/Effect"
import type * as Bpf from "../Bpf.ts"
import { BpfError, fromErrno } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
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

export interface Loaded {
  readonly fd: number
  readonly close: () => void
}

/** That a program is not for this map. */
export const unsupported = (program: keyof typeof FEATURES, ct: Table): BpfError =>
  failure("load program", EOPNOTSUPP, ct, FEATURES[program])

/** What is asked of the kernel for a program, and what is to be closed when it has answered. */
interface Asked {
  readonly name: string
  readonly spec: Bpf.ObjectSpec
  readonly answered: () => void
}

const ask = (
  kernel: Bpf.Calls,
  { ct, nat, family }: Target,
  program: keyof typeof fileOf,
  shared: Readonly<Record<string, number>>
): Asked | BpfError => {
  const elf = objectFile(fileOf[program])
  if (elf instanceof BpfError) return elf
  for (const table of nat === undefined ? [ct] : [ct, nat]) {
    const gone = StillOpen.check(kernel, table)
    if (gone !== 0) return failure("load program", gone, table)
  }
  // A program names the map whether it will use it or not.
  const placeholder = nat === undefined ? noNat(kernel, family) : undefined
  if (placeholder !== undefined && placeholder < 0) return failure("map create", -placeholder, ct)
  const name = `${program}${family === "ipv4" ? 4 : 6}`
  const reuse = { ...shared, table: ct.fd, nat: nat?.fd ?? placeholder ?? -1 }
  return {
    name,
    spec: { name: OBJECT, elf, programs: [name], reuse },
    answered: () => {
      if (placeholder !== undefined) kernel.close(placeholder)
    }
  }
}

/** Runs a program that was loaded over nothing: whether it can be run is only known then. */
const tryOut = (
  kernel: Bpf.Calls,
  { ct }: Target,
  program: keyof typeof fileOf,
  name: string,
  loaded: ReturnType<Bpf.Calls["loadObject"]>,
  idle: Uint8Array
): Loaded | BpfError => {
  if ("errno" in loaded) return failure("load program", loaded.errno, ct, FEATURES[program])
  const fd = loaded.programs[name] ?? -1
  const rc = fd < 0 ? -EINVAL : kernel.runProgram(fd, idle)
  if (rc >= 0) return { fd, close: loaded.close }
  loaded.close()
  return failure("run program", -rc, ct, FEATURES[program])
}

/** Loads a program. */
export const load = (
  kernel: Bpf.Calls,
  target: Target,
  program: keyof typeof fileOf,
  shared: Readonly<Record<string, number>>,
  idle: Uint8Array
): Loaded | BpfError => {
  const asked = ask(kernel, target, program, shared)
  if (asked instanceof BpfError) return asked
  const loaded = kernel.loadObject(asked.spec)
  asked.answered()
  return tryOut(kernel, target, program, asked.name, loaded, idle)
}

/** The same on another thread. What is shared has to stay open meanwhile. */
export const loadElsewhere = (
  kernel: Bpf.Calls,
  target: Target,
  program: keyof typeof fileOf,
  shared: Readonly<Record<string, number>>,
  idle: Uint8Array
): Effect.Effect<Loaded, BpfError> =>
  Effect.callback<Loaded, BpfError>((resume) => {
    const answer = (it: Loaded | BpfError): void =>
      resume(it instanceof BpfError ? Effect.fail(it) : Effect.succeed(it))
    const asked = ask(kernel, target, program, shared)
    if (asked instanceof BpfError) return answer(asked)
    kernel.loadObjectAsync(asked.spec, (loaded) => {
      asked.answered()
      answer(tryOut(kernel, target, program, asked.name, loaded, idle))
    })
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
