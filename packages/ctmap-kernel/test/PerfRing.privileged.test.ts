import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { Bpf, BpfMap, LibBpf, PerfRing } from "ctmap-kernel"
import * as Privileged from "ctmap-testing/Privileged"
import { MOST } from "ctmap-testing/SignalSender"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { contract, Heard } from "./contract/PerfRing.contract.ts"
import { sender } from "./signalTwin.ts"

Privileged.suite(describe, "PerfRing", () => {
  contract("PerfRing over libbpf", LibBpf.layer)

  it.live("comes through a flood: every signal is heard or counted as lost, and the event loop goes on", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.create(MapSpec.signals(bpf.possibleCpus()), "signals")
      const ring = yield* PerfRing.open(map)
      yield* ring.resume
      const send = yield* sender(map.fd)
      const heard = new Heard()
      let reads = 0
      const reader = yield* Effect.forkChild(
        Effect.forever(Effect.tap(ring.read(heard), () => Effect.sync(() => reads++))),
        { startImmediately: true }
      )
      let sent = 0
      let failed = 0
      for (let run = 0; run * MOST < 100_000; run++) {
        const outcome = send({ cpu: ring.cpus[run % ring.cpus.length]!, count: MOST })
        sent += outcome.sent
        failed += outcome.failed
        if (run % 5 === 0) yield* Effect.sleep("1 millis")
      }
      assert.isAbove(failed, 0)
      // What a CPU has lost is told with its next signal.
      while (heard.samples < sent) yield* Effect.sleep("1 millis")
      for (const cpu of ring.cpus) sent += send({ cpu }).sent
      while (heard.samples < sent) yield* Effect.sleep("1 millis")
      yield* Fiber.interrupt(reader)
      assert.deepStrictEqual([heard.samples, heard.lostInAll], [sent, failed])
      assert.isAbove(reads, 1)
    }).pipe(Effect.scoped, Effect.provide(LibBpf.layer))
  )

  // Under a clock that stands: what is not told of is never found by looking again.
  it.effect("wakes a reader for what was sent before the event loop's first turn", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.create(MapSpec.signals(bpf.possibleCpus()), "signals")
      const send = yield* sender(map.fd)
      const ring = yield* PerfRing.open(map)
      yield* ring.resume
      const reading = yield* Effect.forkChild(ring.read(new Heard()), { startImmediately: true })
      // Full, so that nothing later wakes anybody.
      for (const cpu of ring.cpus) assert.isAbove(send({ cpu, count: MOST }).failed, 0)
      assert.isAbove(yield* Fiber.join(reading), ring.cpus.length)
    }).pipe(Effect.scoped, Effect.provide(LibBpf.layer))
  )

  it.live("gives back every fd and mapping, whether it was used or not", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const fds = new Set<number>()
      const mapped = new Set<Uint8Array>()
      const watches = new Set<number>()
      const ledger: Bpf.Calls = {
        ...bpf,
        perfEvent: (cpu) => {
          const fd = bpf.perfEvent(cpu)
          if (fd >= 0) fds.add(fd)
          return fd
        },
        close: (fd) => {
          const rc = bpf.close(fd)
          if (rc === 0) fds.delete(fd)
          return rc
        },
        mapMemory: (fd, bytes) => {
          const memory = bpf.mapMemory(fd, bytes)
          if (typeof memory !== "number") mapped.add(memory)
          return memory
        },
        unmapMemory: (memory) => {
          const rc = bpf.unmapMemory(memory)
          if (rc === 0) mapped.delete(memory)
          return rc
        },
        watch: (fd, ready) => {
          const stop = bpf.watch(fd, ready)
          if (typeof stop === "number") return stop
          watches.add(fd)
          return () => {
            assert.isTrue(fds.has(fd), "watched until its fd is closed")
            watches.delete(fd)
            stop()
          }
        }
      }
      const use = Effect.gen(function* () {
        const map = yield* BpfMap.create(MapSpec.signals(bpf.possibleCpus()), "signals")
        const ring = yield* PerfRing.open(map, { pages: 4 })
        yield* ring.resume
        const send = yield* sender(map.fd)
        send({ cpu: ring.cpus[0]! })
        yield* ring.read(new Heard())
        return { open: fds.size, mapped: mapped.size, watched: watches.size }
      })
      for (let round = 0; round < 8; round++) {
        const { open, mapped: held, watched } = yield* Effect.scoped(use).pipe(Effect.provideService(Bpf.Bpf, ledger))
        assert.isAbove(open, 0)
        assert.deepStrictEqual([held, watched], [open, open])
        assert.deepStrictEqual([fds.size, mapped.size, watches.size], [0, 0, 0])
      }
    }).pipe(Effect.provide(LibBpf.layer))
  )

  it("is refused without CAP_PERFMON", () => {
    const script = fileURLToPath(new URL("./perfEventChild.ts", import.meta.url))
    const without = (capabilities: string): string => {
      const words = ["--bounding-set", capabilities, "--inh-caps=-all", process.execPath, "--conditions=ctmap-source"]
      const { stdout, stderr, status } = spawnSync("setpriv", [...words, script], { encoding: "utf8" })
      assert.strictEqual(status, 0, stderr)
      return stdout
    }
    assert.strictEqual(without("-perfmon,-sys_admin"), "-13")
    assert.isAtLeast(Number(without("-sys_admin")), 0)
  })
})
