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
import * as Refusals from "./refusals.ts"

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
          // Kept, too, while passes keep asking: but the next load may succeed.
          Effect.tapErrorTag("BpfError", () => RcMap.invalidate(kept, key)),
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
  const undeletable = Refusals.make("deletes from")
  const uncleanable = Refusals.make("cleans up NAT for")
  const unwalkable = Refusals.make("walks")
  const { provideService } = Effect
  const bpf = yield* Bpf.Bpf
  return {
    compareAndDelete: (map, engine) => {
      const load = (which: Choice | "restoring") => CompareAndDelete.make(tableOf(map), { engine: which })
      const key = `${map.info.id}`
      // One that does not put back loses more than single calls do: for who asks for it, and where those may not delete.
      const plain = deleters.get(`${map.name} plain`, `${key} plain`, load("program"))
      return choose(engine, {
        kept: engine === "program" ? plain : deleters.get(map.name, key, load("restoring")),
        fresh: (which) =>
          Effect.suspend(() =>
            which === "portable" && engine !== "portable" && !CompareAndDelete.isWritable(bpf, tableOf(map))
              ? plain
              : provideService(load(which), Bpf.Bpf, bpf)
          ),
        stands: undeletable.stands(map.name, key),
        note: (error) => undeletable.note(map.name, key, error)
      })
    },
    cleanUp: ({ map, family }, nat, engine) => {
      const target = { ct: tableOf(map), nat: tableOf(nat.map), family }
      const load = (which: Choice) => NatCleanUp.make(target, { engine: which })
      const key = `${map.info.id} ${nat.map.info.id}`
      return choose(engine, {
        kept: cleaners.get(map.name, key, load("program")),
        fresh: (which) => provideService(load(which), Bpf.Bpf, bpf),
        stands: uncleanable.stands(map.name, key),
        note: (error) => uncleanable.note(map.name, key, error)
      })
    },
    sweep: (ct, nat) => sweeps.get(ct.map.name, keyOf(ct, nat), KernelSweep.make(targetOf(ct, nat))),
    walk: (ct, nat) =>
      Effect.gen(function* () {
        const { name } = ct.map
        const key = keyOf(ct, nat)
        if (yield* unwalkable.stands(name, key)) return undefined
        const load = KernelSweep.make({ ...targetOf(ct, nat), capacity: RECORDS, mustResume: true })
        return yield* Effect.catchTag(walks.get(name, key, load), "BpfError", (error) =>
          Effect.as(unwalkable.note(name, key, error), undefined)
        )
      })
  }
})

/**
 * What is kept is a program and nothing else: it has its map for itself. What works by single calls works on an fd of the
 * pass, which is another map's soon after: it is made for the pass, and goes with it.
 */
const choose = <A>(
  engine: Choice,
  { kept, fresh, stands, note }: Ways<A>
): Effect.Effect<A, BpfError.BpfError, Scope.Scope> =>
  engine === "portable"
    ? fresh("portable")
    : engine === "program"
      ? kept
      : Effect.flatMap(stands, (isRefused) =>
          isRefused
            ? fresh("portable")
            : Effect.catchTag(kept, "BpfError", (error) =>
                // Two passes may share a load, and the fd is that of the one that is over.
                Effect.andThen(note(error), fresh(error.errno === Refusals.EBADF ? "auto" : "portable"))
              )
        )

/** How a program of one map can be had. */
interface Ways<A> {
  readonly kept: Effect.Effect<A, BpfError.BpfError, Scope.Scope>
  readonly fresh: (which: Choice) => Effect.Effect<A, BpfError.BpfError, Scope.Scope>
  readonly stands: Effect.Effect<boolean>
  readonly note: (error: BpfError.BpfError) => Effect.Effect<void>
}

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
