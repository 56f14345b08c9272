/**
 * From `--ip`, `--port` and `--proto` to the filter that a purge deletes by.
 *
 * @since 0.1.0
 */
import * as Filter from "ctmap-core/Filter"
import * as FilterParser from "ctmap-core/FilterParser"
import * as Effect from "effect/Effect"
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
      const split = values.flatMap((value) => value.split(",")).map((value) => value.trim())
      if (split.length > 0) parts.push(yield* parsed(flag, `${term} {${split.join(", ")}}`, split.join(",")))
    }
    if (proto !== undefined) parts.push(yield* parsed("--proto", `proto ${proto}`, proto))
    if (where !== undefined) parts.push(yield* Effect.fromResult(FilterParser.parse(where)))
    const [first, ...rest] = parts
    if (first === undefined) {
      return yield* new UsageError({
        problem: "say what to purge with --ip, --port, --proto or --where; `ctmap flush` deletes everything"
      })
    }
    return rest.reduce((left: Filter.Filter, right) => Filter.and(left, right), first)
  })

const parsed = (flag: string, text: string, value: string) =>
  Effect.fromResult(FilterParser.parse(text)).pipe(
    Effect.mapError(() => new UsageError({ problem: `${flag} ${value}: ${expected[flag]}` }))
  )

const expected: Readonly<Record<string, string>> = {
  "--ip": "expected addresses or networks, such as 10.0.1.99, fd00::1 or 10.0.0.0/24, separated by commas",
  "--port": "expected ports from 0 to 65535 or ranges such as 8000-8100, separated by commas",
  "--proto": "expected the name or the number of an IP protocol, such as tcp, udp or 132"
}
