/**
 * `ctmap status`: how the agent is.
 *
 * @since 0.1.0
 */
import { type AgentError, AgentUnreachable } from "ctmap-api/AgentClient"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { AgentFailed } from "../Failure.ts"
import type { Agent } from "../Options.ts"
import * as Output from "../Output.ts"
import * as StatusReport from "../render/StatusReport.ts"
import * as Connection from "./Connection.ts"

/** An agent that takes longer is stuck: it answers from what it knows. */
const PATIENCE = Duration.seconds(10)

/** Errors: as the client's; `AgentFailed` once all is told of an agent that is not ready. @since 0.1.0 */
export const status = (agent: Agent, output: "json" | "table" | "text") =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      const patiently = <A>(answer: Effect.Effect<A, AgentError>) =>
        Effect.timeoutOrElse(answer, {
          duration: PATIENCE,
          orElse: () => Effect.fail(new AgentUnreachable({ at: client.at, why: "it took more than 10 s to answer" }))
        })
      const found = yield* patiently(client.status)
      const pinned = yield* patiently(client.maps).pipe(
        Effect.catch((error) =>
          Effect.as(Output.note(`ctmap: ${Connection.told(error, client.at).message}`), { root: "", maps: [] })
        )
      )
      const now = yield* Clock.currentTimeMillis
      const shown = { at: client.at, status: found, maps: pinned.maps, now }
      yield* Output.write(output === "json" ? StatusReport.json(shown) : StatusReport.text(shown))
      if (!found.ready) {
        const waiting = found.cells
          .filter(({ state }) => state !== "started")
          .map(({ cell, state }) => `${cell} is ${state}`)
        return yield* new AgentFailed({
          why: `the agent at ${client.at} is not ready${waiting.length === 0 ? "" : `: ${waiting.join(", ")}`}`
        })
      }
    })
  )
