/** One agent on a bpffs: what a second one is told, and what happens when the bpffs goes or another takes its place. */
import { spawn } from "node:child_process"
import { assert, describe, it } from "@effect/vitest"
import { Lifecycle } from "ctmap-cell"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as InstanceLock from "../src/InstanceLock.ts"
import { agent, healthOf, makeKernel, pass, ROOT, type Twin } from "./stage.ts"

const EAGAIN = -11

/** What somebody else is answered who wants the lock now; given back at once. */
const asked = ({ calls }: Twin): number => {
  const fd = calls.lockDirectory(ROOT)
  return fd < 0 ? fd : calls.close(fd)
}

const start = (twin: Twin, flags: ReadonlyArray<string> = []) =>
  Effect.scoped(Effect.asVoid(Layer.build(agent(twin, () => flags))))

describe("an agent", () => {
  it.effect("holds the lock of its bpffs as long as it runs, and no longer", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* Effect.provide(
        Effect.sync(() => assert.strictEqual(asked(twin), EAGAIN)),
        agent(twin)
      )
      assert.strictEqual(asked(twin), 0)
    })
  )

  it.effect("does not start beside another one, and says which root it is about and what to do", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      twin.calls.lockDirectory(ROOT)
      const { message } = yield* Effect.flip(start(twin))
      assert.match(message, /^cell "instance" of hive "ctmap" did not start: another agent works on the bpffs at/)
      assert.include(
        message,
        `at ${ROOT}: a process that cannot be seen from here: run \`fuser -v ${ROOT}\` on the host`
      )
      assert.include(message, "stop it, or give this one another --bpffs-root")
    })
  )

  it.effect("starts beside another one where it is told not to care", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      twin.calls.lockDirectory(ROOT)
      yield* start(twin, ["--no-instance-lock"])
    })
  )

  it.effect("waits for a bpffs, and locks it once it is mounted", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      twin.control.unmount(ROOT)
      yield* Effect.gen(function* () {
        yield* pass(twin, "1 second")
        assert.match(yield* healthOf("instance", "hold"), /^degraded, no bpffs is mounted at .*: waiting for it/)
        twin.control.mount(ROOT)
        yield* pass(twin, "10 seconds")
        assert.strictEqual(yield* healthOf("instance", "hold"), "ok")
        assert.strictEqual(asked(twin), EAGAIN)
      }).pipe(Effect.provide(agent(twin)))
    })
  )

  it.effect("lets go of a bpffs that is gone, and locks the next one at its path", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      const locks = () => twin.control.living().filter(({ kind }) => kind === "lock")
      yield* Effect.gen(function* () {
        twin.control.unmount(ROOT)
        assert.lengthOf(locks(), 1)
        yield* pass(twin, "10 seconds")
        assert.lengthOf(locks(), 0)
        twin.control.mount(ROOT)
        yield* pass(twin, "10 seconds")
        const [first] = locks()
        twin.control.unmount(ROOT)
        twin.control.mount(ROOT)
        yield* pass(twin, "10 seconds")
        assert.lengthOf(locks(), 1)
        assert.notDeepEqual(locks(), [first])
        assert.strictEqual(asked(twin), EAGAIN)
      }).pipe(Effect.provide(agent(twin)))
    })
  )

  it.effect("stops where the next bpffs at its path is somebody else's", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      const { message } = yield* Effect.gen(function* () {
        const { failure } = yield* Lifecycle.Lifecycle
        const watching = yield* Effect.forkChild(Effect.flip(failure))
        twin.control.unmount(ROOT)
        twin.control.mount(ROOT)
        twin.calls.lockDirectory(ROOT)
        yield* pass(twin, "10 seconds")
        return yield* Fiber.join(watching)
      }).pipe(Effect.provide(agent(twin)))
      assert.match(message, /^job "hold" of cell "instance" failed for good .*another agent works on the bpffs/)
    })
  )

  it.effect("collects all the same where the root may not be read, and says that a second agent is not kept away", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      twin.control.chmod(ROOT, 0o711)
      twin.control.asUser(1000, ["CAP_BPF"])
      yield* Effect.gen(function* () {
        yield* pass(twin, "1 second")
        const health = yield* healthOf("instance", "hold")
        assert.match(health, /^degraded, a second agent is not kept away: lock directory .*not permitted/)
      }).pipe(Effect.provide(agent(twin)))
    })
  )
})

describe("who holds the lock", () => {
  const ensure = (locks: string) =>
    Effect.gen(function* () {
      const { calls } = BpfMemory.make()
      calls.lockDirectory(ROOT)
      const { device, inode } = calls.stat(ROOT) as Bpf.PathInfo
      const text = locks.replaceAll("DEVICE", device.toString(16).padStart(2, "0")).replaceAll("INODE", String(inode))
      const lock = InstanceLock.make(ROOT, () => text)
      const taking = Effect.flatMap(lock, (made) => Effect.flip(made.ensure))
      return yield* Effect.scoped(Effect.provideService(taking, Bpf.Bpf, calls))
    })

  it.effect("is the process that /proc/locks names for this very directory", () =>
    Effect.gen(function* () {
      const { message } = yield* ensure(
        [
          `1: FLOCK  ADVISORY  WRITE 1 00:DEVICE:INODE1 0 EOF`,
          `2: POSIX  ADVISORY  WRITE 1 00:DEVICE:INODE 0 EOF`,
          `3: FLOCK  ADVISORY  WRITE ${process.pid} 00:DEVICE:INODE 0 EOF`,
          `3: -> FLOCK  ADVISORY  WRITE 1 00:DEVICE:INODE 0 EOF`
        ].join("\n")
      )
      assert.include(message, `process ${process.pid} (`)
    })
  )

  it.live("is named without the token that it was given", () =>
    Effect.gen(function* () {
      for (const args of [["--api-token", "s3cr3t"], ["--api-token=s3cr3t"]]) {
        const message = yield* Effect.scoped(
          Effect.gen(function* () {
            const idle = ["-e", "setInterval(Date, 1e5); console.log()", "--", ...args, "--signals"]
            const child = yield* Effect.acquireRelease(
              Effect.sync(() => spawn(process.execPath, idle, { argv0: "node", stdio: ["ignore", "pipe", "inherit"] })),
              (each) => Effect.sync(() => each.kill("SIGKILL"))
            )
            yield* Effect.callback<void>((resume) => void child.stdout.once("data", () => resume(Effect.void)))
            return (yield* ensure(`1: FLOCK  ADVISORY  WRITE ${child.pid} 00:DEVICE:INODE 0 EOF`)).message
          })
        )
        assert.match(message, /--api-token[ =]… --signals/)
        assert.notInclude(message, "s3cr3t")
      }
    })
  )

  it.effect("is nobody that can be named where the line is not there, or another namespace's", () =>
    Effect.gen(function* () {
      for (const locks of ["", "1: FLOCK  ADVISORY  WRITE 0 00:DEVICE:INODE 0 EOF"]) {
        assert.include((yield* ensure(locks)).message, "cannot be seen from here")
      }
    })
  )
})
