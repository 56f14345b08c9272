/**
 * A hive as a picture: what its cells are, what they provide to whom, and what can be set. Same hive, same text.
 *
 * @since 0.1.0
 */
import * as Graph from "./Graph.ts"
import { grouped } from "./internal/grouped.ts"
import * as Settings from "./Settings.ts"

/**
 * The tree of cells with what they provide, need and can be told, as text. With effective settings, their values.
 *
 * **Example** (Two cells)
 *
 * ```ts
 * import { Cell, Hive, Inspect } from "ctmap-cell"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as Schema from "effect/Schema"
 *
 * class Db extends Context.Service<Db, string>()("app/Db") {}
 * const api = Cell.make("api", { description: "answers requests", needs: [Db], layer: Layer.empty })
 * const db = Cell.make("db", {
 *   description: "remembers",
 *   provides: [Db],
 *   config: Schema.Struct({
 *     dbPath: Schema.String.annotate({ description: "where" }).pipe(Schema.withDecodingDefaultKey(Effect.succeed("/db")))
 *   }),
 *   layer: ({ dbPath }) => Layer.succeed(Db, dbPath)
 * })
 * const hive = Hive.make("app", { cells: [api, db] })
 * Inspect.text(hive)
 * // => [
 *   //   "app",
 *   //   "├─ api: answers requests",
 *   //   "│    needs     app/Db (db)",
 *   //   "└─ db: remembers",
 *   //   "     provides  app/Db",
 *   //   "     setting   --db-path  where; default /db; APP_DB_PATH",
 *   //   "",
 *   //   "start order: db, api"
 *   //   ].join("\n")
 * ```
 *
 * @since 0.1.0
 */
export const text = (
  cells: Graph.Cells,
  options: { readonly effective?: ReadonlyArray<Settings.Effective> } = {}
): string => {
  const graph = Graph.make(cells)
  const details = (node: Graph.Node): ReadonlyArray<readonly [string, string]> => [
    ...node.provides.map((key) => ["provides", key] as const),
    ...node.private.map((key) => ["private", key] as const),
    ...node.needs.map(({ from, service }) => ["needs", `${service} (${from ?? originOf(graph, service)})`] as const),
    ...(options.effective === undefined
      ? settingsOf(cells, node.id)
      : options.effective
          .filter(({ cell }) => cell === node.id)
          .map(({ name, value, where }) => ["setting", `${name} = ${value ?? "unset"}  # ${where}`] as const))
  ]
  const isAround = ({ id }: Graph.Node) => graph.nodes.some(({ parent }) => parent === id)
  const below = (parent: string | undefined, indent: string): ReadonlyArray<string> => {
    const nodes = graph.nodes.filter((node) => node.parent === parent)
    return nodes.flatMap((node, i) => {
      const isLast = i === nodes.length - 1
      const inner = `${indent}${isLast ? "   " : "│  "}`
      const lines = details(node).map(
        ([what, which]) => `${inner}${isAround(node) ? "│ " : "  "}${what.padEnd(9)} ${which}`
      )
      const head = `${indent}${isLast ? "└─" : "├─"} ${node.id}: ${node.description}`
      return [head].concat(lines, below(node.id, inner))
    })
  }
  const given = graph.given.length === 0 ? [] : [`given: ${graph.given.join(", ")}`]
  return [graph.name, ...below(undefined, ""), "", ...given, `start order: ${graph.order.join(", ")}`].join("\n")
}

/**
 * The graph for Graphviz: an arrow from who needs a service to who provides it.
 *
 * @since 0.1.0
 */
