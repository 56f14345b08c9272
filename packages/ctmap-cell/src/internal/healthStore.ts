/** The one place where the health of a hive is kept. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type * as Health from "../Health.ts"

type Path = ReadonlyArray<string>
type Change = Partial<Pick<Health.Node, "status" | "message">>

export interface HealthStore {
  readonly health: Health.Health["Service"]
  /** A new thing below another one, which has to be there. */
  readonly add: (path: Path, node: Pick<Health.Node, "kind" | "status" | "message">) => Effect.Effect<void>
  readonly remove: (path: Path) => Effect.Effect<void>
  readonly say: (path: Path, change: Change) => Effect.Effect<void>
  readonly voice: (path: Path) => Health.Voice
  /** Ends the streams of changes. */
  readonly close: Effect.Effect<void>
}

export const make = (name: string): Effect.Effect<HealthStore> =>
  Effect.gen(function* () {
    const sinceMillis = yield* Clock.currentTimeMillis
    const root: Health.Node = {
      name,
      kind: "hive",
      status: "stopped",
      message: "not started yet",
      sinceMillis,
      parts: []
    }
    const ref = yield* SubscriptionRef.make(root)

    const edit = (path: Path, change: (node: Health.Node, now: number) => Health.Node | undefined) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        SubscriptionRef.updateSome(ref, (tree) => {
          const next = at(tree, path, (node) => change(node, now))
          return next === tree || next === undefined ? Option.none() : Option.some(next)
        })
      )

    const say: HealthStore["say"] = (path, { status, message }) =>
      edit(path, (node, now) => {
        const said = { status: status ?? node.status, message: message ?? node.message }
        return said.status === node.status && said.message === node.message
          ? node
          : { ...node, ...said, sinceMillis: now }
      })

    const add: HealthStore["add"] = (path, { kind, status, message }) =>
      edit(path.slice(0, -1), (parent, now) => ({
        ...parent,
        parts: [
          ...parent.parts.filter((part) => part.name !== path.at(-1)),
          { name: path.at(-1) ?? "", kind, status, message, sinceMillis: now, parts: [] }
        ]
      }))

    const remove = (path: Path) => edit(path, () => undefined)

    const voice = (path: Path): Health.Voice => ({
      ok: (message = "") => say(path, { status: "ok", message }),
      degraded: (message) => say(path, { status: "degraded", message }),
      stopped: (message = "") => say(path, { status: "stopped", message }),
      part: (part) =>
        Effect.acquireRelease(
          Effect.as(add([...path, part], { kind: "part", status: "ok", message: "" }), voice([...path, part])),
          () => remove([...path, part])
        )
    })

    const changes = Stream.buffer(SubscriptionRef.changes(ref), { capacity: 1, strategy: "sliding" })
    return {
      health: { tree: SubscriptionRef.get(ref), changes },
      add,
      remove,
      say,
      voice,
      close: PubSub.shutdown(ref.pubsub)
    }
  })

/** The tree with one node changed, or without it; the tree itself where nothing changes or the node is not there. */
const at = (
  node: Health.Node,
  [name, ...rest]: Path,
  change: (node: Health.Node) => Health.Node | undefined
): Health.Node | undefined => {
  if (name === undefined) return change(node)
  const index = node.parts.findIndex((part) => part.name === name)
  const part = node.parts[index]
  if (part === undefined) return node
  const next = at(part, rest, change)
  if (next === part) return node
  return { ...node, parts: next === undefined ? node.parts.toSpliced(index, 1) : node.parts.with(index, next) }
}
