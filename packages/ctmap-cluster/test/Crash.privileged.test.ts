import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { LibBpf, Pins } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { fileURLToPath } from "node:url"
import * as Cases from "./crashCases.ts"
import { verify } from "./crashVerify.ts"
import * as Rig from "./rig.ts"

const cache = mkdtempSync(join(tmpdir(), "ctmap-crash-"))
const child = fileURLToPath(new URL("./crashChild.ts", import.meta.url))

/** Runs the agent until its nth step; the signal that ended it, or its exit code. */
const run = (root: string, work: Cases.Work, nth: number) =>
  Effect.callback<string>((resume) => {
    const agent = spawn(process.execPath, ["--conditions=ctmap-source", child, root, work, String(nth)], {
      // It starts in half the time once its code is compiled.
      env: { ...process.env, NODE_COMPILE_CACHE: cache },
      stdio: ["ignore", "inherit", "inherit"]
    })
    agent.on("exit", (code, signal) => resume(Effect.succeed(signal ?? String(code))))
    return Effect.sync(() => agent.kill("SIGKILL"))
  })

Privileged.suite(describe, "an agent that is killed with -9", () => {
  const bpffs = TempBpfFs.make()
  beforeAll(bpffs.start)
  afterAll(() => {
    bpffs.stop()
    rmSync(cache, { recursive: true })
  })

  for (const work of ["create", "delete"] as const) {
    it.live(`between any two steps of ${work}: the next start leaves everything whole`, () =>
      Effect.gen(function* () {
        const outcomes = new Set<string>()
        // First to its end: only a process that ends by itself keeps what it compiled.
        for (let nth = 0; ; nth++) {
          const ended = yield* Effect.gen(function* () {
            yield* Cases.before(work)
            const how = yield* run(yield* Pins.BpfFsRoot, work, nth)
            const { ct, nat } = yield* Rig.life(Effect.andThen(Rig.openBoth, Effect.scoped(verify)))
            outcomes.add(`${ct} ${nat}`)
            return how
          }).pipe(Effect.provide(LibBpf.layer), Effect.provideService(Pins.BpfFsRoot, `${bpffs.path}/${work}-${nth}`))
          assert.strictEqual(ended === "0" || ended === "SIGKILL", true, ended)
          if (ended === "0" && nth > 0) break
          assert.isBelow(nth, 100)
        }
        assert.sameMembers([...outcomes], ["0 0", "4 2", work === "create" ? "4 0" : "0 2"])
      })
    )
  }
})
