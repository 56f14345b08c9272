/** Runs the program in this process, with its output caught and, if wanted, another kernel below it. */
import * as Bpf from "ctmap-kernel/Bpf"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Environment from "../src/Environment.ts"
import * as Kernel from "../src/Kernel.ts"
import { main } from "../src/Main.ts"
import { Output, type WriteError } from "../src/Output.ts"

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** What the program did with these arguments; on the kernel itself unless `bpf` stands in for it. */
export const run = (
  args: ReadonlyArray<string>,
  options: {
    readonly bpf?: Bpf.Calls | undefined
    /** Hears of every remark when it is made. */
    readonly onNote?: (line: string) => void
    /** Hears of data when it is written. */
    readonly onData?: (text: string) => void
    /** Why the standard output cannot be written, if it cannot. */
    readonly unwritable?: () => WriteError | undefined
    /** Whether somebody looks at the standard output. */
    readonly isSeen?: boolean
  } = {}
): Effect.Effect<Ran> =>
  Effect.suspend(() => {
    const stdout: Array<Uint8Array> = []
    const stderr: Array<string> = []
    const output = Output.of({
      write: (data) =>
        Effect.suspend(() => {
          const why = options.unwritable?.()
          if (why !== undefined) return Effect.fail(why)
          stdout.push(Buffer.from(data))
          options.onData?.(Buffer.from(data).toString("latin1"))
          return Effect.void
        }),
      note: (line) =>
        Effect.sync(() => {
          stderr.push(`${line}\n`)
          options.onNote?.(line)
        }),
      progress: () => Effect.void,
      terminals: { stdin: false, stdout: options.isSeen ?? false, stderr: false }
    })
    const program = main(args).pipe(Effect.provideService(Output, output), Effect.provideContext(Environment.unused))
    const { bpf } = options
    const onKernel =
      bpf === undefined
        ? program
        : Effect.provideService(program, Kernel.BpfLayer, Effect.succeed(Layer.succeed(Bpf.Bpf, bpf)))
    return Effect.map(onKernel, (code) => ({
      code,
      stdout: Buffer.concat(stdout).toString("latin1"),
      stderr: stderr.join("")
    }))
  })
