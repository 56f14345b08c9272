/**
 * The flags of the commands, by what they are for. Nothing here loads the kernel or the tables' code: help, completions
 * and wrong usage are answered without.
 *
 * @since 0.1.0
 */
import * as Flag from "effect/cli/Flag"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

/** A number out of range would mean another map, or nothing: it is wrong usage. */
const between = (flag: Flag.Flag<number>, least: number, most: number): Flag.Flag<number> =>
  Flag.filter(
    flag,
    (n) => n >= least && n <= most,
    () => (most === Infinity ? `a number of at least ${least}` : `a number from ${least} to ${most}`)
  )

/** Absent is `undefined`, which is what options of functions say. */
const maybe = <A>(flag: Flag.Flag<A>): Flag.Flag<A | undefined> => Flag.map(Flag.optional(flag), Option.getOrUndefined)

const text = (name: string, metavar: string, description: string): Flag.Flag<string | undefined> =>
  maybe(Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description)))

/** A whole number from 1 to `most`. */
const number = (
  name: string,
  metavar: string,
  description: string,
  most: number = Infinity
): Flag.Flag<number | undefined> =>
  maybe(between(Flag.Int(name), 1, most).pipe(Flag.withMetavar(metavar), Flag.withDescription(description)))

const yes = (name: string, description: string): Flag.Flag<boolean> =>
  Flag.Boolean(name).pipe(Flag.withDefault(false), Flag.withDescription(description))

const size = (name: string, holds: string, otherwise: number): Flag.Flag<number> =>
  Flag.Int(name).pipe(
    Flag.withDefault(otherwise),
    Flag.withMetavar("N"),
    Flag.withDescription(`Entries of ${holds}, 1024 to 16777216 (default ${otherwise})`)
  )

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** A length of time as people write it: 500ms, 10s, 5m, 1h. */
const duration = (name: string, otherwise: string, description: string): Flag.Flag<Duration.Duration> =>
  Flag.String(name).pipe(
    Flag.withDefault(otherwise),
    Flag.withMetavar("TIME"),
    Flag.withDescription(`${description} (default ${otherwise})`),
    Flag.filterMap(
      (written) => {
        const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(written) ?? []
        return amount === undefined ? Option.none() : Option.some(Duration.millis(Number(amount) * units[unit!]!))
      },
      (written) => `"${written}" is no length of time: write 500ms, 10s, 5m or 1h`
    )
  )

/** Where the maps are, and whether the command line says so. @since 0.1.0 */
export const bpffsRoot = Flag.String("bpffs-root").pipe(
  Flag.withMetavar("DIR"),
  Flag.filter(
    (directory) => directory !== "",
    () => "the directory that contains tc/globals, not an empty name"
  ),
  Flag.map((directory) => ({ directory, isGiven: true })),
  Flag.withFallbackConfig(
    Config.map(Config.String("CTMAP_BPFFS_ROOT"), (directory) => ({ directory, isGiven: false }))
  ),
  Flag.withDefault({ directory: "/sys/fs/bpf", isGiven: false }),
  Flag.withDescription("The directory that contains tc/globals (environment: CTMAP_BPFFS_ROOT; default /sys/fs/bpf)")
)

/** What a bare `--agent` is read as. */
const ITS_PLACE = "default"

/** Which agent to ask, if one is asked; `at` is absent for the one that is where agents are. @since 0.1.0 */
export const agent = maybe(
  Flag.String("agent").pipe(
    Flag.withOptionalValue(ITS_PLACE),
    Flag.withMetavar("SOCKET|URL"),
    Flag.filter(
      (at) => at !== "",
      () => "the path of a socket or a URL, or --agent without a value"
    ),
    Flag.map((at) => ({ at: at === ITS_PLACE ? undefined : at })),
    Flag.withDescription(
      "Ask ctmap-agent in place of reading the maps: list, nat list, maps, gc, purge, nat purge-orphans, watch, status " +
        "(default: what CTMAP_AGENT_SOCKET names, else /run/ctmap/agent.sock)"
    )
  )
)

/** Never printed. @since 0.1.0 */
export const token = maybe(
  Flag.Redacted("token").pipe(
    Flag.withMetavar("TOKEN"),
    Flag.withDescription(
      "For an agent that is asked over TCP. Others on this host can see it in the list of processes: better in " +
        "CTMAP_AGENT_TOKEN"
    )
  )
)

/** How to read tables that do not show their release. @since 0.1.0 */
export const release = Flag.Literals("release", ["1.17", "1.20"]).pipe(
  Flag.withDefault("1.17"),
  Flag.withDescription("The Cilium release to assume where a table does not show which one wrote it (default 1.17)")
)

/** @since 0.1.0 */
export const endpoint = number("endpoint", "ID", "The maps of this endpoint in place of the global ones", 65_535)

/** Which maps. @since 0.1.0 */
export const selection = {
  family: Flag.Literals("family", ["ipv4", "ipv6", "all"]).pipe(
    Flag.withDefault("all"),
    Flag.withDescription("Address family of the maps (default all)")
  ),
  map: Flag.String("map").pipe(
    Flag.atLeast(0),
    Flag.withMetavar("NAME"),
    Flag.withDescription("Only the maps of these pin names; repeat it, or separate names with commas")
  ),
  cluster: number("cluster", "ID", "The maps of this remote cluster in place of the global ones", 511),
  endpoint,
  release
}

