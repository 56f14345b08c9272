/** Writes the published JSON Schema of ctmap's records; `--check` fails when the file is stale. */
import { readFileSync, writeFileSync } from "node:fs"
import { CtJson } from "ctmap-core"

const file = new URL("../packages/ctmap-core/schema/ctmap-record.schema.json", import.meta.url)
const text = `${JSON.stringify(CtJson.jsonSchema(), null, 2)}\n`

if (!process.argv.includes("--check")) {
  writeFileSync(file, text)
} else if (JSON.stringify(JSON.parse(readFileSync(file, "utf8"))) !== JSON.stringify(JSON.parse(text))) {
  console.error("packages/ctmap-core/schema/ctmap-record.schema.json is stale: run `npm run fix`")
  process.exit(1)
}
