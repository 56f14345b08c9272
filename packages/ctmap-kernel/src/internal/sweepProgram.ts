/**
 * Loading the programs of `bpf/sweep.bpf.c`: which maps stand for which, and what it means where one cannot be loaded.
 */
import { type Family, NatEntry, Tuple } from "ctmap-core"
import type * as Bpf from "../Bpf.ts"
import { BpfError, fromErrno } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
import { objectFile } from "./objectFile.ts"
import { CT_VALUE } from "./sweepLayout.ts"

/** The object that the programs are in. */
export const OBJECT = "sweep"

const EINVAL = 22
const HASH = 1
const FEATURE = "programs of type syscall that walk a map (Linux 5.14)"

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

/** Loads a program, and runs it over nothing: whether it can be run is only known then. */
export const load = (
  kernel: Bpf.Calls,
  target: Target,
  program: "sweep" | "nat_clean",
  shared: Readonly<Record<string, number>>,
  idle: Uint8Array
): Loaded | BpfError => {
  const elf = objectFile(OBJECT)
  if (elf instanceof BpfError) return elf
  const { ct, nat, family } = target
  // A program names the map whether it will use it or not.
  const placeholder = nat === undefined ? noNat(kernel, family) : undefined
  if (placeholder !== undefined && placeholder < 0) return failure("map create", -placeholder, ct)
  const name = `${program}${family === "ipv4" ? 4 : 6}`
  const reuse = { ...shared, table: ct.fd, nat: nat?.fd ?? placeholder ?? -1 }
  const loaded = kernel.loadObject({ name: OBJECT, elf, programs: [name], reuse })
  if (placeholder !== undefined) kernel.close(placeholder)
  if ("errno" in loaded) return failure("load program", loaded.errno, ct, FEATURE)
  const fd = loaded.programs[name] ?? -1
  const rc = fd < 0 ? -EINVAL : kernel.runProgram(fd, idle)
  if (rc >= 0) return { fd, close: loaded.close }
  loaded.close()
  return failure("run program", -rc, ct, FEATURE)
}

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
