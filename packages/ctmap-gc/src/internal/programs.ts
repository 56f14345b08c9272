/**
 * The programs of an engine, kept from one pass to the next: loading one takes up to 20 ms, more than it then needs for a
 * small table.
 *
 * A program holds its maps alive. So there are few of them, one that is idle goes, and where a map has been replaced
 * under its pin those of the old one go with the next pass.
 */
import { Bpf, type BpfError, type BpfMap, CompareAndDelete, type CtPair, KernelSweep, NatCleanUp } from "ctmap-kernel"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as RcMap from "effect/RcMap"
import type * as Scope from "effect/Scope"

/** How a program is had: in the kernel, without, or whichever can be. */
type Choice = "auto" | "program" | "portable"

export interface Programs {
  readonly compareAndDelete: (
    map: BpfMap.BpfMap,
    engine: Choice
  ) => Effect.Effect<CompareAndDelete.CompareAndDelete, BpfError.BpfError, Scope.Scope>
  readonly cleanUp: (
    ct: CtPair.CtMap,
    nat: CtPair.NatMap,
    engine: Choice
  ) => Effect.Effect<NatCleanUp.NatCleanUp, BpfError.BpfError, Scope.Scope>
  readonly sweep: (
    ct: CtPair.CtMap,
    nat: CtPair.NatMap | undefined
  ) => Effect.Effect<KernelSweep.KernelSweep, BpfError.BpfError, Scope.Scope>
  /** A sweep that resumes, where that can be had. */
  readonly walk: (
    ct: CtPair.CtMap,
    nat: CtPair.NatMap | undefined
  ) => Effect.Effect<KernelSweep.KernelSweep | undefined, never, Scope.Scope>
}

/** Programs of each kind that are kept: the global maps have four, clusters take turns. */
const MOST = 16
const IDLE = Duration.minutes(15)

/** Records of a walk: far more than one of its pieces deletes, in 0.4 MB. */
const RECORDS = 4096

/** Loaded programs of one kind. */
interface Shelf<A> {
  /** The program of a key; `place` names what it is for, of which there is one at a time. */
  readonly get: (
    place: string,
    key: string,
    load: Effect.Effect<A, BpfError.BpfError, Bpf.Bpf | Scope.Scope>
  ) => Effect.Effect<A, BpfError.BpfError, Scope.Scope>
}

const shelf = Effect.fnUntraced(function* <A>() {
  const bpf = yield* Bpf.Bpf
  const loads = new Map<string, Effect.Effect<A, BpfError.BpfError, Bpf.Bpf | Scope.Scope>>()
  const current = new Map<string, string>()
  const kept = yield* RcMap.make({
    lookup: (key: string) => Effect.provideService(loads.get(key)!, Bpf.Bpf, bpf),
    idleTimeToLive: IDLE,
    capacity: MOST
  })
  const result: Shelf<A> = {
    get: (place, key, load) =>
      Effect.gen(function* () {
        const before = current.get(place)
        if (before !== undefined && before !== key) yield* RcMap.invalidate(kept, before)
        current.set(place, key)
        loads.set(key, load)
        return yield* RcMap.get(kept, key).pipe(
          // No room: for this pass only.
          Effect.catchTag("ExceededCapacityError", () => Effect.provideService(load, Bpf.Bpf, bpf)),
          Effect.ensuring(Effect.sync(() => loads.delete(key)))
        )
      })
  }
  return result
})

export const make: Effect.Effect<Programs, never, Bpf.Bpf | Scope.Scope> = Effect.gen(function* () {
  const deleters = yield* shelf<CompareAndDelete.CompareAndDelete>()
  const cleaners = yield* shelf<NatCleanUp.NatCleanUp>()
  const sweeps = yield* shelf<KernelSweep.KernelSweep>()
  const walks = yield* shelf<KernelSweep.KernelSweep>()
  /** The map of a name that cannot be walked: to find out takes longer than to do without. */
  const unwalkable = new Map<string, number>()
  const { provideService } = Effect
  const bpf = yield* Bpf.Bpf
  return {
    compareAndDelete: (map, engine) => {
      const load = (which: Choice) => CompareAndDelete.make(tableOf(map), { engine: which })
      return choose(
        engine,
        deleters.get(map.name, `${map.info.id}`, load("program")),
        provideService(load(engine), Bpf.Bpf, bpf)
      )
    },
    cleanUp: ({ map, family }, nat, engine) => {
      const target = { ct: tableOf(map), nat: tableOf(nat.map), family }
      const load = (which: Choice) => NatCleanUp.make(target, { engine: which })
      const kept = cleaners.get(map.name, `${map.info.id} ${nat.map.info.id}`, load("program"))
      return choose(engine, kept, provideService(load(engine), Bpf.Bpf, bpf))
    },
    sweep: (ct, nat) => sweeps.get(ct.map.name, keyOf(ct, nat), KernelSweep.make(targetOf(ct, nat))),
    walk: (ct, nat) =>
      Effect.suspend(() => {
        const { name, info } = ct.map
        if (unwalkable.get(name) === info.id) return Effect.undefined
        const load = KernelSweep.make({ ...targetOf(ct, nat), capacity: RECORDS, mustResume: true })
        return Effect.catchTag(walks.get(name, keyOf(ct, nat), load), "BpfError", ({ reason }) => {
          if (reason._tag === "FeatureUnsupported" || reason._tag === "NotPermitted") unwalkable.set(name, info.id)
          return Effect.undefined
        })
      })
  }
})

/**
 * What is kept is a program and nothing else: it has its map for itself. What works by single calls works on an fd of the
 * pass, which is another map's soon after: it is made for the pass, and goes with it.
 */
const choose = <A>(
  engine: Choice,
  kept: Effect.Effect<A, BpfError.BpfError, Scope.Scope>,
  fresh: Effect.Effect<A, BpfError.BpfError, Scope.Scope>
): Effect.Effect<A, BpfError.BpfError, Scope.Scope> =>
  engine === "portable" ? fresh : engine === "program" ? kept : Effect.catchTag(kept, "BpfError", () => fresh)

const targetOf = ({ map, family }: CtPair.CtMap, nat: CtPair.NatMap | undefined): KernelSweep.Target => ({
  ct: tableOf(map),
  nat: nat === undefined ? undefined : tableOf(nat.map),
  family
})

const keyOf = ({ map }: CtPair.CtMap, nat: CtPair.NatMap | undefined): string =>
  `${map.info.id} ${nat?.map.info.id ?? "-"}`

/** A map as the programs take it. */
export const tableOf = ({ fd, name, info }: BpfMap.BpfMap): CompareAndDelete.Table => ({
  fd,
  id: info.id,
  name,
  keySize: info.keySize,
  valueSize: info.valueSize
})
