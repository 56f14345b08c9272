import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMemory, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Presence from "../src/Presence.ts"

describe("where no table is pinned", () => {
  for (const [root, why] of [
    ["/sys/fs/bpf", "no conntrack map is pinned below /sys/fs/bpf/tc/globals"],
    ["/nope", "/nope does not exist: bpffs-root names the directory that contains tc/globals"],
    ["/", "/ is not a bpffs: mount one with `mount -t bpf bpf /`, or name another directory with bpffs-root"]
  ] as const) {
    it.effect(`the agent waits, and says what may be wrong with its bpffs-root: ${root}`, () =>
      Effect.gen(function* () {
        const found = yield* Presence.find
        assert.strictEqual(Presence.complaint(found, root), `waiting for tables: ${why}`)
      }).pipe(Effect.provideService(Bpf.Bpf, BpfMemory.make().calls), Effect.provideService(Pins.BpfFsRoot, root))
    )
  }
})
