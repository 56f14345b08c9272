/** Durations as people write them in settings: `30s`, `1h30m`, `1.5h`, `500ms`; a bare number is seconds. */
import * as Duration from "effect/Duration"

const millisOf: Readonly<Record<string, number>> = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1000, ms: 1 }

/** The duration, or `undefined` where the text is none. */
export const parse = (text: string): Duration.Duration | undefined => {
  if (/^\d+(\.\d+)?$/.test(text)) return Duration.seconds(Number(text))
  if (!/^(\d+(\.\d+)?(d|h|ms|m|s) ?)+$/.test(`${text} `)) return undefined
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(d|h|ms|m|s)/g)]
  return Duration.millis(parts.reduce((sum, [, number, unit = ""]) => sum + Number(number) * (millisOf[unit] ?? 0), 0))
}

/** A text that {@link parse} reads as the same number of milliseconds. */
export const format = (duration: Duration.Duration): string => {
  let rest = Math.round(Duration.toMillis(duration))
  const parts = Object.entries(millisOf).map(([unit, millis]) => {
    const whole = Math.floor(rest / millis)
    rest -= whole * millis
    return whole === 0 ? "" : `${whole}${unit}`
  })
  return parts.join("") || "0s"
}
