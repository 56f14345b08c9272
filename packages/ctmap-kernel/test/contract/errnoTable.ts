/** Which errno a situation has and what it is called: the fixture of the contract and of the tests of `BpfError`. */
import { MapSpec } from "ctmap-core"
import type { BpfError } from "ctmap-kernel"
import { type Bench, RDONLY, spec, u32, u32s } from "./bench.ts"

/** A directory that exists everywhere and is on no bpffs. */
export const NOT_BPFFS = "/tmp"
/** An fd that nobody has. */
export const BAD_FD = 999_999

export interface Row {
  readonly operation: BpfError.Operation
  readonly situation: string
  readonly errno: number
  readonly reason: BpfError.Reason["_tag"]
  /** The map is an array. */
  readonly isArray?: boolean
  /** What the caller needed of the kernel. */
  readonly feature?: string
  readonly retryable?: boolean
  readonly provoke: (bench: Bench) => number
}

const { mapType } = MapSpec
const value = u32(1)
const lru = { type: mapType.lruHash }
const array = { type: mapType.array }

const outer = (bench: Bench): number => bench.map({ type: mapType.arrayOfMaps }, { inner: bench.map(lru) })

const full = (bench: Bench): number => {
  const fd = bench.map()
  bench.fill(fd, 4)
  return fd
}

const withEntry = (bench: Bench): number => {
  const fd = bench.map()
  bench.fill(fd, 1)
  return fd
}

const created = (changes: Partial<MapSpec.Properties>) => (bench: Bench) =>
  bench.bpf.mapCreate(spec(changes), "refused")

/** A map whose pin of the name `there` exists. */
const pinned = (bench: Bench): number => {
  const fd = bench.map()
  bench.bpf.pin(fd, bench.path("there"))
  return fd
}

const sizes = {
  "no key": { keySize: 0 },
  "no value": { valueSize: 0 },
  "no entries": { maxEntries: 0 },
  "flags that are none": { flags: 0x4000_0000 },
  "LRU lists per CPU in a plain hash": { flags: MapSpec.NO_COMMON_LRU },
  "an array with keys of 8 bytes": { ...array, keySize: 8 },
  "an array without preallocation": { ...array, flags: MapSpec.NO_PREALLOC },
  "an outer map without a template": { type: mapType.arrayOfMaps },
  "an outer hash without a template": { type: mapType.hashOfMaps },
  "a perf event array with values of 8 bytes": { type: mapType.perfEventArray, valueSize: 8 }
}

const creation: ReadonlyArray<Row> = [
  ...Object.entries(sizes).map(([situation, changes]): Row => ({
    operation: "map create",
    situation,
    errno: 22,
    reason: "InvalidArgument",
    provoke: created(changes)
  })),
  {
    operation: "map create",
    situation: "an unknown type, where the caller knows which",
    errno: 22,
    reason: "FeatureUnsupported",
    feature: "maps of type 999",
    provoke: created({ type: 999 })
  },
  {
    operation: "map create",
    situation: "an LRU hash without preallocation",
    errno: 524,
    reason: "FeatureUnsupported",
    provoke: created({ ...lru, flags: MapSpec.NO_PREALLOC })
  },
  {
    operation: "map create",
    situation: "an outer map in an outer map",
    errno: 22,
    reason: "InvalidArgument",
    provoke: (bench) => bench.bpf.mapCreate(spec({ type: mapType.arrayOfMaps }), "refused", outer(bench))
  },
  {
    operation: "map create",
    situation: "values too large for an element",
    errno: 7,
    reason: "InvalidArgument",
    provoke: created({ valueSize: 5 << 20 })
  },
  {
    operation: "map create",
    situation: "a name with a character that names cannot have",
    errno: 22,
    reason: "InvalidArgument",
    provoke: (bench) => bench.bpf.mapCreate(spec(), "a-b")
  }
]

