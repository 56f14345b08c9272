import { assert, describe, it } from "@effect/vitest"
import { Cell, Graph, Health, Hive, HiveError } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

import { A, B, C, plain } from "./rig.ts"

const provides = (id: string, key: typeof A, more: { readonly private?: ReadonlyArray<typeof A> } = {}) =>
  Cell.make(id, { description: "", provides: [key], layer: Layer.succeed(key, id), ...more })
const needsA = (id: string) => Cell.make(id, { description: "", needs: [A], layer: Layer.empty })

const problems = (cells: ReadonlyArray<Cell.Any>, given: ReadonlyArray<Cell.Key> = []) =>
  Graph.make(Hive.make("app", { cells, given })).problems.map(({ message }) => message)

describe("the order of start", () => {
  it("is that of needs, and among equals that of declaration", () => {
    const c = Cell.make("c", { description: "", needs: [A, B], layer: Layer.empty })
    const b = Cell.make("b", { description: "", needs: [A], provides: [B], layer: Layer.effect(B, A) })
    const graph = Graph.make(Hive.make("app", { cells: [plain("x"), c, b, plain("y"), provides("a", A), plain("z")] }))
    assert.deepStrictEqual(graph.order, ["x", "y", "a", "b", "c", "z"])
    assert.deepStrictEqual(graph.problems, [])
  })

  it("may put nested cells before the cell around them, or after it", () => {
    const around = Cell.make("around", {
      description: "",
      needs: [A],
      provides: [B],
      layer: Layer.effect(B, A),
      cells: [provides("before", A), Cell.make("after", { description: "", needs: [B], layer: Layer.empty })]
    })
    assert.deepStrictEqual(Graph.make(Hive.make("app", { cells: [around] })).order, ["before", "around", "after"])
  })
})

describe("a private service", () => {
  const user = needsA("user")

  it("is seen by nested cells, and nobody else", () => {
    const around = Cell.make("around", { description: "", private: [A], layer: Layer.succeed(A, ""), cells: [user] })
    const inside = Graph.make(Hive.make("app", { cells: [around] }))
    assert.deepStrictEqual(inside.problems, [])
    assert.deepStrictEqual(inside.nodes[1]?.needs, [{ service: "test/A", from: "around" }])
    const closed = Cell.make("around", { description: "", private: [A], layer: Layer.succeed(A, "") })
    assert.deepStrictEqual(problems([closed, user]), [
      'cell "user" needs the service "test/A", which is private to cell "around": make it public there, or nest the one cell in the other'
    ])
  })

  it("may be made by a nested cell", () => {
    const around = Cell.make("around", { description: "", private: [A], cells: [user, provides("maker", A)] })
    const graph = Graph.make(Hive.make("app", { cells: [around] }))
    assert.deepStrictEqual(graph.problems, [])
    assert.deepStrictEqual(graph.order, ["around", "maker", "user"])
    assert.strictEqual(problems([around, needsA("other")]).length, 1)
  })

  it("hides a public one of the same key, and two cells may have one each", () => {
    const one = (id: string, inner: string) =>
      Cell.make(id, { description: "", private: [A], layer: Layer.succeed(A, id), cells: [needsA(inner)] })
    const graph = Graph.make(Hive.make("app", { cells: [provides("all", A), one("p", "in-p"), one("q", "in-q")] }))
    assert.deepStrictEqual(graph.problems, [])
    const from = new Map(graph.nodes.map(({ id, needs }) => [id, needs[0]?.from]))
    assert.deepStrictEqual([from.get("in-p"), from.get("in-q")], ["p", "q"])
  })

  it("may wrap the public one that the same cell needs", () => {
    const wrapper = Cell.make("wrapper", {
      description: "",
      needs: [A],
      private: [A],
      layer: Layer.effect(
        A,
        Effect.map(A, (word) => `${word}!`)
      ),
      cells: [user]
    })
    const graph = Graph.make(Hive.make("app", { cells: [wrapper, provides("all", A)] }))
    assert.deepStrictEqual(graph.problems, [])
    assert.deepStrictEqual(graph.order, ["all", "wrapper", "user"])
  })
})

