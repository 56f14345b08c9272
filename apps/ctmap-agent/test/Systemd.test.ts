/** What systemd hears of the agent, in the order in which it does. */
import { assert, describe, it } from "@effect/vitest"
import type { Health } from "ctmap-cell"
import { Bpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Reload } from "../src/Reload.ts"
import * as SdNotify from "../src/SdNotify.ts"
import { agent, healthOf, makeKernel, pass, restore, ROOT } from "./stage.ts"

const SOCKET = "@ctmap-test-notify"
const PID = 4711

/** An agent that systemd started, and what it heard since it was asked last. */
const started = (variables: Readonly<Record<string, string>> = {}) => {
  const twin = makeKernel()
  const receiver = twin.control.receive(SOCKET)
  const environment = { pid: PID, variables: { NOTIFY_SOCKET: SOCKET, ...variables } }
  const heard = (): ReadonlyArray<string> => receiver.read().map((bytes) => new TextDecoder().decode(bytes))
  let flags: ReadonlyArray<string> = []
  const layer = agent(twin, () => flags).pipe(Layer.provide(Layer.succeed(SdNotify.Environment, environment)))
  return { heard, layer, twin, receiver, set: (next: ReadonlyArray<string>) => void (flags = next) }
}

describe("systemd hears", () => {
  it.effect("that the agent is ready once all cells have started, how it is, and first of all that it stops", () =>
    Effect.gen(function* () {
      const { heard, layer, twin } = started()
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* pass(twin, "2 seconds")
          const messages = heard()
          assert.include(messages, "READY=1")
          assert.strictEqual(
            messages.at(-1),
            `STATUS=degraded: presence: waiting for tables: no conntrack map is pinned below ${ROOT}/tc/globals`
          )
          yield* restore(twin, 7)
          yield* pass(twin, "10 seconds")
          assert.strictEqual(heard().at(-1), "STATUS=running; 4 conntrack and 2 NAT maps are pinned")
        }),
        layer
      )
      assert.deepStrictEqual(heard(), ["STOPPING=1\nSTATUS=stopping"])
    })
  )

  it.effect("one sentence a second at most, and none twice", () =>
    Effect.gen(function* () {
      const { heard, layer, twin } = started()
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* pass(twin, "5 seconds")
          heard()
          for (let i = 0; i < 10; i++) {
            twin.control[i % 2 === 0 ? "unmount" : "mount"](ROOT)
            yield* pass(twin, "10 seconds")
          }
          const sentences = heard()
          assert.isAbove(new Set(sentences).size, 1)
          assert.isAtMost(sentences.length, 100)
          for (const [i, text] of sentences.entries()) assert.notStrictEqual(text, sentences[i - 1])
        }),
        layer
      )
    })
  )

  it.effect("that it reloads and since when, and that it is ready again, even where settings are wrong", () =>
    Effect.gen(function* () {
      const { heard, layer, set, twin } = started()
      yield* Effect.provide(
        Effect.gen(function* () {
          const { reload } = yield* Reload
          for (const flags of [
            ["--log-level", "debug"],
            ["--log-level", "loud"]
          ]) {
            yield* pass(twin, "2 seconds")
            heard()
            set(flags)
            yield* Effect.exit(reload)
            const micros = twin.control.time / 1000n
            assert.deepStrictEqual(heard(), [`RELOADING=1\nMONOTONIC_USEC=${micros}`, "READY=1"])
          }
        }),
        layer
      )
    })
  )

  it.effect("a sign of life in half the time that its watchdog allows", () =>
    Effect.gen(function* () {
      const { heard, layer, twin } = started({ WATCHDOG_USEC: "10000000", WATCHDOG_PID: String(PID) })
      const signs = () => heard().filter((text) => text === "WATCHDOG=1").length
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* pass(twin, "1 second")
          assert.strictEqual(signs(), 1)
          yield* pass(twin, "60 seconds")
          assert.isAtLeast(signs(), 11)
        }),
        layer
      )
    })
  )

  it.effect("no sign of life where the watchdog waits for another process, or for none", () =>
    Effect.gen(function* () {
      for (const variables of [{ WATCHDOG_USEC: "1000000", WATCHDOG_PID: "1" }, { WATCHDOG_USEC: "no" }, {}]) {
        const { heard, layer, twin } = started(variables)
        yield* Effect.provide(pass(twin, "30 seconds"), layer)
        assert.notInclude(heard(), "WATCHDOG=1")
      }
    })
  )

  it.effect("that it is ready later, where nobody listens yet; until then that is in its health", () =>
    Effect.gen(function* () {
      const { heard, layer, receiver, twin } = started()
      receiver.close()
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* pass(twin, "2 seconds")
          assert.match(yield* healthOf("systemd", "ready"), /^degraded, systemd does not hear .*\(errno 111\)/)
          const late = twin.control.receive(SOCKET)
          yield* pass(twin, "1 second")
          assert.include(
            late.read().map((bytes) => new TextDecoder().decode(bytes)),
            "READY=1"
          )
        }),
        layer
      )
      assert.deepStrictEqual(heard(), [])
    })
  )
})

describe("without systemd", () => {
  it.effect("the cell does nothing, and is well", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* pass(twin, "5 seconds")
          assert.strictEqual(yield* healthOf("systemd"), "stopped, off: systemd has not started this process")
          assert.strictEqual(twin.control.count("sendDatagram"), 0)
        }),
        agent(twin).pipe(Layer.provide(Layer.succeed(SdNotify.Environment, { pid: PID, variables: {} })))
      )
    })
  )
})

describe("a sentence", () => {
  const node = (name: string, over: Partial<Health.Node> = {}): Health.Node => ({
    name,
    kind: "job",
    status: "ok",
    message: "",
    sinceMillis: 0,
    parts: [],
    ...over
  })
  const tree = (...parts: ReadonlyArray<Health.Node>): Health.Node =>
    node("ctmap", { kind: "hive", parts: parts.map((part, i) => node(`cell-${i}`, { kind: "cell", parts: [part] })) })

  it("names the cell of what is wrong, and how much else is", () => {
    const bad = { status: "degraded", message: "no room" } as const
    assert.strictEqual(SdNotify.sentence(tree(node("a"), node("b", bad))), "degraded: cell-1: no room")
    assert.strictEqual(
      SdNotify.sentence(tree(node("a", bad), node("b", bad))),
      "degraded: cell-0: no room (and 1 more)"
    )
  })
  it("says what those say that work, and nothing of those that are off", () => {
    const off = { status: "stopped", message: "off" } as const
    assert.strictEqual(SdNotify.sentence(tree(node("a", { message: "4 maps" }), node("b", off))), "running; 4 maps")
  })
  it("is never longer than a line of a terminal or three", () => {
    const text = SdNotify.sentence(tree(node("a", { message: "x".repeat(1000) })))
    assert.lengthOf(text, 240)
    assert.isTrue(text.endsWith("…"))
  })
  it.effect("is one line, whatever it was", () =>
    Effect.gen(function* () {
      const { heard, layer, twin } = started()
      yield* Effect.provide(
        Effect.gen(function* () {
          const made = yield* SdNotify.make
          yield* made!.notify({ STATUS: "one\n  two", READY: 1 })
          assert.include(heard(), "STATUS=one two\nREADY=1")
        }).pipe(Effect.provideService(SdNotify.Environment, { pid: PID, variables: { NOTIFY_SOCKET: SOCKET } })),
        Layer.merge(layer, Layer.succeed(Bpf.Bpf, twin.calls))
      )
    })
  )
})
