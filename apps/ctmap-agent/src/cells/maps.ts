/**
 * The typed CT and NAT maps that the datapath has pinned.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { MapLimits, Release } from "ctmap-core"
import { CtMaps, NatMaps } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { keys } from "./kernel.ts"

const size = (holds: string, otherwise: number) =>
  Schema.Int.annotate({ description: `entries of ${holds}, where this agent makes one` }).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed(otherwise))
  )

const config = Schema.Struct({
  bpfCtGlobalTcpMax: size("a TCP conntrack map", MapLimits.CT_TCP_DEFAULT),
  bpfCtGlobalAnyMax: size("a non-TCP conntrack map", MapLimits.CT_ANY_DEFAULT),
  bpfNatGlobalMax: size("a NAT map", MapLimits.NAT_DEFAULT),
  release: Release.Release.annotate({ description: "how to read a table whose entries do not tell" }).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed("1.17" as const))
  )
}).check(
  Schema.makeFilter(({ bpfCtGlobalAnyMax, bpfCtGlobalTcpMax, bpfNatGlobalMax }) => {
    const checked = MapLimits.check({ ctTcp: bpfCtGlobalTcpMax, ctAny: bpfCtGlobalAnyMax, nat: bpfNatGlobalMax })
    return Result.isFailure(checked) ? { path: ["bpfCtGlobalTcpMax"], issue: checked.failure.message } : undefined
  })
)

/** @since 0.1.0 */
export const cell = Cell.make("maps", {
  description: "opens the CT and NAT maps of the datapath, each with its owner and layout",
  config,
  needs: keys,
  provides: [CtMaps.CtMaps, NatMaps.NatMaps],
  layer: ({ bpfCtGlobalAnyMax, bpfCtGlobalTcpMax, bpfNatGlobalMax, release }) => {
    const wanted = { ctTcp: bpfCtGlobalTcpMax, ctAny: bpfCtGlobalAnyMax, nat: bpfNatGlobalMax }
    // The default of the NAT map follows those of CT maps; all else was checked with the settings.
    const limits = Result.getOrElse(MapLimits.check(wanted), () => wanted)
    return Layer.merge(CtMaps.layer({ limits, assumedRelease: release }), NatMaps.layer({ limits }))
  }
})
