import { spawn } from "node:child_process"
import { once } from "node:events"
import { readdirSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { Bpf, LibBpf } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { onTestFinished, vi } from "vitest"

const source = fileURLToPath(new URL("../src/run.ts", import.meta.url))
const fs = TempBpfFs.make()

Privileged.suite(describe, "a migration in the kernel", () => {
  beforeAll(fs.start)
  afterAll(fs.stop)

  it("tells to reload, carries over what is written meanwhile, and leaves the new map when ctrl-C ends it", async () => {
    const bpf = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
    const path = MapName.pinPath(fs.path, "cilium_ct4_global")
    const open = (fd: number): number => {
      assert.isAtLeast(fd, 0)
      onTestFinished(() => void bpf.close(fd))
      return fd
    }
    const old = open(bpf.mapCreate({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 1024 }, "old"))
    assert.strictEqual(bpf.update(old, new Uint8Array(14).fill(1), new Uint8Array(56), Bpf.ANY), 0)
    bpf.makeDirectory(path.slice(0, path.lastIndexOf("/")))
    assert.strictEqual(bpf.pin(old, path), 0)

    const flags = ["--bpffs-root", fs.path, "--bpf-ct-global-tcp-max", "4096", "--migrate", "--yes", "--settle", "1h"]
    const child = spawn(process.execPath, ["--conditions=ctmap-source", source, "upgrade", ...flags], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    onTestFinished(() => void child.kill("SIGKILL"))
    // Not before its last words have been read.
    const ended = once(child, "close")
    let stderr = ""
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()))
    await vi.waitUntil(() => stderr.includes("reload the datapath's programs now"), { timeout: 120_000, interval: 10 })

    const fresh = open(bpf.openPin(path))
    const info = bpf.mapInfo(fresh)
    assert.strictEqual(typeof info === "number" ? info : info.maxEntries, 4096)
    const [key, value] = [new Uint8Array(14).fill(2), new Uint8Array(56).fill(3)]
    assert.strictEqual(bpf.update(old, key, value, Bpf.ANY), 0)
    await vi.waitUntil(() => bpf.lookup(fresh, key, new Uint8Array(56)) === 0, { timeout: 120_000, interval: 10 })

    child.kill("SIGINT")
    assert.deepStrictEqual(await ended, [130, null])
    assert.match(stderr, /interrupted: the new maps stay pinned.*cilium_ct4_global; .*reload them at once\n$/)
    assert.deepStrictEqual(readdirSync(path.slice(0, path.lastIndexOf("/"))), ["cilium_ct4_global"])
    assert.strictEqual(bpf.lookup(fresh, new Uint8Array(14).fill(1), value), 0)
  })
})
