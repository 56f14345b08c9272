/**
 * Who is told of service entries that were collected: Cilium's `PurgeHook`, which its active-connection tracking counts
 * failed connections with.
 *
 * A Layer, not a global that is set at some time: a pass knows its hook from the start, and tells the side of the right
 * family (the original tells the IPv6 side of IPv4 entries too).
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"

/**
 * Called once for every service entry that a pass has deleted, from inside the loop over a batch: so plain functions,
 * that should do no more than count.
 *
 * **Details**
 *
 * `serviceId` is the entry's revNAT number in host order, where the original hands out the raw network-order word;
 * `backendId` is cut to 32 bits as there. An entry of service counts where its tuple flags are exactly SERVICE.
 *
 * @since 0.1.0
 */
export interface Hook {
  readonly countFailed4: (serviceId: number, backendId: number) => void
  readonly countFailed6: (serviceId: number, backendId: number) => void
}

/**
 * The hook of all passes; nobody, unless provided.
 *
 * **Example** (Counting what was collected)
 *
 * ```ts
 * import { PurgeHook } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 *
 * const counted: Array<number> = []
 * const hook: PurgeHook.Hook = { countFailed4: (service) => counted.push(service), countFailed6: () => {} }
 * const program = Effect.map(PurgeHook.PurgeHook, (it) => it?.countFailed4(27, 3))
 * Effect.runSync(Effect.provideService(program, PurgeHook.PurgeHook, hook))
 * counted // => [27]
 * ```
 *
 * @since 0.1.0
 */
export const PurgeHook = Context.Reference<Hook | undefined>("ctmap-gc/PurgeHook", { defaultValue: () => undefined })
