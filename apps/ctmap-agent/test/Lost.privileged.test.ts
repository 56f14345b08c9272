/** The agent as a process while its tables are taken away one by one, come late, or do not fit the clock. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { MapName } from "ctmap-core"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { clock, connections, fill, kernel, launch, look } from "./agentProcess.ts"

const often = ["--presence-interval", "500ms", "--conntrack-gc-interval", "1s"]
const tables = ["cilium_ct4_global", "cilium_ct_any4_global", "cilium_snat_v4_external"]

Privileged.suite(describe, "the agent as a process without", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  const unpin = (root: string, name: string) => assert.strictEqual(kernel.unpin(MapName.pinPath(root, name)), 0, name)

  it("one table after the other goes on, says what is missing, and collects all of them once they are back", async () => {
    const root = `${fs.path}/one-by-one`
    const held = connections(100, 0)
    await fill(root, held)
    const agent = launch({ root, args: often })
    await agent.until("collected", () => look(root, held).there === 0)
    const lose = (name: string, words: RegExp) => {
      unpin(root, name)
      return agent.until(`aware that ${name} is gone`, () => words.test(agent.log()))
    }
    const [tcp, any, nat] = tables
    await lose(nat!, /not pinned any more: cilium_snat_v4_external/)
    await lose(any!, /of its two conntrack maps only cilium_ct4_global is pinned/)
    await lose(tcp!, /waiting for tables/)
    await fill(root, held)
    await agent.until("collected again", () => look(root, held).there === 0)
    assert.strictEqual(look(root, held).left, 0)
    await agent.until("well", () => /STATUS=(?!degraded)[^\n]*\n(?![^]*STATUS=)/.test(agent.told()))
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("a NAT map collects, and with one that is pinned later cleans it, too", async () => {
    const root = `${fs.path}/nat-later`
    const held = connections(100, 0)
    await fill(root, held)
    unpin(root, "cilium_snat_v4_external")
    const agent = launch({ root, args: often })
    await agent.until("collected", () => look(root, held).there === 0)
    for (const name of ["cilium_ct4_global", "cilium_ct_any4_global"]) unpin(root, name)
    await fill(root, held)
    await agent.until("collected with NAT", () => look(root, held).there === 0 && look(root, held).left === 0)
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("a clock that fits deletes nothing and says why, and collects the tables of which the times fit", async () => {
    const root = `${fs.path}/clock`
    // Months ahead of what any connection can have left.
    const ahead = connections(100, clock() + 200 * 86_400)
    const expired = connections(50, 1, ahead.length)
    await fill(root, [...ahead, ...expired])
    const agent = launch({ root, args: often })
    await agent.until("refusing", () => /do not fit the ktime clock/.test(agent.log()))
    await agent.until("degraded", () => /STATUS=degraded: [^\n]*do not fit the ktime clock/.test(agent.told()))
    assert.strictEqual(look(root, [...ahead, ...expired]).there, ahead.length + expired.length)
    for (const name of tables) unpin(root, name)
    await fill(root, expired)
    await agent.until("collected", () => look(root, expired).there === 0)
    await agent.until("well", () => /STATUS=(?!degraded)[^\n]*\n(?![^]*STATUS=)/.test(agent.told()))
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })
})
