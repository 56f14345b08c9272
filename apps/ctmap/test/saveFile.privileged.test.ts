import { spawnSync } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert, it } from "@effect/vitest"
import { MapKind, MapSpec } from "ctmap-core"
import { BpfMap, BpfMemory, Snapshot } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { describe } from "vitest"

Privileged.suite(describe, "saving to what is no regular file", () => {
  it.live("writes to it and leaves it what it is", () => {
    const folder = mkdtempSync(join(tmpdir(), "ctmap-save-"))
    const device = join(folder, "null")
    spawnSync("mknod", [device, "c", "1", "3"])
    return Effect.scoped(
      Effect.gen(function* () {
        const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 64 }, "cilium_ct4_global")
        yield* BpfMap.update(map, { key: new Uint8Array(14), value: new Uint8Array(56) })
        yield* Snapshot.saveFile(device, [map])
        assert.isTrue(statSync(device).isCharacterDevice())
        assert.deepStrictEqual(readdirSync(folder), ["null"])
      })
    ).pipe(
      Effect.provide(Layer.merge(BpfMemory.layer, NodeFileSystem.layer)),
      Effect.ensuring(Effect.sync(() => rmSync(folder, { recursive: true })))
    )
  })
})
