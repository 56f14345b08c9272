/**
 * From `--ip`, `--port` and `--proto` to the filter that a purge deletes by.
 *
 * @since 0.1.0
 */
import * as Filter from "ctmap-core/Filter"
import * as FilterParser from "ctmap-core/FilterParser"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { UsageError } from "./Failure.ts"

/** @since 0.1.0 */
export interface PurgeTarget {
  /** Addresses or networks: entries that have one of them at either end. */
  readonly ip: ReadonlyArray<string>
  /** Ports or ranges, at either end. */
  readonly port: ReadonlyArray<string>
  readonly proto: string | undefined
  readonly where: string | undefined
}

/**
 * The filter, from the text that somebody could have typed. Errors: `UsageError` where nothing narrows it down, or a
 * value is none; `FilterSyntaxError` for `--where`.
 *
 * @since 0.1.0
 */
export const purgeFilter = ({ ip, port, proto, where }: PurgeTarget) =>
  Effect.gen(function* () {
    const parts: Array<Filter.Filter> = []
    const given = [
      ["--ip", ip, "host"],
      ["--port", port, "port"]
    ] as const
    for (const [flag, values, term] of given) {
      const each = list(values)
      if (each.length > 0) parts.push(yield* parsed(flag, term, each))
    }
    if (proto !== undefined) parts.push(yield* parsed("--proto", "proto", list([proto])))
    if (where !== undefined) parts.push(yield* Effect.fromResult(FilterParser.parse(where)))
    const [first, ...rest] = parts
    if (first === undefined) {
      return yield* new UsageError({
        problem: "say what to purge with --ip, --port, --proto or --where; `ctmap flush` deletes everything"
      })
    }
    return rest.reduce((left: Filter.Filter, right) => Filter.and(left, right), first)
  })

/**
 * The family whose tables can hold one of these addresses, so that the other's are left alone. `all` where there are
 * addresses of both, or none.
 *
 * @since 0.1.0
 */
export const familyOf = (ip: PurgeTarget["ip"]): "ipv4" | "ipv6" | "all" => {
  const families = new Set(list(ip).map((address) => (address.includes(":") ? "ipv6" : "ipv4")))
  const [only] = families
  return families.size === 1 && only !== undefined ? only : "all"
}

/** Values of a flag that may be repeated, and hold several each. @since 0.1.0 */
export const list = (values: ReadonlyArray<string>): ReadonlyArray<string> =>
  values.flatMap((value) => value.split(",")).map((value) => value.trim())

/** A value is one word: with blanks or braces it could be another filter than it seems. */
const parsed = (flag: keyof typeof expected, term: string, values: ReadonlyArray<string>) => {
  const wrong = values.find(
    (value) => !/^[\w.:/-]+$/.test(value) || Result.isFailure(FilterParser.parse(`${term} ${value}`))
  )
  return wrong === undefined
    ? Effect.fromResult(FilterParser.parse(oneOf(term, values)))
    : Effect.fail(new UsageError({ problem: `${flag} "${wrong}": ${expected[flag]}` }))
}

/** Protocols have no sets. */
const oneOf = (term: string, values: ReadonlyArray<string>): string =>
  term === "proto" ? values.map((value) => `proto ${value}`).join(" or ") : `${term} {${values.join(", ")}}`

/** What a flag takes. @since 0.1.0 */
export const expected = {
  "--ip": "expected addresses or networks, such as 10.0.1.99, fd00::1 or 10.0.0.0/24, separated by commas",
  "--port": "expected ports from 0 to 65535 or ranges such as 8000-8100, separated by commas",
  "--proto": "expected the name or the number of an IP protocol, such as tcp, udp or 132"
} as const
