/**
 * One pass over the maps of a pair, by one of three engines that give the same result.
 *
 * `hybrid` lets a program walk the table inside the kernel, a millisecond at a time; what that cannot decide, small tables,
 * and kernels or capabilities that do not allow it, are read by iterator or batch, compared again, and deleted inside the
 * kernel, a thousand candidates a call. `kernel` walks the whole table in one stretch of its CPU that cannot be
 * interrupted, so only up to a size; it needs CAP_BPF only. `portable` needs no programs, and has the widest window.
 *
 * Owns what a pass is: the clock read once, the layout checked, candidates judged, the guard applied, only what still is as
 * it was read deleted, NAT cleaned up, and a record in which every count adds up, whatever ended it. Who may start a pass,
 * and when, is for others.
 *
 * @since 0.1.0
 */
import type { CtTime, Filter, MapKind } from "ctmap-core"
import { Bpf, type BpfError, type CtPair, Dump, KernelClock, Layout, MapIterator, Owner, type Scan } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Deleted } from "./GcEvents.ts"
import type * as GcPass from "./GcPass.ts"
import { type GcRequest, readsClock } from "./GcRequest.ts"
import * as Guard from "./Guard.ts"
import { endOf } from "./internal/endOf.ts"
import * as Judge from "./internal/judge.ts"
import * as Programs from "./internal/programs.ts"
import * as Sweep from "./internal/sweep.ts"
import { MapTally } from "./internal/tally.ts"
import * as Pace from "./Pace.ts"
import { PurgeHook } from "./PurgeHook.ts"

/**
 * What a pass is to do.
 *
 * @since 0.1.0
 */
export interface Plan {
  /** Names the pass in its record and events. */
  readonly serial: number
  /** One or more; a pass serves them all. */
  readonly requests: ReadonlyArray<GcRequest>
  /**
   * Whether request number `i` is still wanted: asked before every batch where there are several. What only others than
   * those had asked for stays from then on; counts are what they were.
   */
  readonly isWanted?: (i: number) => boolean
  /** Count and tell what would go, delete nothing. */
  readonly dryRun?: boolean
  /** Default {@link Guard.defaults}. */
  readonly limits?: Guard.Limits
  /** Share of one core that the pass may use, above 0. Default 1. */
  readonly budget?: number
  /** Which maps of the pair. Default both. */
  readonly transports?: ReadonlyArray<MapKind.Transport>
  /** Collect a table that does not fit the clock: the caller has set the time by hand. */
  readonly trustsClock?: boolean
  /** Gets the batches of deleted entries, after their NAT entries are gone too. */
  readonly publish?: ((event: Deleted) => void) | undefined
  /** Hears after every batch how many entries of a map have been seen. */
  readonly progress?: ((map: string, seen: number) => void) | undefined
  /** Gets the record of the pass in any case: when it is done, when it failed, when it was interrupted. */
  readonly recorded?: ((pass: GcPass.GcPass) => void) | undefined
}

/**
 * What ends a pass before its time.
 *
 * @since 0.1.0
 */
export type SweepError =
  | BpfError.BpfError
  | Guard.GuardStopped
  | KernelClock.ImplausibleClock
  | CtTime.ClockError
  | Scan.Incomplete
  | Dump.UnknownLayout
  | Filter.FilterUnsupported

/**
 * Sweeps pairs.
 *
 * @since 0.1.0
 */
export class GcEngine extends Context.Service<
  GcEngine,
  {
    /**
     * **Details**
     *
     * Errors: see {@link SweepError}. What the guard limits is counted in all maps before an entry of any goes. The maps
     * are swept in order, and an error ends the pass where it is: what was
     * deleted by then stays deleted, consistently, and stands in the record. Interruptible between batches, with the
     * same result. Ownership: the pair stays the caller's, who sees to it that nobody else sweeps it meanwhile.
     */
    readonly sweep: (pair: CtPair.CtPair, plan: Plan) => Effect.Effect<GcPass.GcPass, SweepError>
  }
>()("ctmap-gc/GcEngine") {}

/**
 * Which engine.
 *
 * @since 0.1.0
 */
export interface Options {
  /**
   * `auto`: hybrid where a program can be loaded that puts back (CAP_BPF and CAP_PERFMON), else portable; through an fd for
   * reading only, hybrid with a program that does not. Any other must be what it says. Default `auto`.
   */
  readonly engine?: "auto" | GcPass.Engine
  /** Entries per read to start with. Default 1024: about half a millisecond. */
  readonly batchSize?: number
  /** Maps of more entries than this are not swept in one go: `kernel` does as `hybrid` there. Default {@link KERNEL_MAX_ENTRIES}. */
  readonly kernelMaxEntries?: number
  /** Maps with room for fewer entries are not worth loading the program that walks them. Default {@link WALK_MIN_ENTRIES}. */
  readonly walkMinEntries?: number
}

/**
 * The kernel engine holds its CPU for about 0.2 µs an entry of the table: a quarter of a second here.
 *
 * @since 0.1.0
 */
export const KERNEL_MAX_ENTRIES = 1_048_576

/**
 * To load the program that walks a table takes as long as to read 200,000 entries; it is kept for the next pass.
 *
 * @since 0.1.0
 */
export const WALK_MIN_ENTRIES = 131_072

