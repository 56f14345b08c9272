// A datapath of sorts: makes connections in the map behind a pin and refreshes them, as fast as a map of any size lets
// it. It looks at the pin now and then; where that names another map, it writes once more to the one that it has, as
// programs do until they are reloaded, says so, and goes on in the other one. It ends when it has made all connections
// and is reloaded. Started by Upgrade.privileged.test.ts.
import { Bpf, LibBpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"

const [path = "", total = "0"] = process.argv.slice(2)
/** Written between two looks at the pin. */
const CHUNK = 256

const program = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const key = new Uint8Array(14)
  const value = new Uint8Array(56)
  const idOf = (fd: number): number => {
    const info = bpf.mapInfo(fd)
    if (typeof info === "number") throw new Error(`map info: ${info}`)
    return info.id
  }
  let fd = bpf.openPin(path)
  let isReloaded = false
  for (let made = 0; made < Number(total) || !isReloaded;) {
    const next = bpf.openPin(path)
    for (const end = made + CHUNK; made < end; made++) {
      new DataView(key.buffer).setUint32(0, (made % Number(total)) + 1)
      new DataView(value.buffer).setUint32(32, made + 1, true)
      const rc = bpf.update(fd, key, value, Bpf.ANY)
      if (rc < 0) return yield* Effect.die(new Error(`update: ${rc}`))
    }
    if (made === 1024) process.stdout.write("started\n")
    const isOther = idOf(next) !== idOf(fd)
    bpf.close(isOther ? fd : next)
    if (isOther) {
      fd = next
      isReloaded = true
      process.stdout.write("reloaded\n")
    }
    yield* Effect.sleep(1)
  }
})

await Effect.runPromise(Effect.provide(program, LibBpf.layer))
