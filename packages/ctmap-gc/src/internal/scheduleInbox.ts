/** What reaches a schedule from outside, kept until it looks: counts, so that a storm of signals takes no memory. */
import type { Family, Signal } from "ctmap-core"
import * as Latch from "effect/Latch"
import { type Families, type Heard, nothingHeard } from "./scheduleState.ts"

export interface Inbox {
  readonly hear: (signals: ReadonlyArray<Signal.FillUp>) => void
  readonly request: (families: Families) => void
  /** Has the schedule look again. */
  readonly wake: () => void
  /** Takes everything that has come. */
  readonly drain: () => Heard
  /** Everything that has come, left where it is. */
  readonly peek: () => Heard
  /** Until the next drain, signals of these families do not wake, and those of `ignoring` are counted apart. */
  readonly doze: (families: { readonly ignoring: Families; readonly holding: Families }) => void
  /** Opens when there is something to look at. */
  readonly latch: Latch.Latch
}

export const make = (): Inbox => {
  const latch = Latch.makeUnsafe(false)
  let signals: Record<Family.Family, number> = { ...nothingHeard.signals }
  let ignored: Record<Family.Family, number> = { ...nothingHeard.ignored }
  let requested: Families = []
  let ignoring: Families = []
  let holding: Families = []
  const peek = (): Heard => ({ signals: { ...signals }, ignored: { ...ignored }, requested })
  return {
    latch,
    peek,
    hear: (messages) => {
      for (const { family } of messages) {
        if (ignoring.includes(family)) ignored[family]++
        else {
          signals[family]++
          if (!holding.includes(family)) latch.openUnsafe()
        }
      }
    },
    request: (families) => {
      requested = [...requested, ...families]
      latch.openUnsafe()
    },
    wake: () => void latch.openUnsafe(),
    drain: () => {
      const heard = peek()
      signals = { ...nothingHeard.signals }
      ignored = { ...nothingHeard.ignored }
      requested = []
      ignoring = []
      holding = []
      latch.closeUnsafe()
      return heard
    },
    doze: (families) => {
      ;({ holding, ignoring } = families)
    }
  }
}
