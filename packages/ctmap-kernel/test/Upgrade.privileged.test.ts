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
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import { afterAll, beforeAll, describe, vi } from "vitest"

const TOTAL = 60_000

/** Lets the event loop turn until something is so, under whatever clock. */
const turnsUntil = (isSo: () => boolean) => Effect.promise(() => vi.waitUntil(isSo, { timeout: 120_000, interval: 1 }))

Privileged.suite(describe, "a resize on the kernel", () => {
  const bpffs = TempBpfFs.make()
  beforeAll(bpffs.start)
  afterAll(bpffs.stop)

  contract("on the kernel", { layer: LibBpf.layer, root: bpffs.path })

  it.effect("under load loses no connection", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const path = MapName.pinPath(bpffs.path, "cilium_ct4_global")
        const spec = { ...MapSpec.ct(MapKind.globals[0]), maxEntries: 131_072 }
        yield* BpfMap.createPinned(spec, path)
        const script = fileURLToPath(new URL("resizeWriter.ts", import.meta.url))
        const writer = spawn(process.execPath, ["--conditions=ctmap-source", script, path, String(TOTAL)], {
          stdio: ["ignore", "pipe", "inherit"]
        })
        yield* Effect.addFinalizer(() => Effect.sync(() => writer.kill("SIGKILL")))
        let said = ""
        writer.stdout.on("data", (data: Buffer) => (said += data.toString()))
        const ended = once(writer, "close")
        yield* turnsUntil(() => said.includes("started") || writer.exitCode !== null)
        const migrating = yield* Effect.forkChild(
          Upgrade.migrate(path, { ...spec, maxEntries: 262_144 }, { settle: Duration.seconds(2) })
        )
        // Rounds as fast as they go; but the old map is not quiet before the writer has left it, however long that takes.
        const isReloaded = () => said.includes("reloaded") || writer.exitCode !== null
        for (let paused = 0; migrating.pollUnsafe() === undefined; paused += 20) {
          if (paused === 1000) yield* turnsUntil(isReloaded)
          yield* TestClock.adjust(isReloaded() ? "1 second" : "20 millis")
        }
        const done = yield* Fiber.join(migrating)
        assert.deepStrictEqual(yield* Effect.promise(() => ended), [0, null])
        const fresh = yield* BpfMap.open(path)
        assert.strictEqual(fresh.info.maxEntries, 262_144)
        assert.strictEqual(yield* Scan.count(fresh), TOTAL)
        assert.isAbove(done.caughtUp, 0, "the writer wrote to the old map after the swap")
        assert.isTrue(done.quiet)
      })
    ).pipe(Effect.provide(LibBpf.layer))
  )
})
