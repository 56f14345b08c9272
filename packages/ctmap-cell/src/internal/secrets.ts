/** Which settings must never be shown: those in whose schema something is redacted. */
import type * as SchemaAST from "effect/SchemaAST"

export const REDACTED = "<redacted>"

export const isSecret = (ast: SchemaAST.AST): boolean => holdsRedacted(ast, new Set())

const holdsRedacted = (ast: SchemaAST.AST, seen: Set<SchemaAST.AST>): boolean => {
  if (seen.has(ast)) return false
  seen.add(ast)
  const below = (asts: ReadonlyArray<SchemaAST.AST>) => asts.some((part) => holdsRedacted(part, seen))
  if (ast.encoding !== undefined && below(ast.encoding.map(({ to }) => to))) return true
  switch (ast._tag) {
    case "Declaration":
      return isRedactedDeclaration(ast) || below(ast.typeParameters)
    case "Arrays":
      return below([...ast.elements, ...ast.rest])
    case "Objects":
      return below([...ast.propertySignatures, ...ast.indexSignatures].map(({ type }) => type))
    case "Union":
      return below(ast.types)
    case "Suspend":
      return holdsRedacted(ast.thunk(), seen)
    default:
      return false
  }
}

const isRedactedDeclaration = ({ annotations }: SchemaAST.Declaration): boolean => {
  const representation = annotations?.["representation"] as { readonly id?: string } | undefined
  return representation?.id === "effect/schema/Redacted"
}
