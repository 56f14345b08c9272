/**
 * An open map: its fd for the life of a scope, what the kernel says of it, and single-entry operations with typed errors.
 *
 * Owns opening, creating and pinning. A map is opened by path, never by kernel id (that needs CAP_SYS_ADMIN) and never
 * by kernel name (that is cut to 15 bytes). Scans of whole maps are {@link Scan}'s.
 *
 * @since 0.1.0
 */
import { MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import { BpfError, type Failure, fromErrno, NotBpfFs } from "./BpfError.ts"

/**
 * An open map. Valid until the scope that opened it closes; using it afterwards is a defect of the caller, and dies.
 *
 * @since 0.1.0
 */
export interface BpfMap {
  /** File name of the pin, or the name it was created with: what people know the map by. */
  readonly name: string
  /** The pin, where there is one. */
  readonly path: string | undefined
  readonly info: Bpf.MapInfo
  /** The fd. Throws once the scope has closed. */
  readonly fd: number
}

/**
 * Opens what is pinned at a path.
 *
 * **Details**
 *
 * A pin that this user may read but not write opens for reading: changing the map then fails with `NotPermitted`.
 * Errors: `PinNotFound`, `NotPermitted`, and `NotAMap` for a pinned program or link. Ownership: the fd is closed
 * with the scope; the pin stays. Kernel: Linux >= 4.4; read access to the pin and search access to its directories.
 *
 * @since 0.1.0
 */
export const open = (path: string): Effect.Effect<BpfMap, BpfError, Bpf.Bpf | Scope.Scope> =>
  acquire({ operation: "open pin", path, name: baseName(path) }, (bpf) => {
    const fd = bpf.openPin(path)
    return fd === EACCES ? bpf.openPin(path, Bpf.READ_ONLY) : fd
  })

const EACCES = -13

/**
 * Creates a map without a pin.
 *
 * **Details**
 *
 * Errors: `InvalidArgument`, `OutOfMemory`, `NotPermitted`, `FeatureUnsupported`. Kernel: CAP_BPF; LRU hashes since 4.10.
 * An outer map's inner map is created from its spec, used as the template and dropped again.
 *
 * @since 0.1.0
 */
export const create = (spec: MapSpec.MapSpec, name: string): Effect.Effect<BpfMap, BpfError, Bpf.Bpf | Scope.Scope> =>
  acquire({ operation: "map create", name }, (bpf) => createFd(bpf, spec, name))

/**
 * Creates a map and pins it; parent directories are made. Errors: as {@link create}, `PinExists`, `NotBpfFs`.
 *
 * @since 0.1.0
 */
export const createPinned = (
  spec: MapSpec.MapSpec,
  path: string
): Effect.Effect<BpfMap, BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.tap(
    acquire({ operation: "map create", path, name: baseName(path) }, (bpf) => createFd(bpf, spec, baseName(path))),
    (map) => pin(map, path)
  )

/**
 * What {@link openOrCreate} did.
 *
 * @since 0.1.0
 */
export interface Opened {
  readonly map: BpfMap
  /** The pin named a map of other properties; its contents are gone with it. Empty where it was the map that is wanted. */
  readonly replaced: ReadonlyArray<MapSpec.Difference>
  readonly created: boolean
}

/**
 * Opens the pinned map if it is the one that is wanted, else makes it.
 *
 * **Details**
 *
 * A map that differs in type, sizes, entries or flags is unpinned and made anew: its entries are lost, as with Cilium;
 * `replaced` says in what it differed. Programs that hold the old map go on using it. To keep the entries, migrate.
 *
 * @since 0.1.0
 */
export const openOrCreate: (
  spec: MapSpec.MapSpec,
  path: string
) => Effect.Effect<Opened, BpfError, Bpf.Bpf | Scope.Scope> = Effect.fnUntraced(function* (
  spec: MapSpec.MapSpec,
  path: string
) {
  const found = yield* open(path).pipe(
    Effect.map((map) => Option.some(map)),
    // Only an absent pin is a reason to create one: anything else must not be papered over.
    Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(Option.none<BpfMap>()))
  )
  if (Option.isNone(found)) return { map: yield* createPinned(spec, path), replaced: [], created: true }
  const replaced = MapSpec.differences(spec, found.value.info)
  if (replaced.length === 0) return { map: found.value, replaced, created: false }
  // Made and pinned beside the old one before that goes: a failure leaves the old map where it was.
  const map = yield* create(spec, baseName(path))
  yield* replacePin(map, path)
  return { map: named(map, path), replaced, created: true }
})

/**
 * Pins a map over what is pinned at a path, in one step: a reader finds the old map or the new one, never none.
 *
 * **Details**
 *
 * The new pin has the owner and mode of the old: whoever could open it still can. A failure leaves the old pin, and no
 * other. Errors: `PinNotFound` where there is nothing to replace, `NotPermitted` also where the owner cannot be given.
 *
 * @since 0.1.0
 */
