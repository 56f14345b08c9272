/** Purges of orphans, one pair after the other, and the record of those that were, whatever ended each. */
import { Bpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type { Collector, Terms } from "../Collector.ts"
import { nameOf } from "../CtMapSources.ts"
import type * as GcConfig from "../GcConfig.ts"
import * as GcMetrics from "../GcMetrics.ts"
import type { GcRunner } from "../GcRunner.ts"
import * as NatPass from "../NatPass.ts"
import * as NatPurge from "../NatPurge.ts"
import type { everyPair } from "./everyPair.ts"
import * as PassLog from "./passLog.ts"

interface Parts {
  readonly bpf: Bpf.Calls
  readonly collector: Pick<Collector["Service"], "exclusively" | "nextSerial">
  readonly overPairs: ReturnType<typeof everyPair>
  /** What a purge that begins now goes by. */
  readonly terms: () => Terms
  /** That of the passes: `hybrid` and `kernel` take a program or fail, `portable` loads none. */
  readonly engine: GcConfig.Engine
  /** Hears of every record. */
  readonly ended: (pass: NatPass.NatPass) => Effect.Effect<void>
}

export const make = ({
  bpf,
  collector,
  ended,
  engine: chosen,
  overPairs,
  terms
}: Parts): Pick<GcRunner["Service"], "purgeOrphans" | "natHistory"> => {
  const engine = chosen === "auto" || chosen === "portable" ? chosen : "program"
  const log = PassLog.make<NatPass.NatPass>()
  return {
    natHistory: Effect.sync(log.history),
    purgeOrphans: ({ choose = () => true, ...given } = {}) =>
      overPairs(
        choose,
        (source) =>
          collector.exclusively(
            source,
            Effect.scoped(
              Effect.gen(function* () {
                const pair = yield* source.open
                const serial = yield* collector.nextSerial
                let made: NatPass.NatPass | undefined
                const recorded = (pass: NatPass.NatPass): void => {
                  made = pass
                  log.add(nameOf(source), pass)
                }
                return yield* NatPurge.orphans(pair, { ...terms(), engine, ...given, serial, recorded }).pipe(
                  Effect.provideService(Bpf.Bpf, bpf),
                  // Done, failed or interrupted: what it deleted is gone.
                  Effect.onExit(() =>
                    made === undefined ? Effect.void : Effect.andThen(GcMetrics.recordNat(made), ended(made))
                  ),
                  Effect.tapErrorTag("GuardStopped", () => GcMetrics.recordGuardStop)
                )
              })
            )
          ),
        (pass) => (pass === undefined ? 0 : NatPass.deleted(pass))
      )
  }
}
