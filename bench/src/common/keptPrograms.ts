/** Passes that are made by the thousand: what each of them loads is kept for the next one. */
import type * as Bpf from "ctmap-kernel/Bpf"
import * as Effect from "effect/Effect"

/** The array that a kernel sweep makes for its records. */
const RECORDS = "ctmap_swept"

/**
 * The same kernel, in which programs of one table and the arrays of sweeps are made once, and last until the scope closes.
 * The work-list of compare-and-delete is shared as long as somebody holds one, so the caller does.
 */
export const keeping = (kernel: Bpf.Calls) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => ({
        objects: new Map<string, Bpf.LoadedObject>(),
        records: new Map<number, Uint8Array | undefined>()
      })),
      ({ objects, records }) =>
        Effect.sync(() => {
          for (const object of objects.values()) object.close()
          for (const [fd, memory] of records) {
            if (memory !== undefined) kernel.unmapMemory(memory)
            kernel.close(fd)
          }
        })
    ),
    ({ objects, records }): Bpf.Calls => ({
      ...kernel,
      loadObject: (spec) => {
        const which = `${spec.programs.join()} ${spec.reuse?.["table"]}`
        const kept = objects.get(which)
        if (kept !== undefined) return { ...kept, close: () => {} }
        const loaded = kernel.loadObject(spec)
        if ("errno" in loaded) return loaded
        objects.set(which, loaded)
        return { ...loaded, close: () => {} }
      },
      mapCreate: (spec, name, inner) => {
        if (name !== RECORDS) return kernel.mapCreate(spec, name, inner)
        const [kept] = records.keys()
        if (kept !== undefined) return kept
        const fd = kernel.mapCreate(spec, name, inner)
        if (fd >= 0) records.set(fd, undefined)
        return fd
      },
      mapMemory: (fd, bytes) => {
        const kept = records.get(fd)
        if (kept !== undefined) return kept
        const memory = kernel.mapMemory(fd, bytes)
        if (records.has(fd) && typeof memory !== "number") records.set(fd, memory)
        return memory
      },
      unmapMemory: (memory) => (records.values().some((kept) => kept === memory) ? 0 : kernel.unmapMemory(memory)),
      close: (fd) => (records.has(fd) ? 0 : kernel.close(fd))
    })
  )
