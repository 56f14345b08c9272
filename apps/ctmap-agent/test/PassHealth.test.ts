/** What is remembered of passes that did not end well. */
import { assert, describe, it } from "@effect/vitest"
import type { GcPass, GcSchedule, NatPass } from "ctmap-gc"
import * as PassHealth from "../src/PassHealth.ts"

const pass = (about: Partial<GcPass.GcPass>): GcPass.GcPass => ({
  serial: 1,
  family: "ipv4",
  owner: "global",
  dryRun: false,
  now: 0,
  startedAtMillis: 1000,
  millis: 1,
  completed: true,
  maps: [],
  requests: [],
  ...about
})
const failed = (about: Partial<GcPass.GcPass> = {}) => pass({ completed: false, why: "the clock is wrong", ...about })

const natPass: NatPass.NatPass = {
  serial: 1,
  kind: "orphans",
  family: "ipv4",
  owner: "global",
  map: "cilium_snat_v4_external",
  capacity: 8192,
  dryRun: false,
  seen: 0,
  wanted: 0,
  ingressAlive: 0,
  ingressDeleted: 0,
  egressAlive: 0,
  egressDeleted: 0,
  refreshed: 0,
  vanished: 0,
  busy: 0,
  reprieved: 0,
  restored: 0,
  startedAtMillis: 0,
  millis: 1,
  completed: true
}

const round = (about: Partial<NonNullable<GcSchedule.Status["last"]>>): GcSchedule.Status["last"] => ({
  trigger: "interval",
  families: ["ipv4", "ipv6"],
  startedAtMillis: 2000,
  endedAtMillis: 2001,
  success: true,
  ratio: 0,
  deleted: 0,
  orphansDeleted: 0,
  problems: [],
  ...about
})

describe("the health of passes", () => {
  it("keeps what is wrong with a pair until a pass over that pair ends well, whatever becomes of others", () => {
    const { complaint, note } = PassHealth.make()
    assert.isUndefined(complaint())
    note(failed())
    note(pass({ family: "ipv6" }))
    note(pass({ owner: "endpoint 7" }))
    note(pass({ dryRun: true }))
    assert.strictEqual(complaint(), "the last pass over ipv4 global: the clock is wrong")
    note(failed({ family: "ipv6", why: "too many" }))
    assert.strictEqual(
      complaint(),
      "the last pass over ipv4 global: the clock is wrong; the last pass over ipv6 global: too many"
    )
    note(pass({}))
    assert.strictEqual(complaint(), "the last pass over ipv6 global: too many")
  })

  it("takes a pass that nobody wanted any more, that was only tried, or that was asked for, for no trouble", () => {
    const { complaint, note } = PassHealth.make()
    note(failed({ stoppedBy: "interruption" }))
    note(failed({ dryRun: true, stoppedBy: "guard" }))
    // Whoever asked has been told; what keeps rounds from collecting, these will say.
    note(failed({ trigger: "request" }))
    assert.isUndefined(complaint())
  })

  it("forgets a pair that a later round over its family no longer finds, and no other", () => {
    const { compare, complaint, note } = PassHealth.make()
    note(failed({ owner: "endpoint 7" }))
    compare(undefined)
    compare(round({ startedAtMillis: 999 }))
    compare(round({ families: ["ipv6"] }))
    compare(round({ problems: ["ipv4 endpoint 7: the clock is wrong"] }))
    assert.strictEqual(complaint(), "the last pass over ipv4 endpoint 7: the clock is wrong")
    compare(round({}))
    assert.isUndefined(complaint())
  })

  it("says what kept a round from making passes at all, as long as the last one was kept", () => {
    const { compare, complaint } = PassHealth.make()
    compare(round({ success: false, problems: ["pins cannot be listed"] }))
    assert.strictEqual(complaint(), "pins cannot be listed")
    compare(round({}))
    assert.isUndefined(complaint())
  })

  it("tells of a request that the guard has stopped, until a pass over that pair ends well", () => {
    const { complaint, note } = PassHealth.make()
    note(failed({ trigger: "request", stoppedBy: "guard", why: "the guard stopped it" }))
    note(pass({ owner: "cluster 3", trigger: "request" }))
    assert.strictEqual(complaint(), "the last pass over ipv4 global: the guard stopped it")
    note(pass({ trigger: "interval" }))
    assert.isUndefined(complaint())
  })

  it("tells of a purge of NAT entries that the guard has stopped, until one of that pair ends well", () => {
    const { complaint, notePurge } = PassHealth.make()
    const purge = (about: Partial<NatPass.NatPass>) => ({ ...natPass, ...about })
    notePurge(purge({ completed: false, stoppedBy: "error", why: "a bad day" }))
    assert.isUndefined(complaint(), "whoever asked has been told")
    notePurge(purge({ completed: false, stoppedBy: "guard", why: "the guard stopped it" }))
    notePurge(purge({ family: "ipv6" }))
    notePurge(purge({ dryRun: true }))
    assert.strictEqual(complaint(), "the last purge of NAT entries of ipv4 global: the guard stopped it")
    notePurge(purge({}))
    assert.isUndefined(complaint())
  })

  it("names eight pairs at most", () => {
    const { complaint, note } = PassHealth.make()
    for (let id = 0; id < 12; id++) note(failed({ owner: `endpoint ${id}` }))
    const texts = complaint()!.split("; ")
    assert.deepStrictEqual([texts.length, texts.at(-1)], [9, "and 4 more"])
  })
})
