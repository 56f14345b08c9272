/** The settings of one cell, checked. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type * as Cell from "../Cell.ts"
import type { SettingIssue } from "../HiveError.ts"
import type { Effective } from "../Settings.ts"
import { REDACTED } from "./secrets.ts"
import { codecOf, type Definition, display } from "./settingDefinitions.ts"
import type { Given } from "./settingSources.ts"
import { nothingSaid, toText } from "./settingTree.ts"

export interface Decoded {
  readonly value: unknown
  readonly effective: ReadonlyArray<Effective>
  readonly issues: ReadonlyArray<SettingIssue>
}

export const decodeCell = (
  cell: Cell.Any,
  definitions: ReadonlyArray<Definition>,
  given: ReadonlyMap<string, Given>
): Decoded => {
  if (cell.config === undefined) return { value: {}, effective: [], issues: [] }
  const trees = nothingSaid()
  for (const { field, name } of definitions) {
    const said = given.get(name)
    if (said !== undefined) trees[field] = said.tree
  }
  const decoded = Schema.decodeUnknownResult(codecOf(cell.config), { errors: "all" })(trees)
  if (Result.isFailure(decoded))
    return { value: undefined, effective: [], issues: issuesOf(decoded.failure, cell, definitions, given) }
  const value = decoded.success
  return {
    value,
    effective: definitions.map((definition) => effectiveOf(cell, definition, value, given.get(definition.name))),
    issues: []
  }
}

const effectiveOf = (
  cell: Cell.Any,
  { field, name, secret }: Definition,
  values: Readonly<Record<string, unknown>>,
  given: Given | undefined
): Effective => {
  const schema = cell.fields[field]
  const isSet = Object.hasOwn(values, field) && values[field] !== undefined
  const shown = () =>
    display(codecOf(Schema.Struct({ [field]: schema ?? Schema.Unknown })), { [field]: values[field] })[field]
  return {
    cell: cell.id,
    name,
    value: !isSet ? undefined : secret ? REDACTED : shown(),
    source: given?.source ?? "default",
    where: given?.where ?? "default",
    secret
  }
}

const format = SchemaIssue.makeFormatterStandardSchemaV1()

const issuesOf = (
  { issue }: Schema.SchemaError,
  cell: Cell.Any,
  definitions: ReadonlyArray<Definition>,
  given: ReadonlyMap<string, Given>
): ReadonlyArray<SettingIssue> =>
  format(issue).issues.map(({ path = [], message }) => {
    const [field, ...rest] = path.map((part) => String(typeof part === "object" ? part.key : part))
    const definition = definitions.find((candidate) => candidate.field === field)
    if (definition === undefined)
      return { setting: cell.id, where: `cell ${cell.id}`, message: `the settings of cell "${cell.id}": ${message}` }
    const { description, flag, name, secret, variable } = definition
    const said = given.get(name)
    if (said === undefined && message === "Missing key")
      return {
        setting: name,
        where: "nowhere",
        message: `${name} has no value and no default: set it with ${flag}, ${variable} or the key ${name} of a file`
      }
    const where = said?.where ?? "default"
    const text = said === undefined ? "" : toText(said.tree)
    const value = said === undefined ? "the default" : secret ? "the secret" : JSON.stringify(text)
    // A check that was written carelessly may quote what it was given.
    const why = secret && text !== "" && message.includes(text) ? "" : `: ${lower(message)}`
    const at = rest.length === 0 ? "" : ` at ${rest.join(".")}`
    const what = description === undefined ? "" : ` (${description})`
    return { setting: name, where, message: `${where}: ${value} is not allowed${why}${at}${what}` }
  })

const lower = (text: string): string => text.slice(0, 1).toLowerCase() + text.slice(1)
