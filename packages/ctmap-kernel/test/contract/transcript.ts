/** What a kernel answers to a long row of random commands: two kernels agree if their transcripts do. */
import { MapSpec } from "ctmap-core"
import type { Bpf } from "ctmap-kernel"
import { MMAPABLE, readU32, spec, u32, u32s } from "./bench.ts"

const { mapType } = MapSpec

/** LRU hashes are left out: which elements Linux evicts depends on the CPU and on the moment. */
const kinds: ReadonlyArray<Partial<MapSpec.Properties>> = [
  {},
  { flags: MapSpec.NO_PREALLOC },
  { type: mapType.array },
  { type: mapType.array, flags: MMAPABLE },
  { type: mapType.percpuArray },
  { type: mapType.perfEventArray },
  { type: mapType.arrayOfMaps },
  { type: mapType.hashOfMaps }
]

const lru = spec({ type: mapType.lruHash })

/** One map of a random kind and size, `commands` random commands to it, and every answer in words. */
export const transcript = (bpf: Bpf.Calls, seed: number, commands: number): ReadonlyArray<string> => {
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % below
  }
  const cpus = bpf.possibleCpus()
  const kind = kinds[random(kinds.length)] ?? {}
  const hasInner = kind.type === mapType.arrayOfMaps || kind.type === mapType.hashOfMaps
  const isPlain = !hasInner && kind.type !== mapType.perfEventArray
  const maxEntries = 1 + random(12)
  const valueSize = isPlain ? 1 + random(20) : 4
  const each = Math.ceil(valueSize / 8) * 8
  const valueBytes = kind.type === mapType.percpuArray ? each * cpus : valueSize
  // The template, one of another size, one of another type, and none at all.
  const templates = [lru, { ...lru, maxEntries: 8 }, spec()]
  const inner = hasInner ? templates.map((template) => bpf.mapCreate(template, "inner")) : []
  const fd = bpf.mapCreate(spec({ ...kind, valueSize, maxEntries }), "map", inner[0])

  const value = (): Uint8Array => {
    if (!isPlain) return u32(inner[random(4)] ?? 999_999)
    const fill = random(256)
    return Uint8Array.from({ length: valueBytes }, (_, i) =>
      kind.type === mapType.percpuArray && i % each >= valueSize ? 0 : (fill + i) & 0xff
    )
  }
  /** Ids of inner maps are each kernel's own. */
  const shown = (bytes: Uint8Array): string => (hasInner ? "" : bytes.join(","))
  const several = (): { readonly keys: Uint8Array; readonly count: Uint32Array } => {
    const keys = Array.from({ length: 1 + random(4) }, () => random(maxEntries + 2))
    return { keys: u32s(...keys), count: Uint32Array.of(keys.length) }
  }
  const whole = (): string => {
    const [keys, values] = [new Uint8Array(4 * 64), new Uint8Array(valueBytes * 64)]
    const [count, cursor] = [Uint32Array.of(64), u32(0)]
    const rc = bpf.lookupBatch(fd, null, cursor, keys, values, count)
    const entries = Array.from({ length: rc === -524 ? 0 : (count[0] ?? 0) }, (_, i) =>
      [readU32(keys, i), shown(values.subarray(i * valueBytes, (i + 1) * valueBytes))].join("=")
    )
    const walked: Array<number> = []
    let end = 0
    for (let at: Uint8Array | null = null; end === 0;) {
      const next = u32(0)
      end = bpf.nextKey(fd, at, next)
      if (end === 0) walked.push(readU32(next))
      at = next
    }
    const keysInOrder = walked.toSorted((a, b) => a - b)
    return `whole: ${rc} ${count[0]} ${entries.toSorted().join(" ")} / ${keysInOrder.join(" ")} ${end}`
  }
  const one = (): string => {
    const key = u32(random(maxEntries + 3))
    const command = random(8)
    if (command < 3) {
      const flags = random(3) < 2 ? 0 : random(9)
      return `update ${readU32(key)} flags ${flags}: ${bpf.update(fd, key, value(), flags)}`
    }
    if (command === 3) return `delete ${readU32(key)}: ${bpf.delete(fd, key)}`
    if (command === 4) {
      const found = new Uint8Array(valueBytes)
      return `lookup ${readU32(key)}: ${bpf.lookup(fd, key, found)} ${shown(found)}`
    }
    if (command === 5) {
      const { keys, count } = several()
      return `delete batch: ${bpf.deleteBatch(fd, keys, count)} ${count[0]}`
    }
    if (command === 6) {
      const { keys, count } = several()
      const values = new Uint8Array((count[0] ?? 0) * valueBytes)
      for (let i = 0; i < (count[0] ?? 0); i++) values.set(value(), i * valueBytes)
      return `update batch: ${bpf.updateBatch(fd, keys, values, count)} ${count[0]}`
    }
    return whole()
  }
  const answers = Array.from({ length: commands }, one)
  for (const open of [fd, ...inner]) bpf.close(open)
  return [`${JSON.stringify(kind)}, ${maxEntries} entries of ${valueSize}`, ...answers, `created: ${fd >= 0}`]
}
