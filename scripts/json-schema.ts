/** Writes what is published of schemas: ctmap's records, and the agent's API. `--check` fails when a file is stale. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { AgentApi } from "ctmap-api"
import { CtJson } from "ctmap-core"
import * as OpenApi from "effect/http-api/OpenApi"

const published: Readonly<Record<string, object>> = {
  "packages/ctmap-core/schema/ctmap-record.schema.json": CtJson.jsonSchema(),
  "packages/ctmap-api/docs/openapi.json": OpenApi.fromApi(AgentApi.AgentApi)
}

for (const [name, schema] of Object.entries(published)) {
  const file = new URL(`../${name}`, import.meta.url)
  const text = `${JSON.stringify(schema, null, 2)}\n`
  if (!process.argv.includes("--check")) {
    writeFileSync(file, text)
  } else if (!existsSync(file) || JSON.stringify(JSON.parse(readFileSync(file, "utf8"))) !== JSON.stringify(schema)) {
    console.error(`${name} is stale: run \`npm run fix\``)
    process.exitCode = 1
  }
}
