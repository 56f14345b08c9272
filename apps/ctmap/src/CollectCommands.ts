/**
 * The commands that delete, and the one that watches what is due: names, flags, help.
 *
 * @since 0.1.0
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Flags from "./Flags.ts"
import { agentically, lazily, unlessAgent } from "./Root.ts"

/** @since 0.1.0 */
export const natFlush = Command.make(
  "flush",
  {
    ...Flags.selection,
    ...Flags.clock,
    ...Flags.passing,
    where: Flags.where,
    yes: Flags.assent,
    output: Flags.reportFormat
  },
  (options) =>
    lazily(
      () => import("./commands/natPurge.ts"),
      ({ flush: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription(
    "Deletes NAT entries, all or those that match: live connections lose their translation. Asks."
  ),
  Command.withExamples([
    { command: "ctmap nat flush --where 'xport 32000-33000' --dry-run", description: "How many that would be" },
    { command: "ctmap nat flush --family ipv6 --yes", description: "The whole IPv6 table" }
  ])
)

/** @since 0.1.0 */
export const natOrphans = Command.make(
  "purge-orphans",
  { ...Flags.selection, ...Flags.passing, output: Flags.reportFormat },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/natPurge.ts"),
        ({ purgeOrphans: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/collect.ts"),
        ({ purgeOrphans: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withDescription(
    "Deletes NAT entries whose connection is gone: looked at twice, and only of the maps they belong to."
  ),
  Command.withExamples([
    { command: "ctmap nat purge-orphans --dry-run", description: "How many there are" },
    { command: "ctmap nat purge-orphans", description: "Without them" }
  ])
)

const retriesList = Command.make("list", { family: Flags.selection.family, output: Flags.reportFormat }, (options) =>
  lazily(
    () => import("./commands/natRetries.ts"),
    ({ list: run }, at) => run(at, options)
  )
).pipe(
  Command.withAlias("ls"),
  Command.withDescription("Shows how many port allocations took how many tries."),
  Command.withExamples([{ command: "ctmap nat retries list -o json", description: "All counters, for a script" }])
)

const retriesFlush = Command.make("flush", { family: Flags.selection.family }, (options) =>
  lazily(
    () => import("./commands/natRetries.ts"),
    ({ flush: run }, at) => run(at, options)
  )
).pipe(
  Command.withDescription("Sets the counters to zero."),
  Command.withExamples([{ command: "ctmap nat retries flush", description: "Count from now on" }])
)

/** @since 0.1.0 */
export const retries = Command.make("retries").pipe(
  Command.withDescription("Works on the counters of port-allocation retries, which Cilium keeps since 1.20."),
  Command.withSubcommands([retriesList, retriesFlush])
)

/** @since 0.1.0 */
export const gc = Command.make(
  "gc",
  { ...Flags.selection, ...Flags.clock, ...Flags.passing, where: Flags.where, output: Flags.reportFormat },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/gc.ts"),
        ({ gc: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/collect.ts"),
        ({ gc: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withDescription(
    "Collects what has expired, with its NAT entries. An entry that is refreshed meanwhile is kept.\n\n" +
      "  Exit code 3 where a guard or an implausible clock stopped it."
  ),
  Command.withExamples([
    { command: "ctmap gc --dry-run", description: "What a pass would delete" },
    { command: "ctmap gc --where 'udp and dport 53'", description: "Only expired DNS entries" },
    { command: "ctmap gc --budget 0.1", description: "At a tenth of a CPU" }
  ])
)

/** @since 0.1.0 */
export const flush = Command.make(
  "flush",
  {
    ...Flags.selection,
    ...Flags.clock,
    ...Flags.passing,
    where: Flags.where,
    yes: Flags.assent,
    output: Flags.reportFormat
  },
  (options) =>
    lazily(
      () => import("./commands/gc.ts"),
      ({ flush: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription("Deletes CT entries, all or those that match, live or not, with their NAT entries. Asks."),
  Command.withExamples([
    { command: "ctmap flush --family ipv6 --yes", description: "The IPv6 tables, without a question" },
    { command: "ctmap flush --where 'sctp and host 10.0.1.99'", description: "One stale association" }
  ])
)

/** @since 0.1.0 */
export const purge = Command.make(
  "purge",
  {
    ip: Flags.several(
      "ip",
      "ADDR",
      "Entries with this address or network at either end; repeat it, or separate with commas"
    ),
    port: Flags.several("port", "PORT", "Entries with this port or range at either end; as --ip"),
    proto: Flags.text("proto", "NAME|NUMBER", "Only entries of this IP protocol"),
    ...Flags.selection,
    ...Flags.clock,
    ...Flags.passing,
    where: Flags.where,
    yes: Flags.assent,
    output: Flags.reportFormat
  },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/gc.ts"),
        ({ purge: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/collect.ts"),
        ({ purge: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withDescription(
    "Scrubs the CT entries of addresses, ports or protocols, live or not, with their NAT entries. Asks."
  ),
  Command.withExamples([
    { command: "ctmap purge --ip 10.0.1.99 --yes", description: "All that a pod left behind" },
    { command: "ctmap purge --ip 10.0.1.0/24 --port 53 --proto udp", description: "A backend of UDP that is gone" }
  ])
)

/** @since 0.1.0 */
export const watch = Command.make(
  "watch",
  {
    ...Flags.selection,
    ...Flags.clock,
    where: Flags.where,
    interval: Flags.number("interval", "SECONDS", "Time between two passes (default 5)", 86_400),
    passes: Flags.number("passes", "N", "End after so many passes (default: go on)"),
    backlog: Flags.yes("backlog", "Begin with what has expired already"),
    budget: Flags.passing.budget,
    reconnect: Flag.Boolean("reconnect").pipe(
      Flag.withDefault(true),
      Flag.withDescription("With --agent, wait for an agent that stops; --no-reconnect ends with 1 (default yes)")
    ),
    output: Flag.Literals("output", ["text", "ndjson"]).pipe(
      Flag.withAlias("o"),
      Flag.withDefault("text"),
      Flag.withDescription("text or ndjson (default text)")
    )
  },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/watch.ts"),
        ({ watch: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/watch.ts"),
        ({ watch: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withDescription(
    "Shows entries as they become due for collection, by dry passes of its own; with --agent, what that deletes, live. " +
      "Deletes nothing."
  ),
  Command.withExamples([
    { command: "ctmap watch --where 'dport 443'", description: "HTTPS connections as they end" },
    { command: "ctmap watch -o ndjson --backlog --passes 1", description: "What a collection would take now" },
    { command: "ctmap watch --agent --where 'dst 10.0.1.99'", description: "What ctmap-agent deletes, and why" }
  ])
)
