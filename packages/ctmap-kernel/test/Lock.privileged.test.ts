import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { afterAll, assert, beforeAll, describe, layer } from "@effect/vitest"
import { Bpf, LibBpf } from "ctmap-kernel"
import * as Privileged from "ctmap-testing/Privileged"
import * as TempBpfFs from "ctmap-testing/TempBpfFs"
import * as Effect from "effect/Effect"

const EAGAIN = -11

/** What two agents have between them: flock(1) of util-linux is the other one. */
Privileged.suite(describe, "the lock of a bpffs", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  layer(LibBpf.layer)((test) => {
    test.effect("keeps out a process in other mount, network and pid namespaces", () =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const lock = bpf.lockDirectory(fs.path)
        const elsewhere = (): number | null =>
          spawnSync("unshare", ["--mount", "--net", "--pid", "--fork", "flock", "-n", "-E", "7", fs.path, "true"])
            .status
        assert.strictEqual(elsewhere(), 7)
        bpf.close(lock)
        assert.strictEqual(elsewhere(), 0)
      })
    )
    test.effect("goes with the process that held it, however that ends", () =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const other = spawn("flock", ["-n", "--no-fork", fs.path, "sh", "-c", "echo locked; exec sleep 60"], {
          stdio: ["ignore", "pipe", "inherit"]
        })
        yield* Effect.promise(() => once(other.stdout, "data"))
        assert.strictEqual(bpf.lockDirectory(fs.path), EAGAIN)
        other.kill("SIGKILL")
        yield* Effect.promise(() => once(other, "exit"))
        const lock = bpf.lockDirectory(fs.path)
        assert.isAtLeast(lock, 0)
        bpf.close(lock)
      })
    )
    test.effect("is that of one bpffs: it keeps it from going, and is none of the next at the same path", () =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const device = (): number => (bpf.stat(fs.path) as Bpf.PathInfo).device
        const [before, lock] = [device(), bpf.lockDirectory(fs.path)]
        assert.include(spawnSync("umount", [fs.path], { encoding: "utf8" }).stderr, "busy")
        assert.strictEqual(spawnSync("umount", ["-l", fs.path]).status, 0)
        assert.strictEqual(spawnSync("mount", ["-t", "bpf", "bpf", fs.path]).status, 0)
        // The old one is alive as long as it is locked, so that its number is not the new one's.
        assert.notStrictEqual(device(), before)
        const next = bpf.lockDirectory(fs.path)
        assert.isAtLeast(next, 0)
        for (const fd of [lock, next]) bpf.close(fd)
      })
    )
  })
})
