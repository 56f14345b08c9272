import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { LibBpf } from "ctmap-kernel"
import { FdLeak, Privileged, TempBpfFs } from "ctmap-testing"
import * as Collect from "./collectCases.ts"
import * as CollectNat from "./collectNatCases.ts"

const fs = TempBpfFs.make()

Privileged.suite(describe, "the commands that delete, in the kernel", () => {
  let before: ReadonlyArray<FdLeak.Handle> = []
  beforeAll(() => {
    fs.start()
    before = FdLeak.handles()
  })
  afterAll(() => fs.stop())

  const place = { root: fs.path, bpf: undefined, layer: LibBpf.layer }
  Collect.cases(place)
  CollectNat.cases(place)

  it("leaves no map, program or link open", () => {
    assert.deepStrictEqual(
      FdLeak.since(before, ({ kind }) => kind === "map" || kind === "prog" || kind === "link"),
      []
    )
  })
})
