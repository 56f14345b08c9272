/**
 * How large the CT and NAT maps may be, and what Cilium says when a configured size is not.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { MapKind } from "./MapKind.ts"

/** Smallest size of a CT or NAT map: 2^10 entries. @since 0.1.0 */
export const MIN = 1024
/** Largest size of a CT or NAT map: 2^24 entries. @since 0.1.0 */
export const MAX = 16_777_216
/** Default of `bpf-ct-global-tcp-max`. @since 0.1.0 */
export const CT_TCP_DEFAULT = 524_288
/** Default of `bpf-ct-global-any-max`. @since 0.1.0 */
export const CT_ANY_DEFAULT = 262_144
/** Default of `bpf-nat-global-max`: two thirds of both CT defaults. @since 0.1.0 */
export const NAT_DEFAULT = 524_288
/** Entries of an endpoint's own map; not configurable. @since 0.1.0 */
export const CT_LOCAL = 64_000

/**
 * Configured sizes, in entries.
 *
 * @since 0.1.0
 */
export interface MapLimits {
  readonly ctTcp: number
  readonly ctAny: number
  readonly nat: number
}

/** Cilium's defaults. @since 0.1.0 */
export const defaults: MapLimits = { ctTcp: CT_TCP_DEFAULT, ctAny: CT_ANY_DEFAULT, nat: NAT_DEFAULT }

/**
 * A configured size is out of bounds. `message` is Cilium's wording.
 *
 * @since 0.1.0
 */
export class InvalidMapLimits extends Schema.TaggedError<InvalidMapLimits>()("InvalidMapLimits", {
  rule: Schema.Literals(["whole", "ct-min", "ct-max", "nat-min", "nat-max", "nat-above-ct"]),
  ctTcp: Schema.Number,
  ctAny: Schema.Number,
  nat: Schema.Number
}) {
  override get message(): string {
    switch (this.rule) {
      case "whole":
        return `specified CT tables values ${this.ctTcp}/${this.ctAny} and NAT table size ${this.nat} must be whole numbers`
      case "ct-min":
        return `specified CT tables values ${this.ctTcp}/${this.ctAny} must exceed minimum ${MIN}`
      case "ct-max":
        return `specified CT tables values ${this.ctTcp}/${this.ctAny} must not exceed maximum ${MAX}`
      case "nat-min":
        return `specified NAT table size ${this.nat} must exceed minimum ${MIN}`
      case "nat-max":
        return `specified NAT tables size ${this.nat} must not exceed maximum ${MAX}`
      case "nat-above-ct":
        return `specified NAT tables size ${this.nat} must not exceed maximum CT table size ${this.ctTcp + this.ctAny}`
    }
  }
}

/**
 * Checks configured sizes.
 *
 * **Details**
 *
 * A NAT map may not be larger than both CT maps together. If it is, and its size is the default, it becomes two thirds
 * of their sum without a word; any other size is an error.
 *
 * **Example** (The default follows small CT maps)
 *
 * ```ts
 * import { MapLimits } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const small = { ctTcp: 2048, ctAny: 4096 }
 * Result.getOrThrow(MapLimits.check({ ...small, nat: MapLimits.NAT_DEFAULT })).nat // => 4096
 * Result.isFailure(MapLimits.check({ ...small, nat: 8192 })) // => true
 * ```
 *
 * @since 0.1.0
 */
export const check = (limits: MapLimits): Result.Result<MapLimits, InvalidMapLimits> => {
  const { ctTcp, ctAny, nat } = limits
  const refuse = (rule: InvalidMapLimits["rule"]) => Result.fail(new InvalidMapLimits({ rule, ctTcp, ctAny, nat }))
  if (![ctTcp, ctAny, nat].every((size) => Number.isInteger(size))) return refuse("whole")
  if (ctTcp < MIN || ctAny < MIN) return refuse("ct-min")
  if (ctTcp > MAX || ctAny > MAX) return refuse("ct-max")
  if (nat < MIN) return refuse("nat-min")
  if (nat > MAX) return refuse("nat-max")
  if (nat <= ctTcp + ctAny) return Result.succeed(limits)
  return nat === NAT_DEFAULT
    ? Result.succeed({ ...limits, nat: Math.floor(((ctTcp + ctAny) * 2) / 3) })
    : refuse("nat-above-ct")
}

