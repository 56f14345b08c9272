/** Values on their way in and out: texts, lists and mappings of texts. */

export type Tree = string | ReadonlyArray<Tree> | { readonly [key: string]: Tree }

/** No setting has been read; not even one of a name that every object knows. */
export const nothingSaid = (): Record<string, Tree> => Object.create(null)

/** As in a flag: lists by commas, mappings as `key=value` by commas. */
export const toText = (tree: Tree): string =>
  typeof tree === "string"
    ? tree
    : Array.isArray(tree)
      ? tree.map(toText).join(",")
      : Object.entries(tree)
          .map(([key, value]) => `${key}=${toText(value)}`)
          .join(",")

const parts = (text: string): ReadonlyArray<string> =>
  text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")

/** One text, or several of a flag that was repeated, in the shape that a setting has. */
export const fromTexts = (texts: ReadonlyArray<string>, shape: "value" | "boolean" | "list" | "mapping"): Tree => {
  if (shape === "list") return texts.flatMap(parts)
  if (shape !== "mapping") return texts.at(-1) ?? ""
  const pairs = texts.flatMap(parts).map((part) => {
    const at = part.indexOf("=")
    return at < 0 ? [part, ""] : [part.slice(0, at).trim(), part.slice(at + 1).trim()]
  })
  return Object.fromEntries(pairs)
}

/** What a parser of YAML or JSON made of a value; `undefined` where there is nothing to be read. */
export const fromValue = (value: unknown): Tree | undefined => {
  if (typeof value === "string") return value
  if (typeof value === "number" || typeof value === "boolean" || typeof value === "bigint") return String(value)
  if (Array.isArray(value)) {
    const items = value.map(fromValue)
    return items.every((item) => item !== undefined) ? items : undefined
  }
  if (typeof value !== "object" || value === null) return undefined
  const entries = Object.entries(value).map(([key, part]) => [key, fromValue(part)] as const)
  return entries.every((entry): entry is readonly [string, Tree] => entry[1] !== undefined)
    ? Object.fromEntries(entries)
    : undefined
}
