/**
 * Regenerates what is generated, then formats everything.
 */
import { run } from "./workspace.ts"

process.exitCode =
  run("node", "scripts/barrels.ts") ||
  run("node", "--conditions=ctmap-source", "scripts/json-schema.ts") ||
  run("oxfmt", ".")
