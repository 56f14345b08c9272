import { assert, describe, it } from "@effect/vitest"
import { Cell, Hive } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { A, B, C } from "./rig.ts"

/** `true satisfies Same<X, Y>` compiles where it is so. */
type Same<X, Y> = [X, Y] extends [Y, X] ? true : false

const a = Cell.make("a", { description: "", provides: [A], layer: Layer.succeed(A, "") })
const b = Cell.make("b", { description: "", needs: [A], provides: [B], layer: Layer.effect(B, A) })

describe("types", () => {
  it("know what a cell provides and needs", () => {
    assert.isTrue(true satisfies Same<A, Cell.Provides<typeof a>>)
    assert.isTrue(true satisfies Same<never, Cell.Needs<typeof a>>)
    assert.isTrue(true satisfies Same<A, Cell.Needs<typeof b>>)
    assert.strictEqual(b.needs[0]?.key, "test/A")
  })

  it("take private services and nested cells into account", () => {
    const box = Cell.make("box", { description: "", private: [A], cells: [a, b] })
    assert.isTrue(true satisfies Same<B, Cell.Provides<typeof box>>)
    assert.isTrue(true satisfies Same<never, Cell.Needs<typeof box>>)
    const wrapper = Cell.make("w", { description: "", needs: [A], private: [A], layer: Layer.effect(A, A), cells: [b] })
    assert.isTrue(true satisfies Same<A, Cell.Needs<typeof wrapper>>)
    assert.isTrue(true satisfies Same<B, Cell.Provides<typeof wrapper>>)
    assert.deepStrictEqual(
      Cell.publicKeys(wrapper).map(({ key }) => key),
      ["test/B"]
    )
  })

  it("let a complete hive be a layer, of which nothing is asked", () => {
    const layer = Hive.layer(Hive.make("app", { cells: [b, a] }))
    assert.isTrue(true satisfies Same<A | B | Hive.Offers, Layer.Success<typeof layer>>)
    assert.isTrue(true satisfies Same<never, Layer.Services<typeof layer>>)
    const given = Hive.layer(Hive.make("app", { cells: [b], given: [A] }))
    assert.isTrue(true satisfies Same<A, Layer.Services<typeof given>>)
    assert.isTrue(Layer.isLayer(layer))
  })

  it("refuse what cannot work", () => {
    // @ts-expect-error: the hive lacks A
    Hive.layer(Hive.make("app", { cells: [b] }))
    // @ts-expect-error: the hive lacks A
    void Hive.launch(Hive.make("app", { cells: [b] }))
    const hidden = Cell.make("hidden", { description: "", private: [A], layer: Layer.succeed(A, "") })
    // @ts-expect-error: A is private to the cell that provides it
    Hive.layer(Hive.make("app", { cells: [b, hidden] }))
    // @ts-expect-error: the layer does not make B
    Cell.make("short", { description: "", provides: [A, B], layer: Layer.succeed(A, "") })
    // @ts-expect-error: the layer uses C, which the cell does not say it needs
    // @effect-diagnostics-next-line missingLayerContext:off
    Cell.make("sly", { description: "", provides: [A], layer: Layer.effect(A, C) })
    const config = Schema.Struct({ n: Schema.Int })
    // @ts-expect-error: the setting is a number
    Cell.make("typed", { description: "", config, provides: [A], layer: ({ n }) => Layer.succeed(A, n) })
    // @ts-expect-error: there is no such setting
    Cell.make("typed", { description: "", config, layer: ({ m }) => Layer.succeed(A, m) })
    const both = Hive.make("app", { cells: [a, b] })
    // @ts-expect-error: the stand-in does not make A
    Hive.replace(both, a, Layer.succeed(B, ""))
    // @ts-expect-error: a stand-in needs nothing
    // @effect-diagnostics-next-line missingLayerContext:off
    Hive.replace(both, a, Layer.effect(A, C))
    assert.strictEqual(both.cells.length, 2)
  })

  it("let a layer make more than the cell shows", () => {
    const more = Cell.make("more", {
      description: "",
      provides: [A],
      layer: Layer.merge(Layer.succeed(A, ""), Layer.effect(B, Effect.succeed("")))
    })
    assert.isTrue(true satisfies Same<A, Cell.Provides<typeof more>>)
    assert.strictEqual(more.provides.length, 1)
  })
})
