import { spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { assert, it } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { BpfMap, LibBpf, Scan, Upgrade } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { contract } from "./contract/Upgrade.contract.ts"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll, describe } from "vitest"

const TOTAL = 60_000

Privileged.suite(describe, "a resize on the kernel", () => {
  const bpffs = TempBpfFs.make()
  beforeAll(bpffs.start)
  afterAll(bpffs.stop)

  contract("on the kernel", { layer: LibBpf.layer, root: bpffs.path })

  it.live("under load loses no connection", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const path = MapName.pinPath(bpffs.path, "cilium_ct4_global")
        const spec = { ...MapSpec.ct(MapKind.globals[0]), maxEntries: 131_072 }
        yield* BpfMap.createPinned(spec, path)
        const script = fileURLToPath(new URL("resizeWriter.ts", import.meta.url))
        const writer = spawn(process.execPath, ["--conditions=ctmap-source", script, path, String(TOTAL)], {
          stdio: ["ignore", "pipe", "inherit"]
        })
        const ended = once(writer, "exit")
        yield* Effect.promise(() => once(writer.stdout, "data"))
        const done = yield* Upgrade.migrate(path, { ...spec, maxEntries: 262_144 }, { settle: Duration.seconds(1) })
        const [code] = yield* Effect.promise(() => ended)
        assert.strictEqual(code, 0)
        const fresh = yield* BpfMap.open(path)
        assert.strictEqual(fresh.info.maxEntries, 262_144)
        assert.strictEqual(yield* Scan.count(fresh), TOTAL)
        assert.isAbove(done.caughtUp, 0, "the writer wrote while the map was being copied")
      })
    ).pipe(Effect.provide(LibBpf.layer))
  )
})
