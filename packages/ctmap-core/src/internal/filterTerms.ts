/** The terms of the filter language: which word starts a term, and what follows it. */
import * as Result from "effect/Result"
import type { Term } from "../Filter.ts"
import * as Protocol from "../Protocol.ts"
import { called, type Cursor, quote } from "./filterLexer.ts"
import * as Values from "./filterValues.ts"
import { bareProtocols, comparisons, didYouMean, integerFields } from "./filterWords.ts"

/** Reads what follows the first word of a term. */
type Read = (cursor: Cursor) => Term

const addresses = (["src", "dst", "host", "xlate"] as const).map((end): readonly [string, Read] => [
  end,
  (cursor) => ({ _tag: "Address", end, networks: Values.oneOrSet(cursor, () => Values.network(cursor, end)) })
])

const ports = (["sport", "dport", "port", "xport", "natport"] as const).map((end): readonly [string, Read] => [
  end,
  (cursor) => {
    const op = Values.comparison(cursor)
    if (op === undefined) {
      return { _tag: "Port", end, ranges: Values.oneOrSet(cursor, () => Values.portRange(cursor, end)) }
    }
    const port = Values.comparedPort(cursor, end)
    return op === "="
      ? { _tag: "Port", end, ranges: [{ from: port, to: port }] }
      : { _tag: "PortCompare", end, op, port }
  }
])

const times = (["lifetime", "idle", "age"] as const).map((field): readonly [string, Read] => [
  field,
  (cursor) => ({
    _tag: "Time",
    field,
    op: Values.requiredComparison(cursor, field),
    millis: Values.duration(cursor, field)
  })
])

const counts = (["packets", "bytes"] as const).map((field): readonly [string, Read] => [
  field,
  (cursor) => ({
    _tag: "Integer",
    field,
    op: Values.requiredComparison(cursor, field),
    value: Values.integer(cursor, field, integerFields[field])
  })
])

const ids = (["identity", "revnat", "backend", "ifindex"] as const).map((field): readonly [string, Read] => [
  field,
  (cursor) => ({
    _tag: "Integer",
    field,
    op: Values.comparison(cursor) ?? "=",
    value: Values.integer(cursor, field, integerFields[field])
  })
])

const directions = ["in", "out", "service"] as const

const direction: Read = (cursor) => {
  const { token } = cursor
  const found = directions.find((name) => name === token.lower)
  if (found === undefined) {
    return cursor.fail({ problem: `"dir" needs a direction, found ${called(token)}`, expected: directions })
  }
  cursor.take()
  return { _tag: "Direction", direction: found }
}

const protocols = bareProtocols.map((name): readonly [string, Read] => {
  const protocol = Result.getOrThrow(Protocol.fromName(name))
  return [name, () => ({ _tag: "Protocol", protocol })]
})

const terms: ReadonlyMap<string, Read> = new Map<string, Read>([
  ...protocols,
  ["proto", (cursor) => ({ _tag: "Protocol", protocol: Values.protocol(cursor) })],
  ["ipv4", () => ({ _tag: "Family", family: "ipv4" })],
  ["ipv6", () => ({ _tag: "Family", family: "ipv6" })],
  ...addresses,
  ...ports,
  ["dir", direction],
  ["service", () => ({ _tag: "Direction", direction: "service" })],
  ["related", () => ({ _tag: "Related" })],
  ["flag", (cursor) => ({ _tag: "Flag", mask: Values.flagMask(cursor) })],
  ["expired", () => ({ _tag: "Expired" })],
  ["alive", () => ({ _tag: "Alive" })],
  ...times,
  ...counts,
  ...ids,
  ["needs-ct", () => ({ _tag: "NeedsCt" })]
])

/** Every word that a term can start with. */
const firstWords: ReadonlyArray<string> = [...terms.keys()]

/** What may stand where a term is due. */
export const starts: ReadonlyArray<string> = ["not", "(", ...firstWords]

/** Reads one term, or fails at the word that starts none. */
export const term = (cursor: Cursor): Term => {
  const { token } = cursor
  const read = terms.get(token.lower)
  if (read !== undefined) {
    cursor.take()
    return read(cursor)
  }
  return cursor.fail({ problem: missing(cursor), expected: starts })
}

const missing = (cursor: Cursor): string => {
  const { kind, lower, text } = cursor.token
  if (kind === "end") return "the filter ends where a term should follow"
  if (["and", "or", "&&", "||", ")"].includes(lower)) return `a term is missing before ${quote(text)}`
  if (comparisons.some((sign) => sign === lower)) return `a comparison needs a field before it, found ${quote(text)}`
  if (kind === "sign") return `${quote(text)} cannot start a term`
  return `unknown word ${quote(text)}${didYouMean(lower, ["not", ...firstWords])}`
}
