/** What Effect's OpenAPI document leaves out or says less well than the schemas know it. */
import * as Schema from "effect/Schema"

type Json = Record<string, unknown>

interface Operation {
  readonly operationId: string
  readonly parameters: ReadonlyArray<{ readonly name: string; schema: Json; description?: unknown; explode?: boolean }>
  security: ReadonlyArray<object>
}

/** The queries of operations, by their id. */
export type Queries = Readonly<Record<string, Schema.Struct.Fields>>

/**
 * Over the unix socket nobody needs a token; and parameters are what they are read as, not the text on the way.
 */
export const complete =
  (queries: Queries) =>
  (spec: Json): Json => {
    for (const item of Object.values(spec["paths"] as Record<string, Record<string, Operation>>)) {
      for (const operation of Object.values(item)) {
        operation.security = [...operation.security, {}]
        for (const parameter of operation.parameters) {
          const field = queries[operation.operationId]?.[parameter.name]
          if (field === undefined) continue
          const { description, ...schema } = Schema.toJsonSchemaDocument(Schema.toType(field)).schema
          parameter.schema = schema
          if (description !== undefined) parameter.description = description
        }
      }
    }
    return spec
  }
