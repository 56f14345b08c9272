/** The other process of a stress, which plays the datapath. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** Keeps a process to one CPU. */
export const pinTo = (cpu: number, pid: number | undefined): void =>
  void spawnSync("taskset", ["-apc", `${cpu}`, `${pid}`])

/**
 * Starts a program of `src/datapath` on the second CPU with open maps as its fds from 3 on, and waits until it is ready;
 * `stop` tells it to end, which is waited for when the scope closes.
 */
export const start = (
  program: string,
  args: ReadonlyArray<string>,
  options: { readonly fds: ReadonlyArray<number>; readonly isReady: () => boolean; readonly stop: () => void }
): Effect.Effect<ChildProcess, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const file = fileURLToPath(new URL(`../datapath/${program}.ts`, import.meta.url))
      const child = spawn(process.execPath, ["--conditions=ctmap-source", file, ...args], {
        stdio: ["ignore", "inherit", "inherit", ...options.fds]
      })
      const end = (): void => void child.kill()
      process.once("exit", end)
      child.once("exit", () => process.off("exit", end))
      pinTo(1, child.pid)
      await readiness(child, options.isReady)
      return child
    }),
    (child) =>
      Effect.promise(async () => {
        options.stop()
        await ended(child)
      })
  )

const readiness = (child: ChildProcess, isReady: () => boolean): Promise<void> =>
  new Promise((resolve, reject) => {
    const look = setInterval(() => {
      if (!isReady() && child.exitCode === null) return
      clearInterval(look)
      if (isReady()) resolve()
      else reject(new Error("the datapath ended, for the reason above"))
    }, 5)
  })

/** Waits for the end of a process. */
export const ended = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode === null && child.signalCode === null) {
    await new Promise((resolve) => child.once("exit", resolve))
  }
}
