/** What `npm start` can be told. */
import { parseArgs } from "node:util"

export interface Options {
  readonly seconds: number
  readonly memory: boolean
  readonly keep: boolean
}

export const USAGE = `npm start -- [--for SECONDS] [--keep] [--memory]
  --for SECONDS  how long the agent runs before its work is checked, 1 to 86400 (30)
  --keep         the agent goes on after that, until it is stopped
  --memory       in memory, also where this kernel could be used`

/** The options, or what is wrong with the arguments, or that only help is asked for. */
export const read = (args: ReadonlyArray<string>): Options | { readonly problem: string } | "help" => {
  const { tokens } = parseArgs({
    args: [...args],
    options: { for: { type: "string" }, memory: { type: "boolean" }, keep: { type: "boolean" } },
    // Its own words for what it does not know are a stack trace and no help.
    strict: false,
    tokens: true
  })
  const options = { seconds: 30, memory: false, keep: false }
  for (const token of tokens) {
    if (token.kind === "option-terminator") continue
    if (token.kind === "positional") return { problem: `${token.value}: no argument is expected` }
    const { name, rawName, value } = token
    if (name === "help" || rawName === "-h") return "help"
    if (name === "for") {
      const seconds = Number(value ?? "")
      if (value === undefined || value.trim() === "" || !(seconds >= 1 && seconds <= 86_400))
        return {
          problem: `${["--for", ...(value === undefined ? [] : [value])].join(" ")}: expected seconds from 1 to 86400`
        }
      options.seconds = seconds
    } else if (name === "keep" || name === "memory") {
      if (value !== undefined) return { problem: `${rawName}=${value}: ${rawName} takes no value` }
      options[name] = true
    } else return { problem: `${rawName}: there is no such option` }
  }
  return options
}
