/**
 * The agent for one command, and its refusals in the words and exit codes of every other command.
 *
 * @since 0.1.0
 */
import * as AgentClient from "ctmap-api/AgentClient"
import type * as Problem from "ctmap-api/Problem"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import { AgentFailed, NotFound, Refused, UsageError } from "../Failure.ts"
import type { Agent } from "../Options.ts"

/** @since 0.1.0 */
export type Client = AgentClient.AgentClient["Service"]

/** What a problem of the agent has become. @since 0.1.0 */
export type Told = AgentFailed | NotFound | Refused | UsageError

/** Runs with a client of the agent. Errors: {@link told} for problems; the client's own where nobody answers. @since 0.1.0 */
export const provide = <A, E, R>(
  agent: Agent,
  use: (client: Client) => Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, Problem.Problem> | Told | Config.ConfigError, Exclude<R, AgentClient.AgentClient>> =>
  Effect.flatMap(AgentClient.AgentClient, (client) =>
    Effect.mapError(use(client), (error) => told(error, client.at))
  ).pipe(Effect.provide(AgentClient.layer(agent)))

/** Whether it is one of the agent's problems, told apart by what it says of itself. */
const isProblem = (error: unknown): error is Problem.Problem =>
  typeof error === "object" &&
  error !== null &&
  "type" in error &&
  typeof error.type === "string" &&
  error.type.startsWith("urn:ctmap:problem:")

/**
 * A problem as an error of ours: `Refused` where a guard or a check of the agent said no, `UsageError` where it does not
 * take the request. Anything else as it is.
 *
 * @since 0.1.0
 */
export const told = <E>(error: E, at: string): Exclude<E, Problem.Problem> | Told => {
  if (!isProblem(error)) return error as Exclude<E, Problem.Problem>
  const sentence = `${sentenceOf(error)}, says the agent at ${at}`
  switch (error._tag) {
    case "GuardStopped":
    case "ClockImplausible":
      return new Refused({ why: sentence })
    case "InvalidRequest":
      return new UsageError({ problem: sentence })
    case "NotFound":
      return new NotFound({ what: sentence })
    default:
      return new AgentFailed({ why: sentence })
  }
}

const sentenceOf = (problem: Problem.Problem): string => {
  const said = problem.message.replace(/\.$/, "")
  switch (problem._tag) {
    case "InvalidRequest":
      return problem.errors.length === 0 ? said : problem.errors.map(issue).join("; ")
    case "Unauthorized":
      return `${said} (environment CTMAP_AGENT_TOKEN, or --token)`
    default:
      return said
  }
}

/** The first of a path says in which part of the request it is: that means nothing to who typed a command. */
const issue = ({ message, path }: Problem.Issue): string =>
  path.length > 1 ? `${path.slice(1).join(".")}: ${message}` : message
