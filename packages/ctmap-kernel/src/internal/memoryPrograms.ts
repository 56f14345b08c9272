/**
 * BPF objects of the in-memory kernel: a program is a function of TypeScript that stands for one of an ELF file.
 *
 * Owns loading: which maps an object makes, which it is given, and that a program holds them for as long as it lives.
 */
import type { MapSpec } from "ctmap-core"
import type * as Bpf from "../Bpf.ts"
import { EINVAL, EOPNOTSUPP, EPERM } from "./memoryErrno.ts"
import type { MemoryKernel } from "./memoryKernel.ts"
import type { MemoryMap } from "./memoryMap.ts"

/** A map as a BPF program sees it, and as a test that plays the datapath does. */
export interface MapView {
  readonly id: number
  readonly properties: MapSpec.Properties
  /** Elements in a hash, slots in an array. */
  readonly size: () => number
  /** The value itself: what is written to it is in the map. Counts as a use in the LRU order. */
  readonly lookup: (key: Uint8Array) => Uint8Array | undefined
  /** 0 or -errno. */
  readonly update: (key: Uint8Array, value: Uint8Array, flags?: number) => number
  readonly delete: (key: Uint8Array) => number
  /** `bpf_for_each_map_elem`: until `visit` answers true; how many were visited. Deleting what is visited is fine. */
  readonly forEach: (visit: (key: Uint8Array, value: Uint8Array) => boolean | void) => number
  /** `bpf_perf_event_output` on a CPU into a perf event array: 0 or -errno, -EINVAL for a map of another type. */
  readonly output: (cpu: number, bytes: Uint8Array) => number
  /** The inner map in a slot of an outer map. */
  readonly inner: (key: Uint8Array) => MapView | undefined
}

/** What a program can ask of the kernel besides its maps. */
export interface Helpers {
  /** `bpf_ktime_get_ns` */
  readonly monotonic: () => bigint
  /** `bpf_get_smp_processor_id`: the CPU that the run is on, 0 unless the caller named another. */
  readonly cpu: number
  /** The map that the process has open as this fd. */
  readonly map: (fd: number) => MapView | undefined
}

/** A program: what it returns is its return value, which BPF_PROG_TEST_RUN does not pass on to callers here. */
export type Program = (kernel: Helpers, context: Uint8Array, maps: Readonly<Record<string, MapView>>) => number

/** The twin of an ELF file. */
export interface ObjectTwin {
  readonly programs: Readonly<Record<string, Program>>
  /** Maps that the object makes, unless it is told to reuse others. */
  readonly maps?: Readonly<Record<string, MapSpec.Properties>>
}

/** The view of a map. */
export const viewOf = ({ id, properties, view, ...commands }: MemoryMap): MapView => ({
  id,
  properties,
  ...view,
  update: (key, value, flags = 0) => commands.update(key, value, flags),
  delete: (key) => commands.delete(key),
  output: (cpu, bytes) => commands.output?.(cpu, bytes) ?? -EINVAL,
  inner: (key) => {
    const inner = view.inner(key)
    return inner === undefined ? undefined : viewOf(inner)
  }
})

/** BPF_PROG_LOAD and what libbpf does around it. */
export const loadObject =
  (
    kernel: MemoryKernel,
    objects: Readonly<Record<string, ObjectTwin>>,
    helpers: Pick<Helpers, "monotonic">
  ): Bpf.Calls["loadObject"] =>
  (spec) => {
    if (!kernel.settings.programs) return { errno: EINVAL, log: "this kernel has no programs of this type" }
    if (!kernel.can("CAP_BPF", "CAP_SYS_ADMIN")) return { errno: EPERM, log: "not permitted" }
    const twin = objects[spec.name]
    if (twin === undefined)
      return { errno: EOPNOTSUPP, log: `object "${spec.name}" has no twin: name it in options.objects` }
    const fds: Record<string, number> = {}
    const views: Record<string, MapView> = {}
    const held: Array<MemoryMap> = []
    const programs: Record<string, number> = {}
    const map = (fd: number): MapView | undefined => {
      const found = kernel.mapOf(fd)
      return typeof found === "number" ? undefined : viewOf(found)
    }
    const close = (): void => {
      for (const fd of [...Object.values(fds), ...Object.values(programs)]) kernel.close(fd)
    }
    for (const name of new Set([...Object.keys(twin.maps ?? {}), ...Object.keys(spec.reuse ?? {})])) {
      const fd = mapFd(kernel, twin, spec, name)
      const made = fd < 0 ? fd : kernel.mapOf(fd)
      if (typeof made === "number") {
        close()
        return { errno: -made, log: `map "${name}" of object "${spec.name}" cannot be had: ${made}` }
      }
      fds[name] = fd
      views[name] = viewOf(made)
      held.push(made)
    }
    for (const name of spec.programs) {
      const program = twin.programs[name]
      if (program === undefined) continue
      const fd = kernel.createProgram(
        name,
        (context, cpu) => void program({ ...helpers, cpu, map }, context, views),
        held
      )
      if (fd < 0) {
        close()
        return { errno: -fd, log: `program "${name}" of object "${spec.name}" cannot be had: ${fd}` }
      }
      programs[name] = fd
    }
    return { programs, maps: fds, close }
  }

/** An fd of the object's own: of a map that is made for it, or of one that is open already. */
const mapFd = (kernel: MemoryKernel, twin: ObjectTwin, spec: Bpf.ObjectSpec, name: string): number => {
  const reused = spec.reuse?.[name]
  if (reused !== undefined) {
    const map = kernel.mapOf(reused)
    return typeof map === "number" ? map : kernel.open(map)
  }
  const properties = twin.maps?.[name]
  if (properties === undefined) return -EINVAL
  return kernel.createMap(
    { ...properties, maxEntries: spec.maxEntries?.[name] ?? properties.maxEntries },
    name,
    undefined
  )
}
