/**
 * The program as such, and how its commands get at their handlers.
 *
 * @since 0.1.0
 */
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Flags from "./Flags.ts"
import { load } from "./Load.ts"

/** The program itself: what every command shares. @since 0.1.0 */
export const root = Command.make("ctmap").pipe(
  Command.withSharedFlags({ bpffsRoot: Flags.bpffsRoot }),
  Command.withDescription(
    "Reads and explains the eBPF connection-tracking (CT) and NAT tables that Cilium's datapath writes.\n\n" +
      "  Needs read access to the pins and CAP_BPF, as root has it. Data goes to the standard output, all else to the " +
      "standard error.\n  Exit code: 0 done, 1 failed, 2 wrong usage, 3 refused."
  )
)

/** Runs a handler that is not loaded yet, below the bpffs of the command line. @since 0.1.0 */
export const lazily = <M, A, E, R>(from: () => Promise<M>, run: (module: M, root: string) => Effect.Effect<A, E, R>) =>
  Effect.flatMap(root, ({ bpffsRoot }) => Effect.flatMap(load(from), (module) => run(module, bpffsRoot)))
