/** What there is to be set, read off the schemas of cells. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import type * as Cell from "../Cell.ts"
import { kebab, upperSnake } from "./naming.ts"
import { isSecret, REDACTED } from "./secrets.ts"
import { nothingSaid, type Tree, toText } from "./settingTree.ts"

export interface Definition {
  /** The id of the cell that it belongs to. */
  readonly cell: string
  /** The field in the schema of the cell. */
  readonly field: string
  /** `max-age`: the name of the flag, and the key in a file. */
  readonly name: string
  /** `--max-age` */
  readonly flag: string
  /** `APP_MAX_AGE` */
  readonly variable: string
  readonly description: string | undefined
  /** What holds where nothing is said, as in a flag: `unset` where it may be left out, `undefined` where it may not. */
  readonly fallback: string | undefined
  readonly secret: boolean
  readonly shape: "value" | "boolean" | "list" | "mapping"
}

export const prefixOf = (hive: string): string => upperSnake(hive)

/** A schema that reads texts, lists of texts and mappings of texts. */
export type TextCodec = Schema.Codec<Readonly<Record<string, unknown>>, Readonly<Record<string, Tree | undefined>>>

/** The codec of one field alone, and of all fields of a cell with the checks over them. */
export const codecOf = (schema: Schema.Constraint): TextCodec =>
  Schema.toCodecStringTree(schema as Schema.Codec<unknown>) as unknown as TextCodec

export const definitionsOf = (cell: Cell.Any, prefix: string): ReadonlyArray<Definition> =>
  Object.entries(cell.fields).map(([field, schema]) => {
    const name = kebab(field)
    const codec = codecOf(Schema.Struct({ [field]: schema }))
    const encoded = SchemaAST.toEncoded(codec.ast)
    const texts = SchemaAST.isObjects(encoded) ? encoded.propertySignatures[0]?.type : undefined
    const secret = isSecret(schema.ast)
    return {
      cell: cell.id,
      field,
      name,
      flag: `--${name}`,
      variable: `${prefix}_${upperSnake(name)}`,
      description: SchemaAST.resolveDescription(schema.ast),
      fallback: fallbackOf(codec, field, secret),
      secret,
      shape:
        texts?._tag === "Arrays"
          ? "list"
          : texts?._tag === "Objects"
            ? "mapping"
            : SchemaAST.toType(schema.ast)._tag === "Boolean"
              ? "boolean"
              : "value"
    }
  })

const fallbackOf = (codec: TextCodec, field: string, secret: boolean): string | undefined => {
  const decoded = Schema.decodeUnknownResult(codec)(nothingSaid())
  if (Result.isFailure(decoded)) return undefined
  if (!Object.hasOwn(decoded.success, field) || decoded.success[field] === undefined) return "unset"
  return secret ? REDACTED : display(codec, decoded.success)[field] || "(empty)"
}

/** Values as they would be written in flags. */
export const display = (codec: TextCodec, values: unknown): Readonly<Record<string, string | undefined>> => {
  const encoded = Schema.encodeUnknownResult(codec)(values)
  if (Result.isFailure(encoded)) return {}
  return Object.fromEntries(
    Object.entries(encoded.success).map(([field, tree]) => [field, tree === undefined ? undefined : toText(tree)])
  )
}