/**
 * Where a `MapIterator` is provided, large tables are read by iterator, as long as it can promise to miss nothing.
 *
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<GcEngine, never, Bpf.Bpf | KernelClock.KernelClock> =>
  Layer.effect(GcEngine, make(options))

/** See {@link layer}. @since 0.1.0 */
export const make: (
  options: Options
) => Effect.Effect<GcEngine["Service"], never, Bpf.Bpf | KernelClock.KernelClock | Scope.Scope> = Effect.fnUntraced(
  function* (options: Options) {
    const bpf = yield* Bpf.Bpf
    const programs = yield* Programs.make
    const clock = yield* KernelClock.KernelClock
    const iterators = yield* Effect.serviceOption(MapIterator.MapIterator)
    const kernel = Option.match(iterators, {
      onNone: () => Context.make(Bpf.Bpf, bpf),
      onSome: (iterator) => Context.make(Bpf.Bpf, bpf).pipe(Context.add(MapIterator.MapIterator, iterator))
    })
    return GcEngine.of({
      sweep: (pair, plan) => Effect.provide(sweepPair(pair, plan, clock, programs, options), kernel)
    })
  }
)

const sweepPair = (
  pair: CtPair.CtPair,
  plan: Plan,
  clock: KernelClock.KernelClock["Service"],
  programs: Programs.Programs,
  { engine = "auto", batchSize = 1024, ...sizes }: Options
): Effect.Effect<GcPass.GcPass, SweepError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const began = performance.now()
    const startedAtMillis = yield* Effect.clockWith((wall) => wall.currentTimeMillis)
    let now = 0
    const { serial, requests, dryRun = false } = plan
    const tallies: Array<MapTally> = []

    const record = (exit: Exit.Exit<void, SweepError>): GcPass.GcPass => ({
      serial,
      family: pair.family,
      owner: Owner.describe(pair.owner),
      ...(pair.nat === undefined ? {} : { nat: pair.nat.map.name }),
      dryRun,
      now,
      startedAtMillis,
      millis: performance.now() - began,
      ...endOf(exit),
      maps: tallies.map((tally) => tally.record()),
      requests: requests.map((_, i) => ({
        wanted: tallies.reduce((sum, tally) => sum + tally.requests[i]!.wanted, 0),
        deleted: tallies.reduce((sum, tally) => sum + tally.requests[i]!.deleted, 0)
      }))
    })

    const pace = yield* Pace.make(plan.budget ?? 1)
    const hook = yield* PurgeHook
    const maps = [pair.tcp, pair.any].filter(({ transport }) => plan.transports?.includes(transport) ?? true)
    const pass = Effect.gen(function* () {
      now = yield* clock.now
      // All of them before the first entry goes: a pass that must refuse one table refuses.
      const targets = yield* Effect.forEach(maps, targetOf)
      if (pair.nat?.mismatch !== undefined) {
        return yield* Effect.fail(new Dump.UnknownLayout({ map: pair.nat.map.name, why: pair.nat.mismatch }))
      }
      const sweeps: Array<Sweep.Sweep> = []
      for (const target of targets) {
        const { map, transport } = target.ct
        const judge = yield* Judge.compile(
          requests,
          { ...target, family: pair.family, now, source: clock.source },
          plan.isWanted
        )
        const about = { map: map.name, transport, capacity: map.info.maxEntries }
        const tally = new MapTally(about, engine === "portable" ? "portable" : "hybrid", requests.length)
        const sweep = Sweep.make(
          target,
          {
            serial,
            judge,
            clock,
            now,
            checksClock: plan.trustsClock !== true && requests.some(readsTheClock),
            dryRun,
            limits: plan.limits ?? Guard.defaults,
            pace,
            publish: plan.publish,
            hook,
            engine,
            nat: pair.nat,
            programs,
            kernelMaxEntries: sizes.kernelMaxEntries ?? KERNEL_MAX_ENTRIES,
            walkMinEntries: sizes.walkMinEntries ?? WALK_MIN_ENTRIES,
            batchSize,
            progress: plan.progress
          },
          tally
        )
        const timed = <E>(step: Effect.Effect<void, E, Bpf.Bpf>): Effect.Effect<void, E, Bpf.Bpf> =>
          Effect.suspend(() => {
            if (!tallies.includes(tally)) tallies.push(tally)
            const stepBegan = performance.now()
            return Effect.ensuring(
              step,
              Effect.sync(() => void (tally.millis += performance.now() - stepBegan))
            )
          })
        sweeps.push({
          looksFirst: sweep.looksFirst,
          look: timed(sweep.look),
          carryOut: Effect.tap(timed(sweep.carryOut), () => Effect.sync(() => void (tally.completed = true)))
        })
      }
      // The guard speaks for all maps before the first entry of any goes.
      for (const { look, looksFirst } of sweeps) if (looksFirst) yield* look
      for (const { carryOut } of sweeps) yield* carryOut
    })
    return yield* pass.pipe(
      Effect.onExit((exit) => Effect.sync(() => plan.recorded?.(record(exit)))),
      Effect.map(() => record(Exit.void))
    )
  })

const readsTheClock = ({ expired, filter, within }: GcRequest): boolean =>
  expired === true || [filter, within].some((each) => each !== undefined && readsClock(each))

/** The release to read a map with. Errors: `UnknownLayout`. */
const targetOf = (ct: CtPair.CtMap) =>
  Effect.suspend(() => {
    const release = Layout.releaseOf(ct.layout)
    return release === undefined
      ? Effect.fail(
          new Dump.UnknownLayout({ map: ct.map.name, why: ct.layout._tag === "Unknown" ? ct.layout.why : "" })
        )
      : Effect.succeed({ ct, owner: ct.owner, release })
  })
