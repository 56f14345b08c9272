/**
 * The command that is about an agent, and nothing without one: name, flags, help.
 *
 * @since 0.1.0
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { agentically } from "./Root.ts"

/** @since 0.1.0 */
export const status = Command.make(
  "status",
  {
    output: Flag.Literals("output", ["table", "text", "json"]).pipe(
      Flag.withAlias("o"),
      Flag.withDefault("table"),
      Flag.withDescription("table (text is the same) or json (default table)")
    )
  },
  ({ output }) =>
    agentically(
      () => import("./agent/status.ts"),
      ({ status: run }, agent) => run(agent, output)
    )
).pipe(
  Command.withDescription(
    "Shows how ctmap-agent is: schedule, last passes, tables with fill, health. Exit code 1 where it is not ready, or not " +
      "there."
  ),
  Command.withExamples([
    { command: "ctmap status", description: "The agent of this host" },
    { command: "ctmap status --agent=http://127.0.0.1:9964 -o json", description: "One that listens on TCP" }
  ])
)
