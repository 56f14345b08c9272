/**
 * The commands: names, flags, help. What a command does is loaded when it is run.
 *
 * @since 0.1.0
 */
import { NAT_DEFAULT } from "ctmap-core/MapLimits"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Flags from "./Flags.ts"
import { status } from "./AgentCommands.ts"
import { cluster } from "./ClusterCommands.ts"
import { flush, gc, natFlush, natOrphans, purge, retries, watch } from "./CollectCommands.ts"
import { agentically, lazily, root, unlessAgent } from "./Root.ts"

const list = Command.make(
  "list",
  {
    ...Flags.selection,
    ...Flags.clock,
    where: Flags.where,
    output: Flags.entryFormat,
    timeDiff: Flags.timeDiff,
    limit: Flags.limit,
    sort: Flags.sort("expires, packets, bytes, reported, sport, dport, identity, revnat or protocol")
  },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/list.ts"),
        ({ list: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/list.ts"),
        ({ list: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withAlias("ls"),
  Command.withDescription("Lists CT entries, table by table, as Cilium's own `ct list` prints them."),
  Command.withExamples([
    { command: "ctmap list", description: "All entries of the global tables" },
    { command: "ctmap list -d --where 'tcp and dport 443 and not expired'", description: "Live HTTPS, with time left" },
    { command: "ctmap list -o table --sort bytes:desc --limit 20", description: "The twenty largest connections" },
    { command: "ctmap list -o ndjson | jq -r .source.address | sort | uniq -c", description: "Anything else" }
  ])
)

const get = Command.make(
  "get",
  {
    src: Flags.text("src", "ADDR:PORT", "Who sent the first packet; IPv6 as [ADDR]:PORT"),
    dst: Flags.text("dst", "ADDR:PORT", "To whom"),
    proto: Flag.String("proto").pipe(
      Flag.withDefault("tcp"),
      Flag.withMetavar("NAME|NUMBER"),
      Flag.withDescription("IP protocol (default tcp)")
    ),
    ingress: Flags.yes("ingress", "The entry made when the flow entered an endpoint, not when it left one"),
    key: Flags.text("key", "HEX", "The bytes of the key in place of --src, --dst and --proto"),
    cluster: Flags.selection.cluster,
    endpoint: Flags.endpoint,
    release: Flags.release,
    ...Flags.clock,
    output: Flags.entryFormat,
    timeDiff: Flags.timeDiff
  },
  (options) =>
    lazily(
      () => import("./commands/get.ts"),
      ({ get: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription("Prints the one CT entry of a flow. Exit code 1 where there is none."),
  Command.withExamples([
    { command: "ctmap get --src 10.0.1.99:34520 --dst 1.1.1.1:80", description: "A TCP connection that left a pod" },
    {
      command: "ctmap get --src '[fd00::1]:40000' --dst '[fd00::5]:53' --proto udp --ingress",
      description: "Over IPv6"
    },
    { command: "ctmap get --key 0a00016301010101005086d80600 -o json", description: "By the bytes of the key" }
  ])
)

const count = Command.make(
  "count",
  {
    ...Flags.selection,
    ...Flags.clock,
    where: Flags.where,
    nat: Flags.yes("nat", "Count NAT maps in place of CT maps"),
    output: Flags.reportFormat
  },
  (options) =>
    lazily(
      () => import("./commands/count.ts"),
      ({ count: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription("Counts the entries of each map, or those that match a filter."),
  Command.withExamples([
    { command: "ctmap count", description: "Entries of each global CT map" },
    { command: "ctmap count --where expired", description: "How many wait for garbage collection" },
    { command: "ctmap count --nat -o json", description: "NAT maps, for a script" }
  ])
)

const maps = Command.make(
  "maps",
  {
    ...Flags.selection,
    ...Flags.clock,
    entries: Flag.Boolean("entries").pipe(
      Flag.withDefault(true),
      Flag.withDescription("Read every map to count its entries; --no-entries is faster (default yes)")
    ),
    output: Flags.reportFormat
  },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/maps.ts"),
        ({ maps: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/maps.ts"),
        ({ maps: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withDescription("Shows what is pinned: type, sizes, fill, memory, layout, clock, and what looks wrong."),
  Command.withExamples([
    { command: "ctmap maps", description: "Every CT and NAT map of this host" },
    { command: "ctmap maps --cluster 3", description: "Those of a remote cluster" },
    { command: "ctmap maps --no-entries -o json", description: "Without reading the maps" }
  ])
)

const stats = Command.make(
  "stats",
  { ...Flags.selection, ...Flags.clock, where: Flags.where, output: Flags.reportFormat },
  (options) =>
    lazily(
      () => import("./commands/stats.ts"),
      ({ stats: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription(
    "Breaks the CT entries down by protocol, direction, state and service, and by how long they have left."
  ),
  Command.withExamples([
    { command: "ctmap stats", description: "What the global tables are full of" },
    { command: "ctmap stats --where 'dport 53'", description: "Only DNS" }
  ])
)

/** What an index by name has room for. */
const MOST_COUNTERS = 10_000_000

const top = Command.make(
  "top",
  {
    ...Flags.selection,
    ...Flags.clock,
    by: Flag.Literals("by", ["source", "destination", "service", "identity"]).pipe(
      Flag.withDefault("source"),
      Flag.withDescription("Whom to count for (default source)")
    ),
    of: Flag.Literals("of", ["entries", "packets", "bytes"]).pipe(
      Flag.withDefault("entries"),
      Flag.withDescription("What to count (default entries)")
    ),
    where: Flags.where,
    limit: Flags.number("limit", "N", "How many to show (default 10)", MOST_COUNTERS).pipe(Flag.map((n) => n ?? 10)),
    counters: Flags.number(
      "counters",
      "N",
      "Counters to keep in memory; where there are more names than that, counts come with an error bound (default 65536)",
      MOST_COUNTERS
    ).pipe(Flag.map((n) => n ?? 65_536)),
    output: Flags.reportFormat
  },
  (options) =>
    lazily(
      () => import("./commands/top.ts"),
      ({ top: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription("Shows who has the most CT entries, packets or bytes, in bounded memory."),
  Command.withExamples([
    { command: "ctmap top", description: "Clients with the most connections" },
    { command: "ctmap top --by service --limit 5", description: "The busiest services" },
    { command: "ctmap top --by identity --of bytes --where 'dir out'", description: "By security identity" }
  ])
)

const natList = Command.make(
  "list",
  {
    ...Flags.selection,
    ...Flags.clock,
    where: Flags.where,
    output: Flags.entryFormat,
    limit: Flags.limit,
    sort: Flags.sort("created, sport, dport, xport or protocol")
  },
  (options) =>
    unlessAgent(
      lazily(
        () => import("./commands/list.ts"),
        ({ natList: run }, at) => run(at, options)
      ),
      agentically(
        () => import("./agent/list.ts"),
        ({ natList: run }, agent) => run(agent, options)
      )
    )
).pipe(
  Command.withAlias("ls"),
  Command.withDescription("Lists NAT entries as Cilium's own `nat list` prints them, each with its age."),
  Command.withExamples([
    { command: "ctmap nat list", description: "All entries of the global NAT tables" },
    { command: "ctmap nat list -o table --where 'xport 32000-33000'", description: "By the translated port" }
  ])
)

const nat = Command.make("nat").pipe(
  Command.withDescription("Works on NAT maps."),
  Command.withSubcommands([natList, natFlush, natOrphans, retries])
)

const file = (what: string) =>
  Argument.String("file").pipe(Argument.withDescription(`${what}; compressed where it ends in .gz; - for a pipe`))

const save = Command.make("save", { file: file("The file to write"), ...Flags.selection }, (options) =>
  lazily(
    () => import("./commands/snapshot.ts"),
    ({ save: run }, at) => run(at, options)
  )
).pipe(
  Command.withDescription(
    "Saves CT and NAT maps, all that are pinned unless flags select some: an entry a line, none for an empty map."
  ),
  Command.withShortDescription("Saves CT and NAT maps, all that are pinned unless flags select some."),
  Command.withExamples([
    { command: "ctmap snapshot save tables.tsv.gz", description: "Everything, compressed" },
    { command: "ctmap snapshot save - --map cilium_ct4_global | wc -l", description: "One map, to a pipe" }
  ])
)

const restore = Command.make(
  "restore",
  {
    file: file("The file to read"),
    replace: Flags.yes(
      "replace",
      "Delete what a map holds and the snapshot has not, and overwrite the rest, in the map that the datapath uses"
    ),
    overwrite: Flags.yes("overwrite", "Where an entry is in the map already, take that of the snapshot"),
    allowEviction: Flags.yes("allow-eviction", "Go on even where a map is too small and throws entries out"),
    yes: Flags.yes("yes", "Do not ask before --replace deletes entries").pipe(Flag.withAlias("y")),
    takenAt: Flags.takenAt,
    ...Flags.clock,
    ...Flags.ctSizes,
    nat: Flags.natSize
  },
  (options) =>
    lazily(
      () => import("./commands/snapshot.ts"),
      ({ restore: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription(
    "Restores a snapshot: adds the entries that are missing; maps that are not pinned are made.\n\n" +
      "  An entry that is in the table stays as it is, for it may be newer (--overwrite, --replace). The snapshot is " +
      "read and checked to its end\n  before anything is changed, and refused where an LRU map might evict entries for " +
      "it (--allow-eviction). A map that the snapshot\n  has no entries of is left alone. Maps of remote clusters that it " +
      "makes\n  are in use once `ctmap cluster check --repair` has entered them. Exit code 3: refused, nothing changed."
  ),
  Command.withShortDescription("Restores a snapshot; maps that are not pinned are made."),
  Command.withExamples([
    { command: "ctmap snapshot restore tables.tsv.gz", description: "What is missing, as it was saved" },
    { command: "ctmap snapshot restore tables.tsv.gz --taken-at 5461", description: "As if it had been saved now" },
    { command: "ssh node ctmap snapshot save - | ctmap snapshot restore - --replace --yes", description: "From a pipe" }
  ])
)

const snapshot = Command.make("snapshot").pipe(
  Command.withDescription("Saves tables to a file, and restores them."),
  Command.withSubcommands([save, restore])
)

const macros = Command.make("macros", { endpoint: Flags.endpoint, ...Flags.ctSizes, nat: Flags.natSize }, (options) =>
  lazily(
    () => import("./commands/macros.ts"),
    ({ macros: run }) => run(options)
  )
).pipe(
  Command.withDescription("Prints the header that names the CT maps and their sizes for the datapath's C code."),
  Command.withExamples([
    { command: "ctmap macros", description: "The global maps" },
    { command: "ctmap macros --endpoint 1234", description: "The maps of an endpoint" }
  ])
)

const upgrade = Command.make(
  "upgrade",
  {
    migrate: Flags.yes(
      "migrate",
      "Copy the live entries into maps of the wanted size and swap the pins; then reload the datapath's programs"
    ),
    settle: Flags.duration(
      "settle",
      "10s",
      "With --migrate, carry over what programs still write to the old maps until these have been quiet for so long"
    ),
    giveUpAfter: Flags.duration(
      "give-up-after",
      "10m",
      "With --migrate, wait no longer than this for the old maps to be quiet"
    ),
    toRelease: Flags.maybe(Flag.Literals("to-release", ["1.17", "1.20"])).pipe(
      Flag.withDescription(
        "With --migrate, rewrite entries of the other Cilium release for this one (default: copy them as they are)"
      )
    ),
    yes: Flags.yes("yes", "Do not ask").pipe(Flag.withAlias("y")),
    dryRun: Flags.yes("dry-run", "Only print what would be done"),
    endpoint: Flags.endpoint,
    ...Flags.ctSizes,
    ...Flags.clock
  },
  (options) =>
    lazily(
      () => import("./commands/upgrade.ts"),
      ({ upgrade: run }, at) => run(at, { ...options, nat: NAT_DEFAULT })
    )
).pipe(
  Command.withDescription(
    "Replaces pinned CT maps that differ from the wanted ones: unpins them as Cilium does, or migrates their entries."
  ),
  Command.withExamples([
    { command: "ctmap upgrade --dry-run", description: "What differs from Cilium's defaults" },
    {
      command: "ctmap upgrade --migrate --bpf-ct-global-tcp-max 1048576",
      description: "Double the TCP tables and keep their entries"
    },
    {
      command: "ctmap upgrade --migrate --yes --settle 1m --give-up-after 1h",
      description: "From a script that reloads the programs within the hour"
    }
  ])
)

const features = Command.make("features", { output: Flags.reportFormat }, ({ output }) =>
  lazily(
    () => import("./commands/features.ts"),
    ({ features: run }, at) => run(at, output)
  )
).pipe(
  Command.withDescription("Tries what this kernel can do for ctmap, as far as this process may."),
  Command.withExamples([{ command: "ctmap features", description: "Feature, answer, first kernel, use" }])
)

/** @since 0.1.0 */
export const cli = root.pipe(
  Command.withSubcommands([
    list,
    get,
    count,
    maps,
    stats,
    top,
    watch,
    status,
    gc,
    purge,
    flush,
    nat,
    cluster,
    snapshot,
    macros,
    upgrade,
    features
  ])
)