const elements: ReadonlyArray<Row> = [
  ...[{}, lru].flatMap((type): ReadonlyArray<Row> => {
    const kind = "type" in type ? "an LRU hash" : "a hash"
    return [
      {
        operation: "lookup",
        situation: `an absent key of ${kind}`,
        errno: 2,
        reason: "KeyNotExist",
        provoke: (bench) => bench.bpf.lookup(bench.map(type), u32(1), u32(0))
      },
      {
        operation: "delete",
        situation: `an absent key of ${kind}`,
        errno: 2,
        reason: "KeyNotExist",
        provoke: (bench) => bench.bpf.delete(bench.map(type), u32(1))
      },
      {
        operation: "next key",
        situation: `${kind} that is empty`,
        errno: 2,
        reason: "KeyNotExist",
        provoke: (bench) => bench.bpf.nextKey(bench.map(type), null, u32(0))
      },
      {
        operation: "update",
        situation: `EXIST of an absent key of ${kind}`,
        errno: 2,
        reason: "KeyNotExist",
        provoke: (bench) => bench.bpf.update(bench.map(type), u32(1), value, 2)
      },
      {
        operation: "update",
        situation: `flags that are none, in ${kind}`,
        errno: 22,
        reason: "InvalidArgument",
        provoke: (bench) => bench.bpf.update(bench.map(type), u32(1), value, 8)
      }
    ]
  }),
  {
    operation: "update",
    situation: "NOEXIST of a key that is there",
    errno: 17,
    reason: "KeyExist",
    provoke: (bench) => bench.bpf.update(withEntry(bench), u32(0), value, 1)
  },
  {
    operation: "update",
    situation: "a full hash",
    errno: 7,
    reason: "MapFull",
    provoke: (bench) => bench.bpf.update(full(bench), u32(77), value, 0)
  },
  {
    operation: "update batch",
    situation: "a full hash",
    errno: 7,
    reason: "MapFull",
    provoke: (bench) => bench.bpf.updateBatch(full(bench), u32s(1, 77), u32s(1, 1), Uint32Array.of(2))
  },
  {
    operation: "delete batch",
    situation: "an absent key",
    errno: 2,
    reason: "KeyNotExist",
    provoke: (bench) => bench.bpf.deleteBatch(withEntry(bench), u32s(0, 77), Uint32Array.of(2))
  },
  {
    operation: "update",
    situation: "a map that is open for reading only",
    errno: 1,
    reason: "NotPermitted",
    provoke: (bench) => bench.bpf.update(bench.map({ flags: RDONLY }), u32(1), value, 0)
  },
  {
    operation: "lookup batch",
    situation: "less room than a bucket needs",
    errno: 28,
    reason: "BatchTooSmall",
    retryable: true,
    provoke: (bench) => {
      const fd = bench.map({ maxEntries: 4096 })
      bench.fill(fd, 4096)
      let read = bench.batch(fd, null, 1)
      while (read.rc === 0) read = bench.batch(fd, read.cursor, 1)
      return read.rc
    }
  }
]

