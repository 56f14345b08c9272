/**
 * What can be asked: queries and bodies, each checked as far as that goes without a kernel. A name that is not listed
 * here is refused, as a mistyped one must not widen what is deleted.
 *
 * @since 0.1.0
 */
import * as ClusterId from "ctmap-core/ClusterId"
import * as Family from "ctmap-core/Family"
import * as FilterParser from "ctmap-core/FilterParser"
import * as GcReason from "ctmap-gc/GcReason"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** Text that is a filter once `term` stands before it. */
const filterText = (term: string, expected: string) =>
  Schema.makeFilter((text: string) => {
    const parsed = FilterParser.parse(`${term}${text}`)
    return Result.isSuccess(parsed) ? undefined : expected === "" ? parsed.failure.message : expected
  })

/** A value is one word: with blanks or braces it could be another filter than it seems. */
const isWord = (expected: string) =>
  Schema.makeFilter((text: string) => (/^[\w.:/-]+$/.test(text) ? undefined : expected))

/** What is annotated stands in the OpenAPI document; of checks it knows nothing. */
const text = (description: string, examples: ReadonlyArray<string>) => Schema.String.annotate({ description, examples })

const word = (about: Schema.String, term: string, expected: string) =>
  about.check(isWord(expected), filterText(`${term} `, expected))

/**
 * A filter, in the language of every command. One that cannot be parsed is refused with the column.
 *
 * @since 0.1.0
 */
export const Where = text("A filter in ctmap's language.", ["tcp and dport 443", "lifetime < 60s"]).check(
  filterText("", "")
)

/** An address or a network: entries that have it at either end. @since 0.1.0 */
export const Host = word(
  text("An address or a network; entries that have it at either end.", ["10.0.1.99", "fd00::/64"]),
  "host",
  "Expected an address or a network, such as 10.0.1.99, fd00::1 or 10.0.0.0/24"
)

/** A port or a range, at either end. @since 0.1.0 */
export const Port = word(
  text("A port or a range of ports, at either end.", ["443", "8000-8100"]),
  "port",
  "Expected a port from 0 to 65535, or a range such as 8000-8100"
)

/** An IP protocol. @since 0.1.0 */
export const Protocol = word(
  text("An IP protocol by name or number.", ["tcp", "132"]),
  "proto",
  "Expected the name or the number of an IP protocol, such as tcp, udp or 132"
)

const MAX_CLUSTER = Math.max(...ClusterId.CLUSTER_ID_MAX)
const MAX_ENDPOINT = 0xffff

/** @since 0.1.0 */
export const Cluster = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: MAX_CLUSTER })).annotate({
  description: "The id of a remote cluster."
})

/** @since 0.1.0 */
export const Endpoint = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: MAX_ENDPOINT })).annotate({
  description: "The id of an endpoint of this host."
})

/**
 * Whose maps: `global`, `endpoint 7`, `cluster 3`.
 *
 * @since 0.1.0
 */
export const Owner = Schema.String.check(
  Schema.isPattern(/^(global|endpoint (0|[1-9][0-9]{0,4})|cluster [1-9][0-9]{0,2})$/, {
    message: "Expected global, endpoint N or cluster N"
  }),
  Schema.makeFilter((owner: string) => {
    const [of, digits] = owner.split(" ")
    const most = of === "endpoint" ? MAX_ENDPOINT : MAX_CLUSTER
    return digits === undefined || Number(digits) <= most ? undefined : `Expected ${of} N with N of at most ${most}`
  })
).annotate({
  description: "Whose maps; everybody's where it is left out.",
  examples: ["global", "endpoint 7", "cluster 3"]
})

const Families = Schema.Array(Family.Family)
  .check(Schema.isMinLength(1))
  .annotate({ description: "Both where it is left out." })

const dryRun = Schema.optionalKey(
  Schema.Boolean.annotate({ description: "Tell what would be deleted, and delete nothing." })
)

/** `GET /v1/entries`. @since 0.1.0 */
export const EntriesQuery = {
  map: Schema.optionalKey(
    Schema.Array(Schema.NonEmptyString).annotate({ description: "Names of pins; may be repeated." })
  ),
  family: Schema.optionalKey(Family.Family),
  nat: Schema.optionalKey(Schema.Boolean.annotate({ description: "NAT entries instead of CT entries." })),
  cluster: Schema.optionalKey(Cluster),
  endpoint: Schema.optionalKey(Endpoint),
  where: Schema.optionalKey(Where),
  limit: Schema.optionalKey(
    Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)).annotate({ description: "The most entries to send." })
  )
} as const
/** @since 0.1.0 */
export type EntriesQuery = Schema.Struct.Type<typeof EntriesQuery>

/** `GET /v1/events`. @since 0.1.0 */
export const EventsQuery = {
  family: Schema.optionalKey(Family.Family),
  where: Schema.optionalKey(Where),
  reason: Schema.optionalKey(
    Schema.Array(GcReason.GcReason).annotate({
      description: "Only entries that went for one of these; may be repeated."
    })
  )
} as const
/** @since 0.1.0 */
export type EventsQuery = Schema.Struct.Type<typeof EventsQuery>

/**
 * `POST /v1/gc`: delete what has expired, and nothing else.
 *
 * @since 0.1.0
 */
export const Gc = Schema.Struct({
  families: Schema.optionalKey(Families),
  where: Schema.optionalKey(Where).annotateKey({ description: "Of what has expired, only what this filter accepts." }),
  dryRun,
  owner: Schema.optionalKey(Owner)
}).annotate({ identifier: "GcRequest", examples: [{ families: ["ipv4"], dryRun: true }] })
/** @since 0.1.0 */
export type Gc = typeof Gc.Type

/** The family of an address or a network. @since 0.1.0 */
export const familyOf = (host: string): Family.Family => (host.includes(":") ? "ipv6" : "ipv4")

/**
 * `POST /v1/purge`: delete live connections, all that fit every selector that is given. At least one is.
 *
 * @since 0.1.0
 */
export const Purge = Schema.Struct({
  ips: Schema.optionalKey(Schema.Array(Host).check(Schema.isMinLength(1))),
  ports: Schema.optionalKey(Schema.Array(Port).check(Schema.isMinLength(1))),
  protocol: Schema.optionalKey(Protocol),
  where: Schema.optionalKey(Where),
  families: Schema.optionalKey(Families).annotateKey({
    description: "Where they are left out, those that can have one of the addresses."
  }),
  owner: Schema.optionalKey(Owner),
  dryRun
})
  .check(
    Schema.makeFilter(({ families, ips, ports, protocol, where }) => {
      if (ips === undefined && ports === undefined && protocol === undefined && where === undefined) {
        return "Say what to purge with ips, ports, protocol or where; a request without any would delete everything"
      }
      const isOfNone = families !== undefined && ips !== undefined && !ips.some((ip) => families.includes(familyOf(ip)))
      return isOfNone
        ? { path: ["families"], issue: "None of the addresses is of these families: nothing would be purged" }
        : undefined
    })
  )
  .annotate({ identifier: "PurgeRequest", examples: [{ ips: ["10.0.1.99"], dryRun: true }] })
/** @since 0.1.0 */
export type Purge = typeof Purge.Type

/** `POST /v1/nat/purge-orphans`. @since 0.1.0 */
export const PurgeOrphans = Schema.Struct({
  families: Schema.optionalKey(Families),
  owner: Schema.optionalKey(Owner),
  dryRun
}).annotate({
  identifier: "PurgeOrphansRequest",
  examples: [{ dryRun: true }]
})
/** @since 0.1.0 */
export type PurgeOrphans = typeof PurgeOrphans.Type