export const replacePin = (map: BpfMap, path: string): Effect.Effect<void, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) => {
    // A bpffs takes no dot in a name; the id tells two at the same time apart.
    const temporary = `${path}_new_${map.info.id}`
    return Effect.acquireUseRelease(
      pin(map, temporary),
      () =>
        Effect.andThen(
          copyAccess(bpf, path, temporary),
          check({ operation: "rename pin", path }, () => bpf.renamePin(temporary, path))
        ),
      // Renamed, there is nothing left under this name; in any other case it must go.
      () => Effect.ignore(unpin(temporary))
    )
  })

/** Owner first: who gives a pin away may change its mode only as root. */
const copyAccess = (bpf: Bpf.Calls, from: string, to: string): Effect.Effect<void, BpfError> =>
  Effect.gen(function* () {
    const wanted = yield* statOf(bpf, from)
    const found = yield* statOf(bpf, to)
    if (found.uid !== wanted.uid || found.gid !== wanted.gid) {
      yield* check({ operation: "change owner", path: from }, () => bpf.chown(to, wanted.uid, wanted.gid))
    }
    if (found.mode !== wanted.mode) {
      yield* check({ operation: "change mode", path: from }, () => bpf.chmod(to, wanted.mode))
    }
  })

const statOf = (bpf: Bpf.Calls, path: string): Effect.Effect<Bpf.PathInfo, BpfError> =>
  Effect.suspend(() => {
    const found = bpf.stat(path)
    return typeof found === "number"
      ? Effect.fail(fromErrno({ operation: "list pins", errno: -found, path }))
      : Effect.succeed(found)
  })

/**
 * Pins an open map; parent directories are made. Errors: `PinExists`, `NotBpfFs`, `NotPermitted`.
 *
 * @since 0.1.0
 */
export const pin = (map: BpfMap, path: string): Effect.Effect<void, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) => {
    const directory = parentOf(path)
    if (!bpf.isBpfFs(directory)) {
      return Effect.fail(new BpfError({ operation: "pin", errno: 0, map: map.name, path, reason: new NotBpfFs() }))
    }
    return Effect.andThen(
      check({ operation: "make directory", path: directory }, () => bpf.makeDirectory(directory)),
      check({ operation: "pin", map: map.name, path }, () => bpf.pin(map.fd, path))
    )
  })

/**
 * Removes a pin; whether there was one. The map lives on while anybody holds it. Errors: `NotPermitted`.
 *
 * @since 0.1.0
 */
export const unpin = (path: string): Effect.Effect<boolean, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    check({ operation: "unpin", path }, () => bpf.unpin(path)).pipe(
      Effect.as(true),
      Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(false))
    )
  )

/**
 * Whether anything is at a path. Errors: `NotPermitted` where that cannot be told.
 *
 * @since 0.1.0
 */
export const exists = (path: string): Effect.Effect<boolean, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    statOf(bpf, path).pipe(
      Effect.as(true),
      Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(false))
    )
  )

/**
 * The value of a key, copied, or none where no entry has it. A look-up by syscall does not touch the LRU order.
 *
 * @since 0.1.0
 */
export const lookup = (
  map: BpfMap,
  key: Uint8Array
): Effect.Effect<Option.Option<Uint8Array<ArrayBuffer>>, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.suspend(() => {
      const value = new Uint8Array(valueRoom(bpf, map))
      if (key.byteLength !== map.info.keySize) return Effect.fail(wrongSize(map, "lookup"))
      const rc = bpf.lookup(map.fd, key, value)
      return rc === 0
        ? Effect.succeed(Option.some(value))
        : rc === -2
          ? Effect.succeed(Option.none())
          : Effect.fail(failure(map, "lookup", rc))
    })
  )

/**
 * Writes one entry. `flags`: `Bpf.ANY` (default), `Bpf.NOEXIST`, `Bpf.EXIST`. Errors: `KeyExist`, `KeyNotExist`,
 * `MapFull`, `IndexOutOfRange`.
 *
 * @since 0.1.0
 */
export const update = (
  map: BpfMap,
  entry: { readonly key: Uint8Array; readonly value: Uint8Array },
  flags: number = Bpf.ANY
): Effect.Effect<void, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    entry.key.byteLength === map.info.keySize && entry.value.byteLength === valueRoom(bpf, map)
      ? checkMap(map, "update", () => bpf.update(map.fd, entry.key, entry.value, flags))
      : Effect.fail(wrongSize(map, "update"))
  )

/**
 * Deletes one entry; whether there was one.
 *
 * @since 0.1.0
 */
export const remove = (map: BpfMap, key: Uint8Array): Effect.Effect<boolean, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.suspend(() => {
      if (key.byteLength !== map.info.keySize) return Effect.fail(wrongSize(map, "delete"))
      const rc = bpf.delete(map.fd, key)
      return rc === 0
        ? Effect.succeed(true)
        : rc === -2
          ? Effect.succeed(false)
          : Effect.fail(failure(map, "delete", rc))
    })
  )