const arrays: ReadonlyArray<Row> = [
  {
    operation: "lookup",
    situation: "an index beyond an array",
    errno: 2,
    reason: "KeyNotExist",
    isArray: true,
    provoke: (bench) => bench.bpf.lookup(bench.map(array), u32(4), u32(0))
  },
  {
    operation: "update",
    situation: "an index beyond an array",
    errno: 7,
    reason: "IndexOutOfRange",
    isArray: true,
    provoke: (bench) => bench.bpf.update(bench.map(array), u32(4), value, 0)
  },
  {
    operation: "update",
    situation: "NOEXIST in an array",
    errno: 17,
    reason: "KeyExist",
    isArray: true,
    provoke: (bench) => bench.bpf.update(bench.map(array), u32(0), value, 1)
  },
  {
    operation: "delete",
    situation: "an element of an array",
    errno: 22,
    reason: "InvalidArgument",
    isArray: true,
    provoke: (bench) => bench.bpf.delete(bench.map(array), u32(0))
  },
  {
    operation: "delete batch",
    situation: "elements of an array",
    errno: 524,
    reason: "FeatureUnsupported",
    isArray: true,
    provoke: (bench) => bench.bpf.deleteBatch(bench.map(array), u32(0), Uint32Array.of(1))
  },
  {
    operation: "lookup",
    situation: "an empty slot of an array of maps",
    errno: 2,
    reason: "KeyNotExist",
    isArray: true,
    provoke: (bench) => bench.bpf.lookup(outer(bench), u32(0), u32(0))
  },
  {
    operation: "delete",
    situation: "an empty slot of an array of maps",
    errno: 2,
    reason: "KeyNotExist",
    isArray: true,
    provoke: (bench) => bench.bpf.delete(outer(bench), u32(0))
  },
  {
    operation: "delete",
    situation: "a slot beyond an array of maps",
    errno: 7,
    reason: "IndexOutOfRange",
    isArray: true,
    provoke: (bench) => bench.bpf.delete(outer(bench), u32(4))
  },
  {
    operation: "update",
    situation: "a slot beyond an array of maps",
    errno: 7,
    reason: "IndexOutOfRange",
    isArray: true,
    provoke: (bench) => bench.bpf.update(outer(bench), u32(4), u32(bench.map(lru)), 0)
  },
  {
    operation: "update",
    situation: "an inner map with keys of another size",
    errno: 22,
    reason: "InvalidArgument",
    isArray: true,
    provoke: (bench) => bench.bpf.update(outer(bench), u32(0), u32(bench.map({ ...lru, keySize: 8 })), 0)
  },
  {
    operation: "update",
    situation: "NOEXIST in an array of maps",
    errno: 22,
    reason: "InvalidArgument",
    isArray: true,
    provoke: (bench) => bench.bpf.update(outer(bench), u32(0), u32(bench.map(lru)), 1)
  },
  {
    operation: "lookup",
    situation: "a perf event array",
    errno: 524,
    reason: "FeatureUnsupported",
    isArray: true,
    provoke: (bench) => bench.bpf.lookup(bench.map({ type: mapType.perfEventArray }), u32(0), u32(0))
  },
  {
    operation: "delete",
    situation: "an empty slot of a perf event array",
    errno: 2,
    reason: "KeyNotExist",
    isArray: true,
    provoke: (bench) => bench.bpf.delete(bench.map({ type: mapType.perfEventArray }), u32(0))
  },
  {
    operation: "map memory",
    situation: "an array that is not mmapable",
    errno: 22,
    reason: "InvalidArgument",
    isArray: true,
    provoke: (bench) => Number(bench.bpf.mapMemory(bench.map(array), 4096))
  },
  {
    operation: "map memory",
    situation: "a hash",
    errno: 524,
    reason: "FeatureUnsupported",
    provoke: (bench) => Number(bench.bpf.mapMemory(bench.map(), 4096))
  }
]

const pins: ReadonlyArray<Row> = [
  {
    operation: "open pin",
    situation: "no such pin",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.openPin(bench.path("none"))
  },
  {
    operation: "open pin",
    situation: "a directory",
    errno: 13,
    reason: "NotPermitted",
    provoke: (bench) => bench.bpf.openPin(bench.directory)
  },
  {
    operation: "open pin",
    situation: "a path through a pin",
    errno: 20,
    reason: "OtherErrno",
    provoke: (bench) => bench.bpf.openPin(`${(pinned(bench), bench.path("there"))}/below`)
  },
  {
    operation: "pin",
    situation: "a pin that exists",
    errno: 17,
    reason: "PinExists",
    provoke: (bench) => bench.bpf.pin(pinned(bench), bench.path("there"))
  },
  {
    operation: "pin",
    situation: "a directory that does not exist",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.pin(bench.map(), bench.path("none/pin"))
  },
  {
    operation: "pin",
    situation: "a path that is not on a bpffs",
    errno: 1,
    reason: "NotPermitted",
    provoke: (bench) => bench.bpf.pin(bench.map(), `${NOT_BPFFS}/ctmap-contract-never-there`)
  },
  {
    operation: "pin",
    situation: "a name with a dot, which a bpffs keeps for itself",
    errno: 1,
    reason: "NotPermitted",
    provoke: (bench) => bench.bpf.pin(bench.map(), bench.path("a.b"))
  },
  {
    operation: "make directory",
    situation: "where a pin is",
    errno: 17,
    reason: "PinExists",
    provoke: (bench) => bench.bpf.makeDirectory((pinned(bench), bench.path("there")))
  },
  {
    operation: "list pins",
    situation: "no such directory",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => Number(bench.bpf.listDirectory(bench.path("none")))
  },
  {
    operation: "unpin",
    situation: "no such pin",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.unpin(bench.path("none"))
  },
  {
    operation: "unpin",
    situation: "a directory with pins in it",
    errno: 39,
    reason: "OtherErrno",
    provoke: (bench) => bench.bpf.unpin((pinned(bench), bench.directory))
  },
  {
    operation: "change mode",
    situation: "no such pin",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.chmod(bench.path("none"), 0o600)
  },
  {
    operation: "change owner",
    situation: "no such pin",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.chown(bench.path("none"), 0, 0)
  },
  {
    operation: "lock directory",
    situation: "no such directory",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.lockDirectory(bench.path("none"))
  },
  {
    operation: "lock directory",
    situation: "a pin",
    errno: 20,
    reason: "OtherErrno",
    provoke: (bench) => bench.bpf.lockDirectory((pinned(bench), bench.path("there")))
  },
  {
    operation: "lock directory",
    situation: "a directory that is locked",
    errno: 11,
    reason: "Busy",
    retryable: true,
    provoke: (bench) => (bench.own(bench.bpf.lockDirectory(bench.directory)), bench.bpf.lockDirectory(bench.directory))
  },
  {
    operation: "pin",
    situation: "a lock",
    errno: 22,
    reason: "InvalidArgument",
    provoke: (bench) => bench.bpf.pin(bench.own(bench.bpf.lockDirectory(bench.directory)), bench.path("lock"))
  },
  {
    operation: "map info",
    situation: "a program",
    errno: 22,
    reason: "NotAMap",
    provoke: (bench) => Number(bench.bpf.mapInfo(bench.program()))
  },
  {
    operation: "rename pin",
    situation: "no such pin",
    errno: 2,
    reason: "PinNotFound",
    provoke: (bench) => bench.bpf.renamePin(bench.path("none"), bench.path("other"))
  },
  {
    operation: "rename pin",
    situation: "to another file system",
    errno: 18,
    reason: "OtherErrno",
    provoke: (bench) =>
      bench.bpf.renamePin((pinned(bench), bench.path("there")), `${NOT_BPFFS}/ctmap-contract-never-there`)
  }
]

