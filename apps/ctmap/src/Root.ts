/**
 * The program as such, and how its commands get at their handlers.
 *
 * @since 0.1.0
 */
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import { UsageError } from "./Failure.ts"
import * as Flags from "./Flags.ts"
import { load } from "./Load.ts"
import type { Agent } from "./Options.ts"

/** The program itself: what every command shares. @since 0.1.0 */
export const root = Command.make("ctmap").pipe(
  Command.withSharedFlags({ bpffsRoot: Flags.bpffsRoot, agent: Flags.agent, token: Flags.token }),
  Command.withDescription(
    "Reads and explains the eBPF connection-tracking (CT) and NAT tables that Cilium's datapath writes.\n\n" +
      "  Needs read access to the pins and CAP_BPF, as root has it. Data goes to the standard output, all else to the " +
      "standard error.\n  Exit code: 0 done, 1 failed, 2 wrong usage, 3 refused."
  )
)

/** Runs a handler that is not loaded yet, below the bpffs of the command line. @since 0.1.0 */
export const lazily = <M, A, E, R>(from: () => Promise<M>, run: (module: M, root: string) => Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const { agent, bpffsRoot, token } = yield* root
    if (agent !== undefined) return yield* new UsageError({ problem: noAgentHere })
    if (token !== undefined) return yield* new UsageError({ problem: "--token is for an agent: add --agent=URL" })
    return yield* run(yield* load(from), bpffsRoot.directory)
  })

const noAgentHere =
  "this command works on the maps themselves: leave out --agent. An agent answers list, nat list, maps, gc, purge, " +
  "nat purge-orphans, watch and status"

/** Runs a handler that is not loaded yet, for the agent of the command line, even if that names none. @since 0.1.0 */
export const agentically = <M, A, E, R>(
  from: () => Promise<M>,
  run: (module: M, agent: Agent) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    const { agent, bpffsRoot, token } = yield* root
    if (bpffsRoot.isGiven) {
      return yield* new UsageError({ problem: "an agent has a --bpffs-root of its own: leave it out" })
    }
    return yield* run(yield* load(from), { at: agent?.at, token })
  })

/** The first, or the second where an agent is named. @since 0.1.0 */
export const unlessAgent = <A, E, R, A2, E2, R2>(direct: Effect.Effect<A, E, R>, viaAgent: Effect.Effect<A2, E2, R2>) =>
  Effect.flatMap(root, ({ agent }): Effect.Effect<A | A2, E | E2, R | R2> => (agent === undefined ? direct : viaAgent))
