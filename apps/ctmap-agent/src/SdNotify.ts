/**
 * What systemd wants to hear of a service: that it is ready, how it is, that it is alive, that it reloads or stops.
 *
 * Owns the protocol of sd_notify(3): datagrams of `NAME=value` lines to the socket in `NOTIFY_SOCKET`, and the deadline
 * in `WATCHDOG_USEC`. Without that socket there is nobody to tell.
 *
 * @since 0.1.0
 */
import type { Health } from "ctmap-cell"
import { Bpf } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/**
 * The variables that systemd sets, and the process they are meant for.
 *
 * @since 0.1.0
 */
export interface Environment {
  readonly pid: number
  readonly variables: Readonly<Record<string, string | undefined>>
}

/** Default: this process. @since 0.1.0 */
export const Environment = Context.Reference<Environment>("ctmap-agent/SdNotify/Environment", {
  defaultValue: () => ({ pid: process.pid, variables: process.env })
})

/** The message did not arrive. */
class NotDelivered extends Schema.TaggedError<NotDelivered>()("NotDelivered", {
  socket: Schema.String,
  errno: Schema.Int
}) {
  override get message(): string {
    return this.socket.startsWith("vsock:")
      ? `systemd is not told anything: NOTIFY_SOCKET is ${this.socket}, and only sockets of this host are supported`
      : `systemd does not hear what is sent to ${this.socket} (errno ${this.errno}): check NOTIFY_SOCKET, and NotifyAccess= of the unit`
  }
}

/** @since 0.1.0 */
export interface SdNotify {
  /** One datagram; the names that are given are its lines, in their order. */
  readonly notify: (fields: Readonly<Record<string, string | number>>) => Effect.Effect<void, NotDelivered>
  /** Within which time something must be heard; nothing where no watchdog waits for this process. */
  readonly watchdog: Duration.Duration | undefined
}

/**
 * Who is to be told, if anybody.
 *
 * @since 0.1.0
 */
export const make: Effect.Effect<SdNotify | undefined, never, Bpf.Bpf> = Effect.gen(function* () {
  const { sendDatagram } = yield* Bpf.Bpf
  const { pid, variables } = yield* Environment
  const socket = variables["NOTIFY_SOCKET"]
  if (socket === undefined || socket === "") return undefined
  const notify: SdNotify["notify"] = (fields) =>
    Effect.suspend(() => {
      const lines = Object.entries(fields).map(([name, value]) => `${name}=${oneLine(value)}`)
      const rc = sendDatagram(socket, new TextEncoder().encode(lines.join("\n")))
      return rc < 0 ? Effect.fail(new NotDelivered({ socket, errno: -rc })) : Effect.void
    })
  return { notify, watchdog: watchdogOf(variables, pid) }
})

/** A line break would begin another field. */
const oneLine = (value: string | number): string => String(value).replaceAll(/\s*\n\s*/g, " ")

const watchdogOf = (variables: Environment["variables"], pid: number): Duration.Duration | undefined => {
  const micros = Number(variables["WATCHDOG_USEC"])
  const meant = variables["WATCHDOG_PID"]
  if (!Number.isSafeInteger(micros) || micros <= 0) return undefined
  return meant === undefined || meant === "" || Number(meant) === pid ? Duration.micros(BigInt(micros)) : undefined
}

/**
 * A tree of health as one sentence, for `systemctl status`: what is wrong, else what those that work say of themselves.
 *
 * **Example** (One bad part)
 *
 * `degraded: presence: waiting for tables`
 *
 * @since 0.1.0
 */
export const sentence = (tree: Health.Node): string => {
  const said = (node: Health.Node, status: Health.Status, cell: string): ReadonlyArray<string> => {
    const name = node.kind === "cell" ? node.name : cell
    const own = node.status === status && node.message !== "" ? [{ name, message: node.message }] : []
    return [
      ...own.map((one) => (status === "degraded" ? `${one.name}: ${one.message}` : one.message)),
      ...node.parts.flatMap((part) => said(part, status, name))
    ]
  }
  const [first, ...others] = said(tree, "degraded", tree.name)
  if (first !== undefined) return cut(`degraded: ${first}${others.length > 0 ? ` (and ${others.length} more)` : ""}`)
  return cut(["running", ...said(tree, "ok", tree.name)].join("; "))
}

const cut = (text: string): string => (text.length > SENTENCE_LENGTH ? `${text.slice(0, SENTENCE_LENGTH - 1)}…` : text)

const SENTENCE_LENGTH = 240
