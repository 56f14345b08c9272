/**
 * `ctmap get`: the one entry of a flow, by its ends and protocol or by the bytes of its key.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import { CtColumns } from "ctmap-core/CtColumns"
import * as CtKey from "ctmap-core/CtKey"
import * as LookupKey from "ctmap-core/LookupKey"
import * as Protocol from "ctmap-core/Protocol"
import * as Rows from "ctmap-core/Rows"
import * as Tuple from "ctmap-core/Tuple"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import { UnknownLayout } from "ctmap-kernel/Dump"
import * as Layout from "ctmap-kernel/Layout"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Clock from "../Clock.ts"
import { NotFound, UsageError } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import type { Listing } from "../Options.ts"
import * as Output from "../Output.ts"
import { expected } from "../purgeFilter.ts"
import * as entries from "../render/entries.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface GetOptions extends Omit<Listing, "where" | "limit" | "sort" | "family" | "map"> {
  readonly src: string | undefined
  readonly dst: string | undefined
  readonly proto: string
  readonly ingress: boolean
  readonly key: string | undefined
  readonly timeDiff: boolean
}

/** @since 0.1.0 */
export const get = (root: string, options: GetOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const key = yield* keyOf(options)
      const family: Family.Family = key.byteLength === Tuple.v4.size ? "ipv4" : "ipv6"
      const owner = yield* Selection.ownerOf({ ...options, family: "all", map: [] })
      const isTcp = key[Tuple.shape(family).nexthdr] === Protocol.TCP
      const maps = yield* CtMaps.make({ assumedRelease: options.release })
      const { map, layout } = yield* maps.open({ family, transport: isTcp ? "tcp" : "any", owner })
      const release = Layout.releaseOf(layout)
      if (release === undefined) {
        return yield* new UnknownLayout({ map: map.name, why: layout._tag === "Unknown" ? layout.why : "" })
      }
      const value = yield* BpfMap.lookup(map, key)
      if (Option.isNone(value)) return yield* new NotFound({ what: absent(map.name, options) })
      const columns = new CtColumns({ family, release })
      columns.bind(
        Rows.separate(key, value.value, { keySize: key.byteLength, valueSize: value.value.byteLength, count: 1 })
      )
      const clock = options.timeDiff || options.output !== "text" ? yield* Clock.read(options) : undefined
      const renderer = entries.ct({ output: options.output, timeDiff: options.timeDiff, clock })
      renderer.bind({ map, columns, local: owner._tag === "Endpoint" }, Uint32Array.of(0), 1)
      yield* Output.write(renderer.open)
      for (let bytes = renderer.next(); bytes !== undefined; bytes = renderer.next()) yield* Output.write(bytes)
      yield* Output.write(renderer.close)
    })
  )

const absent = (map: string, { ingress, key }: GetOptions): string =>
  `map ${map} has no entry of this flow` +
  (key !== undefined
    ? ""
    : ingress
      ? "; without --ingress, the entry that was made when the flow left its endpoint"
      : "; with --ingress, the entry that was made when the flow entered its endpoint")

const keyOf = (options: GetOptions) =>
  Effect.gen(function* () {
    const { src, dst, key } = options
    if (key !== undefined) {
      if (src !== undefined || dst !== undefined) {
        return yield* new UsageError({ problem: "--key is the whole key: leave out --src and --dst" })
      }
      const hex = key.replaceAll(/[\s:]/g, "")
      if (!/^([0-9a-fA-F]{28}|[0-9a-fA-F]{76})$/.test(hex)) {
        return yield* new UsageError({ problem: `--key ${key}: a key is 28 hex digits for IPv4, 76 for IPv6` })
      }
      return Uint8Array.from(Buffer.from(hex, "hex"))
    }
    if (src === undefined || dst === undefined) {
      return yield* new UsageError({ problem: "give --src ADDR:PORT and --dst ADDR:PORT, or --key HEX" })
    }
    const protocol = /^\d+$/.test(options.proto)
      ? Number(options.proto)
      : yield* Effect.mapError(
          Effect.fromResult(Protocol.fromName(options.proto)),
          () => new UsageError({ problem: `--proto "${options.proto}": ${expected["--proto"]}` })
        )
    const flow = { source: src, destination: dst, protocol, ingress: options.ingress }
    return CtKey.toBytes(yield* Effect.fromResult(LookupKey.make(flow)))
  })
