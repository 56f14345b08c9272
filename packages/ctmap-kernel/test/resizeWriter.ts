// A datapath of sorts: writes new connections to the map behind a pin, looks at the pin now and then as a reloaded
// program would, and says at the end how many connections it made. Started by Upgrade.privileged.test.ts.
import { Bpf, LibBpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"

const [path = "", total = "0"] = process.argv.slice(2)

const program = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const key = new Uint8Array(14)
  const value = new Uint8Array(56)
  const view = new DataView(key.buffer)
  let fd = bpf.openPin(path)
  for (let i = 0; i < Number(total); i++) {
    if (i % 256 === 0) {
      const next = bpf.openPin(path)
      bpf.close(fd)
      fd = next
      yield* Effect.sleep(1)
    }
    view.setUint32(0, i + 1)
    new DataView(value.buffer).setUint32(32, i + 1, true)
    const rc = bpf.update(fd, key, value, Bpf.ANY)
    if (rc < 0) return yield* Effect.die(new Error(`update: ${rc}`))
    if (i === 1024) process.stdout.write("started\n")
  }
  process.stdout.write("done\n")
})

await Effect.runPromise(Effect.provide(program, LibBpf.layer))