/** What time it is. @since 0.1.0 */
export const clock = {
  clock: maybe(Flag.Literals("clock", ["ktime", "jiffies"])).pipe(
    Flag.withDescription("The clock of the datapath (default: what Cilium's runtime configuration names, else ktime)")
  ),
  hz: number("hz", "N", "Tick rate of the jiffies clock (default: measured)", 65_535),
  now: maybe(
    between(Flag.Int("now"), 0, 0xffff_ffff).pipe(
      Flag.withMetavar("T"),
      Flag.withDescription("Take this for the time, in units of the clock: to read tables of another day or host")
    )
  )
}

/** @since 0.1.0 */
export const takenAt = maybe(
  between(Flag.Int("taken-at"), 0, 0xffff_ffff).pipe(
    Flag.withMetavar("T"),
    Flag.withDescription("The clock's reading when it was saved: moves all times, so that the entries live on from now")
  )
)

/** @since 0.1.0 */
export const where = text(
  "where",
  "FILTER",
  'Only entries that match, e.g. "tcp and dst 10.0.0.0/8 and dport 443 and not expired"'
)

const share = (
  name: string,
  description: string,
  isShare: (n: number) => boolean,
  allowed: string
): Flag.Flag<number> =>
  Flag.filter(Flag.Finite(name), isShare, () => allowed).pipe(
    Flag.withMetavar("SHARE"),
    Flag.withDescription(description)
  )

/** How a pass that deletes is done. @since 0.1.0 */
export const passing = {
  dryRun: Flag.Boolean("dry-run").pipe(
    Flag.withAlias("n"),
    Flag.withDefault(false),
    Flag.withDescription("Only count what would be deleted")
  ),
  engine: Flag.Literals("engine", ["auto", "hybrid", "kernel", "portable"]).pipe(
    Flag.withDefault("auto"),
    Flag.withDescription(
      "hybrid: a program walks large tables, a millisecond at a time, and deletes from lists of small ones; kernel: one program walks the table, fastest, holds a CPU meanwhile; " +
        "portable: without programs; auto: hybrid where it can be had (default)"
    )
  ),
  maxDeleteRatio: maybe(
    share(
      "max-delete-ratio",
      "The largest share of a table that may go for another reason than expiry; more is refused with exit code 3 " +
        "(default 0.5, and 1024 entries in any case)",
      (n) => n >= 0 && n <= 1,
      "a share from 0 to 1"
    )
  ),
  maxDeletions: number("max-deletions", "N", "Stop after so many deletions in a table, with exit code 3"),
  budget: share(
    "budget",
    "The share of one CPU that may be used (default 1)",
    (n) => n > 0 && n <= 1,
    "a share above 0 and up to 1"
  ).pipe(Flag.withDefault(1))
}

/** The answer to what would be asked. @since 0.1.0 */
export const assent = yes("yes", "Do not ask").pipe(Flag.withAlias("y"))

/** Several values of one flag. @since 0.1.0 */
export const several = (name: string, metavar: string, description: string): Flag.Flag<ReadonlyArray<string>> =>
  Flag.String(name).pipe(Flag.atLeast(0), Flag.withMetavar(metavar), Flag.withDescription(description))

/** @since 0.1.0 */
export const limit = number("limit", "N", "Stop after this many entries")

/** @since 0.1.0 */
export const sort = (fields: string): Flag.Flag<string | undefined> =>
  text("sort", "FIELD[:desc]", `Sort by ${fields}. Reads everything and keeps --limit entries (default 1000) in memory`)

/** @since 0.1.0 */
export const timeDiff = Flag.Boolean("time-diff").pipe(
  Flag.withAlias("d"),
  Flag.withDefault(false),
  Flag.withDescription("Say how many seconds each entry has left")
)

/** Formats of entries. @since 0.1.0 */
export const entryFormat = Flag.Literals("output", ["text", "table", "json", "ndjson", "cilium-json"]).pipe(
  Flag.withAlias("o"),
  Flag.withDefault("text"),
  Flag.withDescription(
    "text: Cilium's lines, byte for byte; table: aligned; json, ndjson: records; cilium-json: Cilium's document"
  )
)

/** Formats of everything else. @since 0.1.0 */
export const reportFormat = Flag.Literals("output", ["table", "text", "json", "ndjson"]).pipe(
  Flag.withAlias("o"),
  Flag.withDefault("table"),
  Flag.withDescription("table (text is the same), json or ndjson (default table)")
)

/** Sizes as Cilium's options name them. @since 0.1.0 */
export const ctSizes = {
  ctTcp: size("bpf-ct-global-tcp-max", "the global TCP CT maps", 524_288),
  ctAny: size("bpf-ct-global-any-max", "the other global CT maps", 262_144)
}

/** @since 0.1.0 */
export const natSize = size("bpf-nat-global-max", "the NAT maps", 524_288)

/** @since 0.1.0 */
export { duration, maybe, number, text, yes }
