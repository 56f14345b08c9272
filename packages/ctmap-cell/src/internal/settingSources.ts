/** What was said where: flags, variables and a file gathered into one value for each setting, and what nobody knows. */
import * as Yaml from "effect/encoding/Yaml"
import type { SettingIssue } from "../HiveError.ts"
import type { Effective, Sources } from "../Settings.ts"
import { nearest } from "./naming.ts"
import type { Definition } from "./settingDefinitions.ts"
import { fromTexts, fromValue, type Tree } from "./settingTree.ts"

export interface Given {
  readonly tree: Tree
  readonly source: Effective["source"]
  readonly where: string
}

export interface Gathered {
  /** By the name of the setting. */
  readonly given: ReadonlyMap<string, Given>
  readonly issues: ReadonlyArray<SettingIssue>
}

type Source = (known: ReadonlyMap<string, Definition>) => Gathered

export const gather = (definitions: ReadonlyArray<Definition>, sources: Sources, prefix: string): Gathered => {
  const known = new Map(definitions.map((definition) => [definition.name, definition]))
  const gathered = [fromFile(sources), fromEnvironment(sources, prefix), fromFlags(sources)].map((read) => read(known))
  return {
    given: new Map(gathered.flatMap(({ given }) => [...given])),
    issues: gathered.toReversed().flatMap(({ issues }) => issues)
  }
}

const unknown = (
  setting: string,
  where: string,
  meant: string | undefined,
  all: ReadonlyArray<string>
): SettingIssue => {
  const known = all.length === 0 ? "there are none" : `there are ${all.join(", ")}`
  const hint = meant === undefined ? known : `did you mean ${meant}?`
  return { setting, where, message: `${where}: there is no such setting; ${hint}` }
}

const fromFlags =
  ({ flags = [] }: Sources): Source =>
  (known) => {
    const issues: Array<SettingIssue> = []
    const texts = new Map<string, Array<string>>()
    const say = (name: string, text: string) => texts.set(name, [...(texts.get(name) ?? []), text])
    const names = [...known.values()].map(({ flag }) => flag)

    const one = (word: string, next: string | undefined): number => {
      const [, name = "", text] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? []
      const definition = known.get(name)
      const negated = known.get(name.replace(/^no-/, ""))
      if (definition === undefined && negated?.shape === "boolean" && text === undefined) say(negated.name, "false")
      else if (name === "")
        issues.push({ setting: word, where: word, message: `"${word}" is not a flag: settings are --name value` })
      else if (definition === undefined) issues.push(unknown(name, `--${name}`, nearest(`--${name}`, names), names))
      else if (text !== undefined) say(name, text)
      else if (definition.shape === "boolean") say(name, "true")
      else if (next === undefined || next.startsWith("--"))
        issues.push({ setting: name, where: word, message: `${word}: the value is missing` })
      else {
        say(name, next)
        return 2
      }
      // The value of an unknown flag is not another mistake.
      return definition === undefined && text === undefined && next !== undefined && !next.startsWith("--") ? 2 : 1
    }

    if (isList(flags)) for (let i = 0; i < flags.length;) i += one(flags[i] ?? "", flags[i + 1])
    else
      for (const [name, value] of Object.entries(flags))
        for (const text of typeof value === "string" ? [value] : value) one(`--${name}=${text}`, undefined)

    return { given: ofTexts(known, texts, "flag", ({ flag }) => flag), issues }
  }

const isList = (flags: NonNullable<Sources["flags"]>): flags is ReadonlyArray<string> => Array.isArray(flags)

const fromEnvironment =
  ({ env = {}, ignore = [] }: Sources, prefix: string): Source =>
  (known) => {
    const byVariable = new Map([...known.values()].map((definition) => [definition.variable, definition]))
    const issues: Array<SettingIssue> = []
    const texts = new Map<string, Array<string>>()
    for (const [variable, text] of Object.entries(env)) {
      if (text === undefined || !variable.startsWith(`${prefix}_`)) continue
      const definition = byVariable.get(variable)
      if (definition !== undefined) texts.set(definition.name, [text])
      else if (!ignore.includes(variable) && !isServiceLink(variable, text))
        issues.push(unknown(variable, variable, nearest(variable, byVariable.keys()), [...byVariable.keys()]))
    }
    return { given: ofTexts(known, texts, "environment", ({ variable }) => variable), issues }
  }

/** Kubernetes tells every pod of every service in its namespace, under names that a prefix may happen to match. */
const isServiceLink = (variable: string, text: string): boolean =>
  /_SERVICE_(HOST|PORT)(_\w+)?$/.test(variable) ||
  /_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/.test(variable) ||
  (variable.endsWith("_PORT") && /^(tcp|udp|sctp):\/\//.test(text))

const ofTexts = (
  known: ReadonlyMap<string, Definition>,
  texts: ReadonlyMap<string, ReadonlyArray<string>>,
  source: Given["source"],
  whereOf: (definition: Definition) => string
): Gathered["given"] => {
  const given = new Map<string, Given>()
  for (const [name, said] of texts) {
    const definition = known.get(name)
    if (definition !== undefined)
      given.set(name, { tree: fromTexts(said, definition.shape), source, where: whereOf(definition) })
  }
  return given
}

const fromFile =
  ({ file }: Sources): Source =>
  (known) => {
    const given = new Map<string, Given>()
    if (file === undefined || file.text.trim() === "") return { given, issues: [] }
    const wrong = (message: string): Gathered => ({ given, issues: [{ setting: "", where: file.path, message }] })
    let content: unknown
    try {
      content = file.path.endsWith(".json") ? JSON.parse(file.text) : Yaml.parse(file.text)
    } catch (error) {
      return wrong(`${file.path} cannot be read: ${error instanceof Error ? error.message : String(error)}`)
    }
    if (content === null || content === undefined) return { given, issues: [] }
    if (typeof content !== "object" || Array.isArray(content))
      return wrong(`${file.path} is not a mapping of settings: write one "name: value" a line`)
    const issues: Array<SettingIssue> = []
    for (const [name, value] of Object.entries(content)) {
      const where = `${file.path}: ${name}`
      const definition = known.get(name)
      const tree = fromValue(value)
      if (definition === undefined) issues.push(unknown(name, where, nearest(name, known.keys()), [...known.keys()]))
      else if (tree === undefined)
        issues.push({ setting: name, where, message: `${where}: there is no value: give one, or leave the key out` })
      else given.set(name, { tree: inShape(tree, definition), source: "file", where })
    }
    return { given, issues }
  }

/** A list or mapping may be one text in a file, too, as it is everywhere else. */
const inShape = (tree: Tree, { shape }: Definition): Tree =>
  typeof tree === "string" ? fromTexts([tree], shape) : tree
