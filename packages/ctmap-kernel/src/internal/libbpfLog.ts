/** What libbpf and the verifier print while an object is loaded. Native code comes in as functions: see `LibBpf.ts`. */

type Print = (level: number, format: string, args: bigint) => number

interface Native {
  /** `libbpf_set_print`. */
  readonly setPrint: (print: bigint | null) => unknown
  readonly vsnprintf: (to: Uint8Array, room: number, format: string, args: bigint) => number
  /** Makes a function callable from native code, until it is let go of. */
  readonly hook: (print: Print) => { readonly address: bigint; readonly letGo: () => void }
}

/** Bytes of one message that are kept. */
const LAST_WORDS = 4096

/**
 * libbpf prints through one hook of the process, and calls it on whatever thread it is on; it is ours only while an object is
 * loaded on this one.
 */
export const captureLog = ({ setPrint, vsnprintf, hook }: Native) => {
  setPrint(null)
  let line: Uint8Array | undefined
  /** Loads under way on other threads. */
  let elsewhere = 0
  return {
    /** What is printed during a load, unless there is another on another thread: that one would print too. */
    captured: <A>(log: Array<string>, during: () => A): A => {
      if (elsewhere > 0) return during()
      // The verifier's whole log comes as one line; why it refused stands at its end.
      const to = (line ??= new Uint8Array(1 << 20))
      const print = hook((level, format, args) => {
        const length = vsnprintf(to, to.byteLength, format, args)
        const end = Math.min(length, to.byteLength - 1)
        if (level < 2) log.push(new TextDecoder().decode(to.subarray(Math.max(0, end - LAST_WORDS), end)))
        return length
      })
      setPrint(print.address)
      try {
        return during()
      } finally {
        setPrint(null)
        print.letGo()
      }
    },
    /** Nothing is captured until what it answers is called. */
    silence: (): (() => void) => {
      elsewhere++
      return () => {
        elsewhere--
      }
    }
  }
}