/**
 * Entries of a CT map of a kind.
 *
 * @since 0.1.0
 */
export const ctMaxEntries = (kind: MapKind, limits: MapLimits = defaults): number =>
  kind.scope === "local" ? CT_LOCAL : kind.transport === "tcp" ? limits.ctTcp : limits.ctAny

const ELEMENT_SIZE = 94
const dynamicFloor: MapLimits = { ctTcp: 131_072, ctAny: 65_536, nat: 131_072 }

/**
 * Sizes from a share of the memory: Cilium's `bpf-map-dynamic-size-ratio`.
 *
 * **Details**
 *
 * Units: `memoryBytes` in bytes, `ratio` in (0, 1]. Errors: throws `RangeError` for a ratio outside. Each default is scaled by what the memory allows over what all
 * defaults need at 94 bytes an entry, and clamped to 131072 (TCP, NAT) or 65536 (Any) below and 2^24 above. The other
 * maps that share the budget in Cilium are given by `otherBytes`, the bytes their defaults need.
 *
 * @since 0.1.0
 */
export const dynamic = (options: {
  readonly memoryBytes: number
  readonly ratio: number
  readonly otherBytes?: number
}): MapLimits => {
  if (!(options.ratio > 0 && options.ratio <= 1)) {
    throw new RangeError(`bpf-map-dynamic-size-ratio must be above 0 and at most 1, not ${options.ratio}`)
  }
  const total = ELEMENT_SIZE * (CT_TCP_DEFAULT + CT_ANY_DEFAULT + NAT_DEFAULT) + (options.otherBytes ?? 0)
  const budget = Math.floor(options.memoryBytes * options.ratio)
  const scale = (entries: number, floor: number): number =>
    Math.min(MAX, Math.max(floor, Math.floor((entries * budget) / total)))
  return {
    ctTcp: scale(CT_TCP_DEFAULT, dynamicFloor.ctTcp),
    ctAny: scale(CT_ANY_DEFAULT, dynamicFloor.ctAny),
    nat: scale(NAT_DEFAULT, dynamicFloor.nat)
  }
}

/**
 * The size an LRU map really gets under `bpf-distributed-lru`: rounded up to a multiple of the possible CPUs, or down
 * where that would pass the maximum. A size that is not rounded the way the kernel does would look changed for ever.
 *
 * **Example** (Two CPUs)
 *
 * ```ts
 * import { MapLimits } from "ctmap-core"
 *
 * MapLimits.roundForDistributedLru(1001, 2) // => 1002
 * MapLimits.roundForDistributedLru(16777216, 3) // => 16777215
 * ```
 *
 * @since 0.1.0
 */
export const roundForDistributedLru = (entries: number, possibleCpus: number): number => {
  if (!(possibleCpus >= 1)) throw new RangeError(`a machine has at least one possible CPU, not ${possibleCpus}`)
  const up = Math.ceil(entries / possibleCpus) * possibleCpus
  return up > MAX ? Math.floor(MAX / possibleCpus) * possibleCpus : up
}

/**
 * Entries to ask for in the first batch of a scan: the smallest power of two of at least sqrt(2 * maxEntries).
 *
 * **Example** (Some sizes)
 *
 * ```ts
 * import { MapLimits } from "ctmap-core"
 *
 * MapLimits.startingBatchSize(524288) // => 1024
 * MapLimits.startingBatchSize(1000) // => 64
 * ```
 *
 * @since 0.1.0
 */
export const startingBatchSize = (maxEntries: number): number =>
  2 ** Math.max(0, Math.ceil(Math.log2(Math.sqrt(2 * Math.max(1, maxEntries)))))