export const dot = (cells: Graph.Cells): string => {
  const graph = Graph.make(cells)
  const quoted = (label: string) => `"${label.replaceAll(/["\\]/g, (letter) => `\\${letter}`)}"`
  const within = (parent: string | undefined, indent: string): ReadonlyArray<string> =>
    graph.nodes
      .filter((node) => node.parent === parent)
      .flatMap((node) => {
        const self = `${indent}${quoted(node.id)} [tooltip=${quoted(node.description)}]`
        const nested = within(node.id, `${indent}  `)
        if (nested.length === 0) return [self]
        const head = [`${indent}subgraph ${quoted(`cluster_${node.id}`)} {`, `${indent}  label=${quoted(node.id)}`]
        return head.concat(`  ${self}`, nested, `${indent}}`)
      })
  const outside = graph.given.map((key) => `  ${quoted(key)} [shape=ellipse, style=dashed]`)
  const arrows = arrowsOf(graph).map(
    ({ from, services, to }) => `  ${quoted(from)} -> ${quoted(to)} [label=${quoted(services.map(shortOf).join(", "))}]`
  )
  return [
    `digraph ${quoted(graph.name)} {`,
    "  node [shape=box]",
    ...within(undefined, "  "),
    ...outside,
    ...arrows,
    "}"
  ].join("\n")
}

/**
 * The graph for Mermaid, as Markdown on GitHub draws it: an arrow from who needs a service to who provides it.
 *
 * @since 0.1.0
 */
export const mermaid = (cells: Graph.Cells): string => {
  const graph = Graph.make(cells)
  const ids = new Map<string, string>()
  // Ids such as "end" mean something to Mermaid.
  const idOf = (name: string) => ids.get(name) ?? ids.set(name, `c${ids.size}`).get(name)!
  const label = (words: string) => `"${words.replaceAll('"', "#quot;")}"`
  const within = (parent: string | undefined, indent: string): ReadonlyArray<string> =>
    graph.nodes
      .filter((node) => node.parent === parent)
      .flatMap((node) => {
        const self = `${idOf(node.id)}[${label(node.id)}]`
        const nested = within(node.id, `${indent}  `)
        if (nested.length === 0) return [`${indent}${self}`]
        const head = `${indent}subgraph ${idOf(`in ${node.id}`)}[${label(`${node.id}, nested`)}]`
        return [head].concat(`${indent}  ${self}`, nested, `${indent}end`)
      })
  const nodes = within(undefined, "  ")
  const outside = graph.given.map((key) => `  ${idOf(key)}([${label(key)}])`)
  const arrows = arrowsOf(graph).map(
    ({ from, services, to }) => `  ${idOf(from)} -->|${label(services.map(shortOf).join(", "))}| ${idOf(to)}`
  )
  return ["flowchart LR", ...nodes, ...outside, ...arrows].join("\n")
}

// internal

const originOf = ({ given }: Graph.Graph, service: string): string =>
  given.includes(service) ? "given" : service.startsWith("ctmap-cell/") ? "hive" : "missing"

const settingsOf = (cells: Graph.Cells, id: string): ReadonlyArray<readonly ["setting", string]> =>
  Settings.definitions(cells)
    .filter(({ cell }) => cell === id)
    .map(({ description, fallback, flag, variable }) => {
      const words = [description, fallback === undefined ? "required" : `default ${fallback}`, variable]
      return ["setting", `${flag}  ${words.filter((word) => word !== undefined).join("; ")}`] as const
    })

/** The last word of a key. */
const shortOf = (key: string): string => key.split("/").at(-1) ?? key

/** One arrow for each pair, with all services that it stands for; in the order of the cells. */
const arrowsOf = ({ given, nodes }: Graph.Graph) => {
  const arrows = nodes.flatMap(({ id, needs }) =>
    needs.flatMap(({ from, service }) => {
      const to = from ?? (given.includes(service) ? service : undefined)
      return to === undefined ? [] : [{ from: id, to, service }]
    })
  )
  return [...grouped(arrows, ({ from, to }) => `${from} ${to}`).values()].map((same) => ({
    from: same[0]!.from,
    to: same[0]!.to,
    services: same.map(({ service }) => service)
  }))
}
