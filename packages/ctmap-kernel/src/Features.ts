/**
 * What the running kernel can do, by trying.
 *
 * Owns the probes and the first kernel of each feature. Version numbers are for people: distributions backport, and a
 * capability can be missing where the feature is there, so an answer is what a real attempt said, never a comparison
 * of versions. Each is asked once per layer.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import { MapSpec } from "ctmap-core"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Bpf from "./Bpf.ts"

/** A feature that ctmap can use. @since 0.1.0 */
export type Feature =
  | "batch"
  | "mmapable-array"
  | "ring-buffer"
  | "distributed-lru"
  | "syscall-program"
  | "for-each"
  | "iterator"
  | "tc"

/**
 * What a feature is for, and the first kernel that has it.
 *
 * @since 0.1.0
 */
export const features: Readonly<Record<Feature, { readonly since: string; readonly use: string }>> = {
  batch: { since: "5.6", use: "reading hash maps in batches; without it, key by key, about ten times slower" },
  "mmapable-array": { since: "5.5", use: "work-lists shared with programs" },
  "ring-buffer": { since: "5.8", use: "events from programs" },
  "distributed-lru": { since: "4.10", use: "per-CPU LRU lists, Cilium's bpf-distributed-lru" },
  "syscall-program": { since: "5.14", use: "deleting inside the kernel, by comparison; without it, by looking again" },
  "for-each": { since: "5.13", use: "collecting a whole map in one program" },
  iterator: { since: "6.2", use: "reading a whole map inside the kernel; without it, in batches" },
  tc: { since: "4.1", use: "the small datapath that the tests run" }
}

/**
 * What a probe said.
 *
 * @since 0.1.0
 */
export type Answer =
  | { readonly _tag: "Supported" }
  /** The kernel lacks it. */
  | { readonly _tag: "Missing"; readonly errno: number }
  /** The kernel may have it; this process may not use it. */
  | { readonly _tag: "NotPermitted" }

/**
 * The probes.
 *
 * @since 0.1.0
 */
export class Features extends Context.Service<
  Features,
  {
    readonly probe: (feature: Feature) => Effect.Effect<Answer>
    /** Every feature, in the order of {@link features}. */
    readonly all: Effect.Effect<ReadonlyArray<{ readonly feature: Feature; readonly answer: Answer }>>
  }
>()("ctmap-kernel/Features") {}

/** @since 0.1.0 */
export const layer: Layer.Layer<Features, never, Bpf.Bpf> = Layer.effect(
  Features,
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const answers = new Map<Feature, Answer>()
    const probe = (feature: Feature): Effect.Effect<Answer> =>
      Effect.sync(() => {
        const known = answers.get(feature)
        if (known !== undefined) return known
        const answer = answerOf(attempt(bpf, feature))
        answers.set(feature, answer)
        return answer
      })
    return Features.of({
      probe,
      all: Effect.forEach(names, (feature) => Effect.map(probe(feature), (answer) => ({ feature, answer })))
    })
  })
)

/** Every feature, in print order. @since 0.1.0 */
export const names: ReadonlyArray<Feature> = [
  "batch",
  "mmapable-array",
  "ring-buffer",
  "distributed-lru",
  "syscall-program",
  "for-each",
  "iterator",
  "tc"
]

const EPERM = -1
const EACCES = -13
const EINVAL = -22
const ENOENT = -2

const answerOf = (rc: number): Answer =>
  rc >= 0
    ? { _tag: "Supported" }
    : rc === EPERM || rc === EACCES
      ? { _tag: "NotPermitted" }
      : { _tag: "Missing", errno: -rc }

const BPF_F_MMAPABLE = 1 << 10
const RING_BUFFER = 27

const attempt = (bpf: Bpf.Calls, feature: Feature): number => {
  const { array, lruHash } = MapSpec.mapType
  const small = { keySize: 4, valueSize: 4, maxEntries: 2, flags: 0 }
  switch (feature) {
    case "batch":
      return attemptBatch(bpf)
    case "mmapable-array":
      return attemptMap(bpf, { ...small, type: array, flags: BPF_F_MMAPABLE })
    case "ring-buffer":
      return attemptMap(bpf, { type: RING_BUFFER, keySize: 0, valueSize: 0, maxEntries: 4096, flags: 0 })
    case "distributed-lru":
      return attemptMap(bpf, { ...small, type: lruHash, flags: MapSpec.NO_COMMON_LRU })
    case "syscall-program":
      return attemptProgram(bpf, "probe_syscall")
    case "for-each":
      return attemptProgram(bpf, "probe_for_each")
    case "iterator":
      return forbidden(bpf, attemptProgram(bpf, "probe_iterator"))
    case "tc":
      return attemptProgram(bpf, "probe_tc")
  }
}

/**
 * Without CAP_PERFMON the verifier does not know helpers that read the kernel's memory, and answers as a kernel does that
 * has none of them: -EINVAL. Perf events need the same capability, and say so.
 */
const forbidden = (bpf: Bpf.Calls, rc: number): number => {
  if (rc !== EINVAL) return rc
  const event = bpf.perfEvent(0)
  if (event >= 0) bpf.close(event)
  return event === EACCES ? EACCES : rc
}

const attemptMap = (bpf: Bpf.Calls, spec: MapSpec.Properties): number => {
  const fd = bpf.mapCreate(spec, "ctmap_probe")
  if (fd >= 0) bpf.close(fd)
  return fd
}

/** An empty map answers the end of the map where the command exists. */
const attemptBatch = (bpf: Bpf.Calls): number => {
  const fd = bpf.mapCreate(
    { type: MapSpec.mapType.lruHash, keySize: 4, valueSize: 4, maxEntries: 2, flags: 0 },
    "ctmap_probe"
  )
  if (fd < 0) return fd
  const bytes = () => new Uint8Array(8)
  const rc = bpf.lookupBatch(fd, null, bytes(), bytes(), bytes(), Uint32Array.of(2))
  bpf.close(fd)
  return rc === ENOENT ? 0 : rc
}

const attemptProgram = (bpf: Bpf.Calls, program: string): number => {
  const loaded = bpf.loadObject({
    name: "ctmap_probe",
    elf: readFileSync(new URL("../bpf/probes.bpf.o", import.meta.url)),
    programs: [program]
  })
  if ("errno" in loaded) return -loaded.errno
  loaded.close()
  return 0
}
