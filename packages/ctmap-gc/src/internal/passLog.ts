/** Passes that have ended, as far back as is worth it: no more memory however long a process runs. */
import type { GcPass } from "../GcPass.ts"

export interface PassLog<P> {
  readonly add: (pair: string, pass: P) => void
  /** The last pass over each pair, the latest last. */
  readonly last: () => ReadonlyArray<P>
  /** The last of all passes, newest last. */
  readonly history: () => ReadonlyArray<P>
}

/** Passes in a history. */
export const HISTORY = 128

/** Pairs whose last pass is known: those of 255 clusters and of 250 endpoints, both families. */
const PAIRS = 1024

export const make = <P = GcPass>(): PassLog<P> => {
  const history: Array<P> = []
  const last = new Map<string, P>()
  return {
    add: (pair, pass) => {
      history.push(pass)
      if (history.length > HISTORY) history.shift()
      // To the end: the first is the pair that has not been swept for longest.
      last.delete(pair)
      last.set(pair, pass)
      const [oldest] = last.keys()
      if (last.size > PAIRS && oldest !== undefined) last.delete(oldest)
    },
    last: () => [...last.values()],
    history: () => [...history]
  }
}