/** An fd that is none is a defect of the caller: it keeps its number. Two commands have words of their own for it. */
const badFds: ReadonlyArray<Row> = [
  badFd("lookup", ({ bpf }) => bpf.lookup(BAD_FD, u32(0), u32(0))),
  badFd("update", ({ bpf }) => bpf.update(BAD_FD, u32(0), u32(0), 0)),
  badFd("delete", ({ bpf }) => bpf.delete(BAD_FD, u32(0))),
  badFd("next key", ({ bpf }) => bpf.nextKey(BAD_FD, null, u32(0))),
  badFd("lookup batch", ({ bpf }) => bpf.lookupBatch(BAD_FD, null, u32(0), u32(0), u32(0), Uint32Array.of(1))),
  badFd("update batch", ({ bpf }) => bpf.updateBatch(BAD_FD, u32(0), u32(0), Uint32Array.of(1))),
  badFd("delete batch", ({ bpf }) => bpf.deleteBatch(BAD_FD, u32(0), Uint32Array.of(1))),
  badFd("map create", ({ bpf }) => bpf.mapCreate(spec({ type: mapType.arrayOfMaps }), "refused", BAD_FD)),
  badFd("update", (bench) => bench.bpf.update(outer(bench), u32(0), u32(BAD_FD), 0), "as an inner map"),
  badFd(
    "update",
    (bench) => bench.bpf.update(bench.map({ type: mapType.perfEventArray }), u32(0), u32(BAD_FD), 0),
    "as a perf event"
  ),
  badFd("run program", ({ bpf }) => bpf.runProgram(BAD_FD, new Uint8Array(0))),
  badFd("map memory", ({ bpf }) => Number(bpf.mapMemory(BAD_FD, 4096))),
  { ...badFd("map info", ({ bpf }) => Number(bpf.mapInfo(BAD_FD))), errno: 77 },
  {
    ...badFd("pin", (bench) => bench.bpf.pin(BAD_FD, bench.path("pin"))),
    errno: 22,
    reason: "InvalidArgument"
  },
  {
    ...badFd("run program", (bench) => bench.bpf.runProgram(bench.map(), new Uint8Array(0)), "of a map"),
    errno: 22,
    reason: "InvalidArgument"
  }
]

function badFd(operation: BpfError.Operation, provoke: Row["provoke"], what = "that nobody has"): Row {
  return { operation, situation: `an fd ${what}`, errno: 9, reason: "OtherErrno", provoke }
}

/** Every situation, with the errno that Linux 6.18 answers. */
export const errnoTable: ReadonlyArray<Row> = [...creation, ...elements, ...arrays, ...pins, ...badFds]
