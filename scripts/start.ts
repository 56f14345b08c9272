/**
 * `npm start`: the main job where anyone can see it. Recorded Cilium tables go into kernel maps of their own with times
 * moved to now, the collector runs on them while part of the connections is kept alive, and what it did is held against
 * what it should have done. Without the privilege the same happens in memory, and the first line says so.
 *
 * Ends with 0 where everything was as expected, 1 where it was not, 2 for wrong arguments, and 128 and its number for a
 * signal. Where nobody reads on (`npm start | head`) it stops, and that is no failure.
 */
import * as Options from "./start/options.ts"

const options = Options.read(process.argv.slice(2))
if (options === "help") {
  console.log(Options.USAGE)
} else if ("problem" in options) {
  console.error(`npm start: ${options.problem}\n${Options.USAGE}`)
  process.exitCode = 2
} else {
  // Only now: all of the agent is behind it.
  const { run } = await import("./start/run.ts")
  process.exitCode = await run(options)
}
