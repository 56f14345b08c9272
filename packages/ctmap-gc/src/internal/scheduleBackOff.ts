/** The gap between two passes of a family that something asked for early, and how it grows when they free nothing. */

export interface BackOff {
  /** Passes in a row that freed next to nothing. */
  readonly useless: number
  /** Milliseconds between two passes. */
  readonly gap: number
  /** Not before this is there another; in milliseconds of the schedule's clock. */
  readonly readyAt: number
}

export interface Gaps {
  /** Milliseconds; 0 is no gap, however useless passes are. */
  readonly min: number
  readonly max: number
}

export const initial = ({ min }: Gaps): BackOff => ({ useless: 0, gap: min, readyAt: 0 })

/** After a pass that was asked for early. The gap doubles with every useless one. */
export const asked = (before: BackOff, { min, max }: Gaps, now: number, isUseful: boolean): BackOff => {
  const useless = isUseful ? 0 : before.useless + 1
  const gap = gapOf(useless, { min, max })
  return { useless, gap, readyAt: now + gap }
}

/** After a pass for another reason: one that freed something ends the back-off, others say nothing about it. */
export const unasked = (before: BackOff, { min }: Gaps, now: number, isUseful: boolean): BackOff =>
  isUseful && before.useless > 0 ? { useless: 0, gap: min, readyAt: Math.min(before.readyAt, now) } : before

/** Under other gaps: one that is not over becomes as long as it would have been with them. */
export const under = (before: BackOff, gaps: Gaps, now: number): BackOff => {
  const gap = gapOf(before.useless, gaps)
  return { ...before, gap, readyAt: before.readyAt > now ? before.readyAt - before.gap + gap : before.readyAt }
}

const gapOf = (useless: number, { min, max }: Gaps): number => Math.min(min * 2 ** useless, Math.max(min, max))

/** Passes have been useless, and the gap after the last is not over. */
export const isBackingOff = ({ useless, readyAt }: BackOff, now: number): boolean => useless > 0 && now < readyAt
