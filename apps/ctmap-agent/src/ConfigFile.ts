/**
 * The settings of this process from its flags, its environment and a file.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import { Settings } from "ctmap-cell"
import * as Effect from "effect/Effect"
import { hive } from "./Agent.ts"
import { ConfigUnreadable, type Configuration } from "./Configuration.ts"

/** Read where no other file is named, if it is there. @since 0.1.0 */
export const DEFAULT_FILE = "/etc/ctmap/agent.yaml"

/** Variables with our prefix that are no settings of the agent. */
const ignore = [
  "CTMAP_CONFIG",
  "CTMAP_DEBUG",
  "CTMAP_AGENT_SOCKET",
  "CTMAP_AGENT_TOKEN",
  "CTMAP_PRIVILEGED",
  "CTMAP_GOLDEN"
]

/** @since 0.1.0 */
export interface Sources {
  /** Flags by name, without dashes. */
  readonly flags: Readonly<Record<string, string | ReadonlyArray<string>>>
  readonly env: Readonly<Record<string, string | undefined>>
  /** `--config`, else `CTMAP_CONFIG`, else {@link DEFAULT_FILE}, which alone may be missing. */
  readonly file: string | undefined
}

/** Reads them again each time. @since 0.1.0 */
export const make = ({ env, file, flags }: Sources): Configuration["Service"] => ({
  load: Effect.suspend(() => {
    const named = file ?? env["CTMAP_CONFIG"]
    const path = named ?? DEFAULT_FILE
    return Effect.flatMap(read(path, named === undefined), (text) =>
      Settings.load(hive, { flags, env, ignore, file: text === undefined ? undefined : { path, text } })
    )
  })
})

const read = (path: string, mayBeMissing: boolean): Effect.Effect<string | undefined, ConfigUnreadable> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(readFileSync(path, "utf8"))
    } catch (error) {
      const { code = "", message } = error as NodeJS.ErrnoException
      if (mayBeMissing && code === "ENOENT") return Effect.succeed(undefined)
      return Effect.fail(new ConfigUnreadable({ path, why: sentences[code] ?? message }))
    }
  })

const sentences: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file: --config, else CTMAP_CONFIG, names it",
  EACCES: "this user may not read it: let it, or name another file with --config",
  EISDIR: "it is a directory: --config names a file of YAML or JSON"
}
