import { describe, expect, it } from "@effect/vitest"
import { Guard } from "ctmap-gc"

const about = { map: "cilium_ct4_global", entries: 10_000, deleted: 0 }

describe("Guard", () => {
  it("lets half of a table go, and not one entry more", () => {
    expect(Guard.check(Guard.defaults, { ...about, wanted: 5000 })).toBeUndefined()
    const stopped = Guard.check(Guard.defaults, { ...about, wanted: 5001 })
    expect(stopped).toMatchObject({ allowed: 5000, limit: "max-delete-ratio" })
  })

  it("rounds a share down", () => {
    expect(Guard.allowance({ ...Guard.defaults, floor: 0 }, 3)).toBe(1)
  })

  it("lets a small table turn over completely", () => {
    expect(Guard.check(Guard.defaults, { ...about, entries: 1000, wanted: 1000 })).toBeUndefined()
    expect(Guard.check(Guard.defaults, { ...about, entries: 1025, wanted: 1025 })).toBeDefined()
  })

  it("holds an absolute limit against any table, the smallest too", () => {
    const limits = { ...Guard.defaults, maxDeletions: 3 }
    expect(Guard.check(limits, { ...about, entries: 10, wanted: 3 })).toBeUndefined()
    expect(Guard.check(limits, { ...about, entries: 10, wanted: 4 })?.limit).toBe("max-deletions")
  })

  it("allows everything without limits", () => {
    expect(Guard.check(Guard.unlimited, { ...about, wanted: 10_000 })).toBeUndefined()
  })

  it("says what would have gone, what may, what did, and what to do", () => {
    const stopped = Guard.check(Guard.defaults, { ...about, wanted: 7500 })
    expect(stopped?.message).toBe(
      "the guard stopped the pass over map cilium_ct4_global: 7500 of its 10000 entries (75 %) would go, where at most 5000 may; nothing was deleted. Look at them in a dry run, then allow more with the setting max-delete-ratio if they are meant"
    )
    const limited = Guard.check({ ...Guard.defaults, maxDeletions: 3 }, { ...about, wanted: 4, deleted: 3 })
    expect(limited?.message).toContain("it reached the limit of 3 deletions; 3 were deleted before, no more since")
  })

  it("names to each reader what that one has: flags, fields of the request, settings", () => {
    const stopped = Guard.check(Guard.defaults, { ...about, wanted: 7500 })!
    const facts = stopped.message.slice(0, stopped.message.indexOf(" Look"))
    for (const [reader, advice] of [
      ["command", "with --dry-run, then allow more with --max-delete-ratio if"],
      ["request", 'in a dry run ("dryRun": true), then allow more with the agent\'s setting max-delete-ratio if'],
      ["settings", "in a dry run, then allow more with the setting max-delete-ratio if"]
    ] as const) {
      expect(stopped.sentenceFor(reader)).toBe(`${facts} Look at them ${advice} they are meant`)
    }
  })
})
