/**
 * Keeps a second agent away from the same bpffs.
 *
 * @since 0.1.0
 */
import { Cell, Health, Job } from "ctmap-cell"
import { Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as InstanceLock from "../InstanceLock.ts"
import { keys } from "./kernel.ts"

/** How often to look whether the bpffs is still the same. */
const LOOK = "10 seconds"

const config = Schema.Struct({
  instanceLock: Schema.Boolean.annotate({
    description: "refuse to run beside another agent; locks the bpffs root, which keeps it busy for umount"
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed(true)))
})

/** @since 0.1.0 */
export const cell = Cell.make("instance", {
  description: "refuses to run beside another agent on the same bpffs",
  config,
  needs: keys,
  layer: ({ instanceLock }) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        if (!instanceLock) return yield* Health.stopped("off: nothing keeps a second agent away")
        const root = yield* Pins.BpfFsRoot
        const { ensure } = yield* InstanceLock.make(root)
        // What keeps the lock from being taken must not keep tables from being collected; a second agent must.
        const look = ensure.pipe(
          Effect.flatMap((standing) =>
            standing === "held"
              ? Health.ok()
              : Health.degraded(`no bpffs is mounted at ${root}: waiting for it (\`mount -t bpf bpf ${root}\`)`)
          ),
          Effect.catchTag("BpfError", ({ message }) => Health.degraded(`a second agent is not kept away: ${message}`))
        )
        yield* Effect.catchTag(ensure, "BpfError", () => Effect.void)
        yield* Job.timer("hold", look, { every: LOOK, immediately: true, essential: true })
      })
    )
})