describe("what is wrong with a graph is said in one sentence", () => {
  it.each([
    [
      "a missing provider",
      [needsA("user")],
      'cell "user" needs the service "test/A", which no cell provides: add one that does, or name it in `given`'
    ],
    [
      "two providers",
      [provides("one", A), provides("two", A)],
      'the service "test/A" is provided by the cells "one", "two": keep one of them, or make it private to the cell that uses it'
    ],
    [
      "two private providers",
      [Cell.make("box", { description: "", private: [A], cells: [provides("one", A), provides("two", A)] })],
      'the service "test/A" is provided within cell "box" by the cells "one", "two": keep one of them, or make it private to the cell that uses it'
    ],
    [
      "two cells of one id",
      [plain("same"), plain("same")],
      '2 cells have the id "same": ids are unique in a hive, nested cells included'
    ],
    [
      "an id that is not kebab-case",
      [plain("notKebab")],
      'the id "notKebab" is not kebab-case: lower-case letters and digits in words joined by single dashes, such as "disk-watch"'
    ],
    [
      "a cell without a layer",
      [Cell.make("empty", { description: "", provides: [A] })],
      'cell "empty" says that it provides "test/A", but has no layer to make it, nor a nested cell'
    ],
    [
      "a cell that needs what only it provides",
      [Cell.make("self", { description: "", provides: [A], needs: [A], layer: Layer.effect(A, A) })],
      'cell "self" needs the service "test/A", which only the cell itself provides: provide it under another key, or privately around the cell that needs it'
    ],
    [
      "a circle",
      [
        plain("before"),
        Cell.make("one", { description: "", needs: [A], provides: [B], layer: Layer.effect(B, A) }),
        Cell.make("two", { description: "", needs: [C], provides: [A], layer: Layer.effect(A, C) }),
        Cell.make("three", { description: "", needs: [B], provides: [C], layer: Layer.effect(C, B) })
      ],
      'cells need each other in a circle: "one" needs "test/A" of "two" needs "test/C" of "three" needs "test/B" of "one"; give one of them what it needs some other way'
    ],
    [
      "a service of the hive's own",
      [
        Cell.make("health", {
          description: "",
          provides: [Health.Health],
          layer: Layer.succeed(Health.Health, undefined as never)
        })
      ],
      'cell "health" provides "ctmap-cell/Health", which every hive provides itself'
    ],
    [
      "a setting of two cells",
      ["one", "two"].map((id) =>
        Cell.make(id, { description: "", config: Schema.Struct({ maxAge: Schema.String }), layer: Layer.empty })
      ),
      'the cells "one", "two" have the setting "max-age" each: rename one, or let one cell own it and provide it'
    ],
    [
      "a setting that has no flag",
      [Cell.make("one", { description: "", config: Schema.Struct({ "max age": Schema.String }), layer: Layer.empty })],
      'the setting "max age" of cell "one" is not camelCase, so it has no flag: letters and digits, the first a small letter'
    ]
  ] as const)("%s", (_, cells, message) => {
    assert.deepStrictEqual(problems(cells), [message])
  })

  it("a service that is given and provided", () => {
    assert.deepStrictEqual(problems([provides("one", A)], [A]), [
      'the service "test/A" is given from outside and provided by cell "one": drop one of the two'
    ])
  })

  it.effect("all at once", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Graph.check(Hive.make("app", { cells: [needsA("X"), plain("y"), plain("y")] })))
      assert.instanceOf(error, HiveError.GraphError)
      assert.deepStrictEqual(
        error.problems.map(({ kind, cells }) => `${kind} ${cells.join()}`),
        ["bad-id X", "duplicate-cell y", "missing-provider X"]
      )
      assert.match(
        error.message,
        /^hive "app" cannot be composed:\n {2}- the id "X" .*\n {2}- 2 cells .*\n {2}- cell "X" /
      )
    })
  )
})
