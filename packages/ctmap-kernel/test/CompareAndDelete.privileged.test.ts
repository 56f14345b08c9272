import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import * as Bpf from "ctmap-kernel/Bpf"
import * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"
import * as LibBpf from "ctmap-kernel/LibBpf"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { cases, fixture, shapes } from "./compareAndDeleteCases.ts"

const object = {
  name: CompareAndDelete.object,
  elf: readFileSync(new URL("../bpf/compare_delete.bpf.o", import.meta.url)),
  programs: ["compare_delete"]
}

Privileged.suite(describe, "compare-and-delete in the kernel", () => {
  cases(LibBpf.layer)

  it.effect("loads the program that restores, for every kind of map", () =>
    Effect.gen(function* () {
      for (const shape of shapes) {
        const { table } = yield* fixture(shape)
        const cad = yield* CompareAndDelete.make(table)
        assert.deepStrictEqual([cad.engine, cad.restores, cad.refusal], ["program", true, undefined])
      }
    }).pipe(Effect.provide(LibBpf.layer))
  )

  it.effect("names maps as the object does, also those that stand for others", () =>
    Effect.gen(function* () {
      const kernel = yield* Bpf.Bpf
      const { table } = yield* fixture({ title: "CT", type: 9, keySize: 14, valueSize: 56, compared: "lifetime" })
      const loaded = kernel.loadObject({ ...object, reuse: { table: table.fd } })
      if ("errno" in loaded) return assert.fail(loaded.log)
      assert.deepStrictEqual(Object.keys(loaded.maps).toSorted(), ["gone", "table", "work"])
      assert.strictEqual(kernel.runProgram(loaded.programs["compare_delete"] ?? -1, new Uint8Array(40)), 0)
      loaded.close()
    }).pipe(Effect.provide(LibBpf.layer))
  )

  it.effect("a program that the verifier refuses leaves the verifier's last words", () =>
    Effect.gen(function* () {
      const kernel = yield* Bpf.Bpf
      // No word at offset 32 in a value of 16 bytes.
      const { table } = yield* fixture({ title: "odd", type: 9, keySize: 14, valueSize: 16, compared: "created" })
      const refused = kernel.loadObject({ ...object, reuse: { table: table.fd } })
      if (!("errno" in refused)) return assert.fail("it was loaded")
      assert.strictEqual(refused.errno, 13)
      assert.match(refused.log, /invalid access to map value, value_size=16 off=32 size=4/)
    }).pipe(Effect.provide(LibBpf.layer))
  )
})

Privileged.suite(describe, "compare-and-delete with less privilege", () => {
  /** Runs a child as root with these capabilities and no others. */
  const child = (capabilities: string, engine: string): unknown => {
    const script = fileURLToPath(new URL("./compareAndDeleteChild.ts", import.meta.url))
    const only = `-all${capabilities}`
    const { stdout, stderr, status } = spawnSync(
      "setpriv",
      [
        `--bounding-set=${only}`,
        `--inh-caps=${only}`,
        "--no-new-privs",
        process.execPath,
        "--conditions=ctmap-source",
        script,
        engine
      ],
      { encoding: "utf8" }
    )
    assert.strictEqual(status, 0, stderr)
    return JSON.parse(stdout)
  }
  const done = {
    totals: { deleted: 2, refreshed: 1, vanished: 1, restored: 0, busy: 0 },
    verdicts: [0, 1, 2, 0],
    left: []
  }

  it("loads, maps and runs with CAP_BPF and nothing else, and leaves nothing open", () => {
    const refusal = "NotPermitted"
    assert.deepStrictEqual(child(",+bpf", "program"), { engine: "program", restores: false, refusal, ...done })
    assert.deepStrictEqual(child(",+bpf", "auto"), { engine: "portable", restores: false, refusal, ...done })
  })

  it("puts back with CAP_PERFMON besides", () => {
    assert.deepStrictEqual(child(",+bpf,+perfmon", "auto"), {
      engine: "program",
      restores: true,
      refusal: "none",
      ...done
    })
  })
})
