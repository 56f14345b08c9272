/**
 * Which tables are pinned, all the time: they can come late, be replaced by others under the same name, and go.
 *
 * @since 0.1.0
 */
import type { Family, MapSpec } from "ctmap-core"
import { Bpf, BpfMap, type BpfError, Owner, Pins } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

/** A pinned CT or NAT map. */
interface Table {
  readonly name: string
  readonly path: string
  readonly kind: "ct" | "nat"
  readonly family: Family.Family
  readonly owner: Owner.Owner
  /** The kernel's number of the map: another one under the same name is another map. */
  readonly id: number
  readonly info: MapSpec.Properties
}

/** What there was at the last look. @since 0.1.0 */
export interface Found {
  readonly tables: ReadonlyArray<Table>
  /** Pins that could not be opened, and why. */
  readonly problems: ReadonlyArray<string>
  /** What is wrong with the place, where there is nothing. */
  readonly place?: "absent" | "no bpffs" | undefined
}

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class Presence extends Context.Service<
  Presence,
  {
    /** Looks now. */
    readonly look: Effect.Effect<Found>
    /** What the last look found; nothing before the first. */
    readonly latest: Effect.Effect<Found>
  }
>()("ctmap-agent/Presence") {}

/** Opens every pin of a CT or NAT map once, one after the other. @since 0.1.0 */
export const find: Effect.Effect<Found, never, Bpf.Bpf> = Effect.gen(function* () {
  const pins = yield* Pins.discover
  const tables: Array<Table> = []
  const problems: Array<string> = []
  for (const { name, path, denoted } of pins) {
    const owner = Pins.ownerOf(denoted)
    if (owner === undefined) continue
    const family = "kind" in denoted ? denoted.kind.family : "family" in denoted ? denoted.family : undefined
    if (family === undefined) continue
    const kind = denoted._tag === "Nat" || denoted._tag === "ClusterNatInner" ? "nat" : "ct"
    const opened = yield* Effect.result(Effect.scoped(BpfMap.open(path)))
    if (opened._tag === "Success") {
      tables.push({ name, path, kind, family, owner, id: opened.success.info.id, info: opened.success.info })
    } else if (opened.failure.reason._tag !== "PinNotFound") problems.push(opened.failure.message)
  }
  return { tables, problems }
}).pipe(
  Effect.catch((error: BpfError.BpfError) =>
    Effect.succeed({ tables: [], problems: error.reason._tag === "PinNotFound" ? [] : [error.message] })
  ),
  Effect.flatMap((found) => (found.tables.length > 0 ? Effect.succeed(found) : withPlace(found)))
)

const withPlace = (found: Found): Effect.Effect<Found, never, Bpf.Bpf> =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const root = yield* Pins.BpfFsRoot
    const place = typeof bpf.stat(root) === "number" ? "absent" : bpf.isBpfFs(root) ? undefined : "no bpffs"
    return { ...found, place }
  })

/** What is different. @since 0.1.0 */
export interface Change {
  readonly came: ReadonlyArray<string>
  readonly went: ReadonlyArray<string>
  readonly replaced: ReadonlyArray<string>
}

/** @since 0.1.0 */
export const compare = (before: Found, now: Found): Change => {
  const known = new Map(before.tables.map(({ name, id }) => [name, id]))
  const there = new Set(now.tables.map(({ name }) => name))
  return {
    came: now.tables.flatMap(({ name }) => (known.has(name) ? [] : [name])),
    went: before.tables.flatMap(({ name }) => (there.has(name) ? [] : [name])),
    replaced: now.tables.flatMap(({ name, id }) => (known.has(name) && known.get(name) !== id ? [name] : []))
  }
}

/** What is wrong with what there is, in a sentence; `undefined` where nothing is. @since 0.1.0 */
export const complaint = ({ place, tables, problems }: Found, root: string): string | undefined => {
  if (problems.length > 0) return problems.join("; ")
  const ct = tables.filter(({ kind }) => kind === "ct")
  if (ct.length === 0) return `waiting for tables: ${missing(place, root)}`
  const counts = new Map<string, Array<string>>()
  for (const { family, name, owner } of ct) {
    const pair = `${family} ${Owner.describe(owner)}`
    counts.set(pair, [...(counts.get(pair) ?? []), name])
  }
  const halves = [...counts].filter(([, names]) => names.length === 1)
  return halves.length === 0
    ? undefined
    : halves.map(([pair, [name]]) => `${pair}: of its two conntrack maps only ${name} is pinned`).join("; ")
}

const missing = (place: Found["place"], root: string): string => {
  switch (place) {
    case "absent":
      return `${root} does not exist: bpffs-root names the directory that contains tc/globals`
    case "no bpffs":
      return `${root} is not a bpffs: mount one with \`mount -t bpf bpf ${root}\`, or name another directory with bpffs-root`
    case undefined:
      return `no conntrack map is pinned below ${root}/tc/globals`
  }
}
