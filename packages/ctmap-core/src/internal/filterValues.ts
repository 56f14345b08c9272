/** Values of filter terms: ports, addresses, durations, counts, flags. Each reads at the cursor or fails there. */
import * as IpInterface from "effect/net/IpInterface"
import * as IpNetwork from "effect/net/IpNetwork"
import * as Result from "effect/Result"
import * as CtEntryFlags from "../CtEntryFlags.ts"
import type { Comparison, PortRange } from "../Filter.ts"
import * as Protocol from "../Protocol.ts"
import { called, type Cursor, quote, type Token } from "./filterLexer.ts"
import { bareProtocols, comparisons, countSuffixes, didYouMean, durationUnits } from "./filterWords.ts"

type NonEmpty<A> = readonly [A, ...Array<A>]

/** A word, or a failure that says what the keyword needs. */
const word = (cursor: Cursor, keyword: string, needs: string, expected: ReadonlyArray<string>): Token =>
  cursor.token.kind === "word"
    ? cursor.take()
    : cursor.fail({ problem: `${quote(keyword)} needs ${needs}, found ${called(cursor.token)}`, expected })

/** One item, or `{` items `}`. */
export const oneOrSet = <A>(cursor: Cursor, item: () => A): NonEmpty<A> => {
  const open = cursor.token
  if (!cursor.accept("{")) return [item()]
  if (cursor.token.lower === "}") {
    cursor.fail({ problem: "a set has at least one member", expected: ["a member of the set"] })
  }
  const items: [A, ...Array<A>] = [item()]
  while (!cursor.accept("}")) {
    if (cursor.token.kind === "end")
      cursor.fail({ problem: `the "{" at column ${cursor.column(open)} is not closed`, expected: [",", "}"] })
    if (!cursor.accept(",")) {
      cursor.fail({
        problem: `members of a set are separated by commas, found ${called(cursor.token)}`,
        expected: [",", "}"]
      })
    }
    items.push(item())
  }
  return items
}

export const comparison = (cursor: Cursor): Comparison | undefined => {
  const { lower } = cursor.token
  const op = lower === "==" ? "=" : comparisons.find((sign) => sign === lower)
  if (op !== undefined) cursor.take()
  return op
}

export const requiredComparison = (cursor: Cursor, keyword: string): Comparison =>
  comparison(cursor) ??
  cursor.fail({
    problem: `${quote(keyword)} needs a comparison before its value, found ${called(cursor.token)}`,
    expected: comparisons
  })

const addressForms = ["an IP address", "a network such as 10.0.0.0/8", "a set {…, …}"]

export const network = (cursor: Cursor, keyword: string): IpNetwork.IpNetwork => {
  if (comparisons.some((sign) => sign === cursor.token.lower) || cursor.token.lower === "==") {
    const opposite = `not ${keyword} ADDRESS`
    cursor.fail({
      problem: `addresses are not compared, write "${keyword} ADDRESS" or "${opposite}"`,
      expected: addressForms
    })
  }
  const token = word(cursor, keyword, "an address", addressForms)
  const parsed = IpInterface.fromString(token.text)
  if (Result.isSuccess(parsed)) return IpNetwork.fromInterface(parsed.success)
  const withPort = /^(?:\[(.+)\]|([\d.]+)):(\d+)$/.exec(token.text)
  const hint =
    withPort === null
      ? `: ${parsed.failure.message}`
      : `, write an address and a port as two terms: "${keyword} ${withPort[1] ?? withPort[2]} and port ${withPort[3]}"`
  return cursor.fail(
    { problem: `${quote(token.text)} is not an address or network${hint}`, expected: addressForms },
    token
  )
}

const portForms = ["a port 0-65535", "a range such as 8000-8100", "a set {…, …}"]

export const portRange = (cursor: Cursor, keyword: string): PortRange => {
  const token = word(cursor, keyword, "a port", [...portForms, ...comparisons])
  const [, from, to] = /^(\d+)(?:-(\d+))?$/.exec(token.text) ?? []
  if (from === undefined) {
    return cursor.fail(
      { problem: `${quote(token.text)} is not a port or a range of ports`, expected: portForms },
      token
    )
  }
  const first = portNumber(cursor, token, from, 0)
  if (to === undefined) return { from: first, to: first }
  const last = portNumber(cursor, token, to, from.length + 1)
  if (first > last) {
    cursor.fail({ problem: `the range ${first}-${last} is empty, write ${last}-${first}`, expected: portForms }, token)
  }
  return { from: first, to: last }
}