/**
 * Bytes that the kernel reads or writes for a value: its size, or one for every possible CPU, each rounded up to 8.
 *
 * @since 0.1.0
 */
export const valueRoom = (bpf: Bpf.Calls, { info }: BpfMap): number =>
  perCpuTypes.has(info.type) ? Math.ceil(info.valueSize / 8) * 8 * bpf.possibleCpus() : info.valueSize

const perCpuTypes: ReadonlySet<number> = new Set([
  MapSpec.mapType.percpuHash,
  MapSpec.mapType.percpuArray,
  MapSpec.mapType.lruPercpuHash
])

/**
 * Why a map cannot be scanned, or `undefined` for a plain hash.
 *
 * **Details**
 *
 * The kernel writes a value for every CPU into a batch of a per-CPU map, past the end of buffers made for one; and the
 * entries of arrays, programs and queues are none of ours. So anything but HASH and LRU_HASH is refused by name.
 *
 * @since 0.1.0
 */
export const notAHash = (map: BpfMap, operation: Failure["operation"]): BpfError | undefined =>
  map.info.type === MapSpec.mapType.hash || map.info.type === MapSpec.mapType.lruHash
    ? undefined
    : failure(map, operation, -95, `scans of maps of type ${map.info.type}, only of hash (1) and LRU hash (9)`)

/** The kernel would read or write past the end of a shorter buffer: it is never called with one. */
const wrongSize = (map: BpfMap, operation: Failure["operation"]): BpfError => failure(map, operation, -22)

/** The typed error of a failed call on a map. @since 0.1.0 */
export const failure = (map: BpfMap, operation: Failure["operation"], rc: number, feature?: string): BpfError =>
  fromErrno({
    operation,
    errno: -rc,
    map: map.name,
    path: map.path,
    isArray: arrayTypes.has(map.info.type),
    ...(feature === undefined ? {} : { feature })
  })

const arrayTypes: ReadonlySet<number> = new Set([
  MapSpec.mapType.array,
  MapSpec.mapType.percpuArray,
  MapSpec.mapType.progArray,
  MapSpec.mapType.perfEventArray,
  MapSpec.mapType.arrayOfMaps
])

const checkMap = (map: BpfMap, operation: Failure["operation"], call: () => number): Effect.Effect<void, BpfError> =>
  Effect.suspend(() => {
    const rc = call()
    return rc >= 0 ? Effect.void : Effect.fail(failure(map, operation, rc))
  })

const check = (about: Omit<Failure, "errno">, call: () => number): Effect.Effect<void, BpfError> =>
  Effect.suspend(() => {
    const rc = call()
    return rc >= 0 ? Effect.void : Effect.fail(fromErrno({ ...about, errno: -rc }))
  })

const createFd = (bpf: Bpf.Calls, spec: MapSpec.MapSpec, name: string): number => {
  if (spec.inner === undefined) return bpf.mapCreate(spec, name)
  const inner = bpf.mapCreate(spec.inner, name)
  if (inner < 0) return inner
  const outer = bpf.mapCreate(spec, name, inner)
  bpf.close(inner)
  return outer
}

const acquire = (
  about: { readonly operation: Failure["operation"]; readonly name: string; readonly path?: string },
  take: (bpf: Bpf.Calls) => number
): Effect.Effect<BpfMap, BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        const fd = take(bpf)
        const subject = about.path === undefined ? { map: about.name } : { path: about.path }
        if (fd < 0) return Effect.fail(fromErrno({ operation: about.operation, errno: -fd, ...subject }))
        const info = bpf.mapInfo(fd)
        if (typeof info !== "number") return Effect.succeed(new OpenMap(about.name, about.path, info, fd))
        bpf.close(fd)
        return Effect.fail(fromErrno({ operation: "map info", errno: -info, ...subject }))
      }),
      (map) => Effect.sync(() => map.close(bpf))
    )
  )

/** The same open map, known by its pin. */
const named = (map: BpfMap, path: string): BpfMap => ({
  name: baseName(path),
  path,
  info: map.info,
  get fd() {
    return map.fd
  }
})

class OpenMap implements BpfMap {
  readonly name: string
  readonly path: string | undefined
  readonly info: Bpf.MapInfo
  #fd: number

  constructor(name: string, path: string | undefined, info: Bpf.MapInfo, fd: number) {
    this.name = name
    this.path = path
    this.info = info
    this.#fd = fd
  }
  get fd(): number {
    if (this.#fd < 0) throw new Error(`map ${this.name} was used after its scope had closed`)
    return this.#fd
  }
  close(bpf: Bpf.Calls): void {
    const fd = this.#fd
    this.#fd = -1
    if (fd >= 0) bpf.close(fd)
  }
}

const baseName = (path: string): string => path.slice(path.lastIndexOf("/") + 1)
const parentOf = (path: string): string => path.slice(0, Math.max(1, path.lastIndexOf("/")))
