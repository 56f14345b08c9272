/**
 * Which cells there are, who provides what to whom, and in what order they start.
 *
 * Owns the decisions, pure: nothing is started to make a graph, so a test can look at the graph of a whole program.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Cell from "./Cell.ts"
import { GraphError, type Problem } from "./HiveError.ts"
import { findProblems } from "./internal/problems.ts"
import { links, type Linked } from "./internal/links.ts"

/**
 * Cells that are to be composed.
 *
 * @since 0.1.0
 */
export interface Cells {
  readonly name: string
  readonly cells: ReadonlyArray<Cell.Any>
  /** Services that come from outside. */
  readonly given: ReadonlyArray<Cell.Key>
  /** Ids that were asked for and are no cell's. */
  readonly strangers?: ReadonlyArray<string> | undefined
}

/**
 * A service that a cell needs, and the cell that it comes from; none where it is given from outside or missing.
 *
 * @since 0.1.0
 */
export interface Need {
  readonly service: string
  readonly from: string | undefined
}

/**
 * One cell in the graph.
 *
 * @since 0.1.0
 */
export interface Node {
  readonly id: string
  readonly description: string
  /** The cell that it is nested in. */
  readonly parent: string | undefined
  /** Keys of services that its own layer makes for everybody. */
  readonly provides: ReadonlyArray<string>
  /** Keys of services that only it and cells nested in it see. */
  readonly private: ReadonlyArray<string>
  readonly needs: ReadonlyArray<Need>
  readonly cell: Cell.Any
}

/**
 * The graph of a hive.
 *
 * @since 0.1.0
 */
export interface Graph {
  readonly name: string
  /** Every cell, parents before what is nested in them, else in the order of declaration. */
  readonly nodes: ReadonlyArray<Node>
  /** Ids in the order in which they start; they stop in reverse. Shorter than `nodes` where needs go in a circle. */
  readonly order: ReadonlyArray<string>
  /** Keys of services from outside. */
  readonly given: ReadonlyArray<string>
  /** What is wrong, in the order of the cells. */
  readonly problems: ReadonlyArray<Problem>
}

/**
 * The graph of cells, sound or not.
 *
 * **Details**
 *
 * A need is met by the nearest provider: private services of the cell itself and of the cells around it come first, from
 * the inside out, then what is public. Cells start one after another. Among those whose needs have started, the one that
 * was declared first is next, so the order never changes by itself.
 *
 * **Example** (The order of three cells)
 *
 * ```ts
 * import { Cell, Graph, Hive } from "ctmap-cell"
 * import * as Context from "effect/Context"
 * import * as Layer from "effect/Layer"
 *
 * class Db extends Context.Service<Db, string>()("app/Db") {}
 * const api = Cell.make("api", { description: "answers", needs: [Db], layer: Layer.empty })
 * const db = Cell.make("db", { description: "remembers", provides: [Db], layer: Layer.succeed(Db, "") })
 * Graph.make(Hive.make("app", { cells: [api, db] })).order // => ["db", "api"]
 *
 * const [problem] = Graph.make(Hive.make("app", { cells: [api] })).problems
 * problem?.message
 * // => "cell \"api\" needs the service \"app/Db\", which no cell provides: add one that does, or name it in `given`"
 * ```
 *
 * @since 0.1.0
 */
export const make = (cells: Cells): Graph => {
  const linked = links(cells)
  return {
    name: cells.name,
    nodes: linked.nodes.map((node) => ({
      id: node.cell.id,
      description: node.cell.description,
      parent: node.parent?.cell.id,
      provides: node.makes.filter((key) => !isPrivate(node, key)),
      private: node.cell.private.map(({ key }) => key),
      needs: node.needs.map(({ service, from }) => ({ service, from: from?.cell.id })),
      cell: node.cell
    })),
    order: linked.order.map(({ cell }) => cell.id),
    given: cells.given.map(({ key }) => key),
    problems: findProblems(cells, linked)
  }
}

/**
 * The graph, if the cells fit together. Errors: `GraphError`, with everything that is wrong.
 *
 * @since 0.1.0
 */
export const check = (cells: Cells): Effect.Effect<Graph, GraphError> =>
  Effect.suspend(() => {
    const graph = make(cells)
    const { problems } = graph
    return problems.length === 0 ? Effect.succeed(graph) : Effect.fail(new GraphError({ hive: cells.name, problems }))
  })

// internal

const isPrivate = ({ cell }: Linked, key: string): boolean => cell.private.some((service) => service.key === key)
