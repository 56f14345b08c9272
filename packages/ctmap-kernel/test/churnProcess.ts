import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { KEY } from "./churn.ts"

/** Another process that deletes and inserts entries of a map from number `from` on, and replaces those behind them. */
export const churn = (
  { fd }: { readonly fd: number },
  from: number,
  deleted: number,
  replaced: number,
  keySize = KEY
) =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<ChildProcess>((started, failed) => {
          const script = fileURLToPath(new URL("./churnChild.ts", import.meta.url))
          const words = ["--conditions=ctmap-source", script, ...[from, deleted, replaced, keySize].map(String)]
          const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "inherit", fd] })
          child.once("exit", (code) => failed(new Error(`the other process ended with ${code}`)))
          child.stdout!.once("data", () => started(child))
        })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
