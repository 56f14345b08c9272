/** Why an agent cannot be reached, for people. */
import { readFileSync, type Stats, statSync } from "node:fs"
import { dirname } from "node:path"
import type * as HttpClientError from "effect/http/HttpClientError"
import { isForeign, socketPath } from "./address.ts"

export interface Lost {
  readonly why: string
  readonly code?: string
}

/** Answers nothing where the agent was reached and only its answer is strange. */
export const unreachable = (at: string, reason: HttpClientError.HttpClientErrorReason): Lost | undefined => {
  if (reason._tag === "InvalidUrlError" || isForeign(at)) {
    return { why: "that is neither the path of a socket nor a URL such as http://127.0.0.1:9964" }
  }
  const code = "cause" in reason ? codeOf(reason.cause) : undefined
  if (reason._tag !== "TransportError" && code === undefined) return undefined
  return { why: sentence(at, code, reason.message), ...(code === undefined ? {} : { code }) }
}

const codeOf = (cause: unknown): string | undefined => {
  if (typeof cause !== "object" || cause === null) return undefined
  if ("code" in cause && typeof cause.code === "string") return cause.code
  // Of several addresses that were tried.
  if ("errors" in cause && Array.isArray(cause.errors)) return codeOf(cause.errors[0])
  return "cause" in cause ? codeOf(cause.cause) : undefined
}

const sentence = (at: string, code: string | undefined, message: string): string => {
  const path = socketPath(at)
  switch (code) {
    case "ENOENT":
    case "ENOTDIR":
      return "there is no such socket; start ctmap-agent, or name the socket that it has"
    case "ECONNREFUSED":
      return path === undefined
        ? "nobody listens there; start ctmap-agent with --api-listen, or name the address that it has"
        : nobodyAt(path)
    case "EACCES":
    case "EPERM":
      return path === undefined ? "not permitted" : `not permitted; ${whose(path)}`
    case "ECONNRESET":
    case "EPIPE":
      return "it closed the connection; its log says whether it stopped"
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "the name of the host has no address"
    default:
      return code === undefined ? message : `${code}; check the address`
  }
}

/** The agent replaces a socket that was left behind, and nothing else. */
const nobodyAt = (path: string): string => {
  const found = stat(path)
  return found?.isDirectory() === true
    ? "that is a directory; name the socket in it, such as agent.sock"
    : found !== undefined && !found.isSocket()
      ? "that is no socket; name the one that ctmap-agent has"
      : "nobody listens on the socket any more; start ctmap-agent, which replaces it"
}

/** Whom the socket lets in, as far as that can be seen from here. */
const whose = (path: string): string => {
  for (const place of [path, dirname(path)]) {
    const found = stat(place)
    if (found === undefined) continue
    const group = nameOf(found.gid) ?? `number ${found.gid}`
    return found.gid === 0
      ? `${place} is for root only: run as root, or start ctmap-agent with --api-socket-group`
      : `${place} is for the group ${group}: join it (usermod -aG ${group} USER, then log in again), or run as root`
  }
  return "run as root, or as a member of the group that the agent's --api-socket-group names"
}

const stat = (path: string): Stats | undefined => {
  try {
    return statSync(path)
  } catch {
    return undefined
  }
}

const nameOf = (gid: number): string | undefined => {
  try {
    const lines = readFileSync("/etc/group", "utf8").split("\n")
    return lines.map((line) => line.split(":")).find(([, , id]) => id === String(gid))?.[0]
  } catch {
    return undefined
  }
}