export const comparedPort = (cursor: Cursor, keyword: string): number => {
  if (cursor.token.lower === "{") {
    const opposite = `not ${keyword} {…}`
    cursor.fail({
      problem: `a set is not compared, write "${keyword} {…}" or "${opposite}"`,
      expected: ["a port 0-65535"]
    })
  }
  const token = word(cursor, keyword, "a port", ["a port 0-65535"])
  return /^\d+$/.test(token.text)
    ? portNumber(cursor, token, token.text, 0)
    : cursor.fail({ problem: `${quote(token.text)} is not a port`, expected: ["a port 0-65535"] }, token)
}

const portNumber = (cursor: Cursor, token: Token, digits: string, offset: number): number => {
  const port = Number(digits)
  return port <= 65_535
    ? port
    : cursor.fail({ problem: `port ${brief(digits)} is above 65535`, expected: ["a port 0-65535"], offset }, token)
}

export const protocol = (cursor: Cursor): number => {
  const names = ["any", "ipv6", ...bareProtocols]
  const expected = [...names, "a number 0-255"]
  const token = word(cursor, "proto", "a protocol", expected)
  if (/^\d+$/.test(token.text)) {
    const number = Number(token.text)
    if (number <= 255) return number
    cursor.fail({ problem: `protocol ${brief(token.text)} is above 255`, expected: ["a number 0-255"] }, token)
  }
  const known = Protocol.fromName(token.lower)
  if (Result.isSuccess(known)) return known.success
  return cursor.fail(
    { problem: `unknown protocol ${quote(token.text)}${didYouMean(token.lower, names)}`, expected },
    token
  )
}

export const flagMask = (cursor: Cursor): number => {
  const names = CtEntryFlags.named.map(({ name }) => name)
  const expected = [...names, "a mask such as 0x0011"]
  const token = word(cursor, "flag", "a flag", expected)
  const named = CtEntryFlags.named.find(({ name }) => name.toLowerCase() === token.lower)
  if (named !== undefined) return named.bit
  if (!/^0x[0-9a-f]+$/.test(token.lower)) {
    cursor.fail({ problem: `unknown flag ${quote(token.text)}${didYouMean(token.lower, names)}`, expected }, token)
  }
  const mask = Number(token.lower)
  return mask >= 1 && mask <= 0xffff
    ? mask
    : cursor.fail(
        { problem: `mask ${brief(token.text)} is not 0x0001-0xffff`, expected: ["a mask 0x0001-0xffff"] },
        token
      )
}

const durationForms = ["a duration such as 60s, 1h30m or 500ms", "a number of seconds"]

/** Exact milliseconds. */
export const duration = (cursor: Cursor, keyword: string): number => {
  const token = word(cursor, keyword, "a duration", durationForms)
  const millis = readDuration(token.lower)
  if (millis === undefined) {
    cursor.fail(
      {
        problem: `${quote(token.text)} is not a duration: whole numbers with the units d, h, m, s, ms, longest first`,
        expected: durationForms
      },
      token
    )
  }
  return Number.isSafeInteger(millis)
    ? millis
    : cursor.fail({ problem: `${quote(token.text)} is too long a time`, expected: durationForms }, token)
}

const readDuration = (text: string): number | undefined => {
  const negative = text.startsWith("-")
  const unsigned = negative ? text.slice(1) : text
  const total = /^\d+$/.test(unsigned) ? Number(unsigned) * 1000 : sumOfUnits(unsigned)
  return total === undefined || total === 0 || !negative ? total : -total
}

const sumOfUnits = (text: string): number | undefined => {
  const match = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?$/.exec(text)
  if (match === null || text === "") return undefined
  return durationUnits.reduce((sum, [, millis], i) => sum + Number(match[i + 1] ?? 0) * millis, 0)
}

export const integer = (
  cursor: Cursor,
  keyword: string,
  field: { readonly maximum: bigint; readonly kind: "count" | "id" }
): bigint => {
  const forms = field.kind === "count" ? ["a number such as 1000, 10k or 4Mi"] : ["a number"]
  const token = word(cursor, keyword, "a number", forms)
  const [, digits, suffix] = /^(\d+)([a-z]*)$/.exec(token.lower) ?? []
  const factor = suffix === "" ? 1n : field.kind === "count" ? countSuffixes.get(suffix ?? "") : undefined
  if (digits === undefined || factor === undefined) {
    const suffixes = field.kind === "count" ? " with an optional suffix k, M, G, Ki, Mi or Gi" : ""
    return cursor.fail({ problem: `${quote(token.text)} is not a whole number${suffixes}`, expected: forms }, token)
  }
  const value = BigInt(digits) * factor
  return value <= field.maximum
    ? value
    : cursor.fail(
        {
          problem: `${brief(token.text)} is above ${field.maximum}, the largest that "${keyword}" can be`,
          expected: [`a number up to ${field.maximum}`]
        },
        token
      )
}

const brief = (digits: string): string => (digits.length > 40 ? `${digits.slice(0, 40)}…` : digits)
