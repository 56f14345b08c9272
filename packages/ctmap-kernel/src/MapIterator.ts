/**
 * Reading a whole map through an iterator: the kernel writes records, read(2) hands them out, 32 KiB a call.
 *
 * Owns the committed iterator programs (`bpf/copy.bpf.c`) and the sizes of their records. About a third faster than
 * batches on large tables, and each call is short (0.3 ms in a table of half a million). Needs Linux >= 5.9 with its own
 * BTF, CAP_BPF and CAP_PERFMON; where that is missing, a scan uses batches.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import { BpfError, FeatureUnsupported, fromErrno } from "./BpfError.ts"
import type { BpfMap } from "./BpfMap.ts"

/**
 * Where key and value stand in a record.
 *
 * @since 0.1.0
 */
export interface RecordShape {
  /** Bytes from one record to the next. */
  readonly stride: number
  readonly keyAt: 0
  readonly valueAt: number
}

/**
 * An iterator that has been started.
 *
 * @since 0.1.0
 */
export interface Started {
  readonly shape: RecordShape
  /** Read records from it; each read starts where the last one ended. */
  readonly fd: number
}

/**
 * Starts iterators.
 *
 * @since 0.1.0
 */
export class MapIterator extends Context.Service<
  MapIterator,
  {
    /** Errors: `FeatureUnsupported` for a map of other sizes or a kernel without iterators, `NotPermitted`. */
    readonly start: (map: BpfMap) => Effect.Effect<Started, BpfError, Scope.Scope>
  }
>()("ctmap-kernel/MapIterator") {}

const FEATURE = "iterators over map elements (Linux 5.9, with BTF of its own)"

/**
 * Loads the programs on first use, which takes some 20 ms, and keeps them for as long as the layer lives.
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<MapIterator, never, Bpf.Bpf> = Layer.effect(
  MapIterator,
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const loaded = new Map<string, Bpf.LoadedObject | BpfError>()
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const object of loaded.values()) if (!(object instanceof BpfError)) object.close()
      })
    )
    const load = (program: string): Effect.Effect<number, BpfError> =>
      Effect.suspend(() => {
        const object = loaded.get(program) ?? attempt(bpf, program)
        loaded.set(program, object)
        return object instanceof BpfError ? Effect.fail(object) : Effect.succeed(object.programs[program]!)
      })
    return MapIterator.of({
      start: (map) => {
        const { keySize, valueSize } = map.info
        const program = `copy_${keySize}_${valueSize}`
        if (!programs.has(program)) {
          return Effect.fail(
            new BpfError({
              operation: "iterate",
              errno: 0,
              map: map.name,
              reason: new FeatureUnsupported({
                feature: `an iterator for keys of ${keySize} and values of ${valueSize} bytes`
              })
            })
          )
        }
        return Effect.flatMap(load(program), (programFd) =>
          Effect.map(
            Effect.acquireRelease(
              Effect.suspend(() => {
                const fd = bpf.iterate(programFd, map.fd)
                return fd >= 0
                  ? Effect.succeed(fd)
                  : Effect.fail(fromErrno({ operation: "iterate", errno: -fd, map: map.name, feature: FEATURE }))
              }),
              (fd) => Effect.sync(() => void bpf.close(fd))
            ),
            (fd) => ({ shape: shapeOf(keySize, valueSize), fd })
          )
        )
      }
    })
  })
)

const programs: ReadonlySet<string> = new Set(["copy_14_56", "copy_38_56", "copy_14_40"])

const shapeOf = (keySize: number, valueSize: number): RecordShape => {
  const valueAt = Math.ceil(keySize / 8) * 8
  return { stride: valueAt + valueSize, keyAt: 0, valueAt }
}

const attempt = (bpf: Bpf.Calls, program: string): Bpf.LoadedObject | BpfError => {
  const object = bpf.loadObject({
    name: "ctmap_copy",
    elf: readFileSync(new URL("../bpf/copy.bpf.o", import.meta.url)),
    programs: [program]
  })
  return "errno" in object ? fromErrno({ operation: "load program", errno: object.errno, feature: FEATURE }) : object
}
