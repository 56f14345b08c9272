/** Durations as people and Cilium's options write them: `30s`, `12h0m0s`, `1.5h`, `0`. */
import * as Duration from "effect/Duration"

/** Milliseconds of the units, longest first. */
const units: ReadonlyArray<readonly [name: string, millis: number]> = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1000],
  ["ms", 1]
]

const form = new RegExp(`^${units.map(([name]) => `(?:(\\d+(?:\\.\\d+)?)${name})?`).join("")}$`)

/** The duration, or `undefined` where the text is none. A bare number is seconds, as in the filter language. */
export const parse = (text: string): Duration.Duration | undefined => {
  if (/^\d+(?:\.\d+)?$/.test(text)) return Duration.seconds(Number(text))
  const match = text === "" ? null : form.exec(text)
  if (match === null) return undefined
  return Duration.millis(units.reduce((sum, [, millis], i) => sum + Number(match[i + 1] ?? 0) * millis, 0))
}

/** The shortest text that {@link parse} reads as the same number of milliseconds; parts of one are dropped. */
export const format = (duration: Duration.Duration): string => {
  let rest = Math.round(Duration.toMillis(duration))
  let text = ""
  for (const [name, size] of units) {
    const whole = Math.floor(rest / size)
    if (whole > 0) text += `${whole}${name}`
    rest -= whole * size
  }
  return text === "" ? "0s" : text
}
