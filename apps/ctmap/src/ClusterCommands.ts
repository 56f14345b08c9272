/**
 * The commands about maps of remote clusters: names, flags, help.
 *
 * @since 0.1.0
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Flags from "./Flags.ts"
import { lazily } from "./Root.ts"

const size = (name: string, holds: string): Flag.Flag<number | undefined> =>
  Flags.number(name, "N", `Entries of ${holds} (default: as many as the global map has)`, 16_777_216)

/** What new maps are like, and what others are compared with. */
const settings = {
  family: Flags.maybe(Flag.Literals("family", ["ipv4", "ipv6", "all"])).pipe(
    Flag.withDescription("Address families (default: those that have outer maps, else those that have global maps)")
  ),
  max: Flags.maybe(Flag.Literals("max-connected-clusters", ["255", "511"])).pipe(
    Flag.withDescription(
      "The highest cluster id, where there is no outer map to tell it (default 255; 511 where a map of a higher one is pinned)"
    )
  ),
  ctTcp: size("bpf-ct-global-tcp-max", "a TCP CT map"),
  ctAny: size("bpf-ct-global-any-max", "another CT map"),
  natSize: size("bpf-nat-global-max", "a NAT map")
}

const nat = Flag.Boolean("nat").pipe(
  Flag.withDefault(true),
  Flag.withDescription("NAT maps as well; --no-nat leaves them alone (default yes)")
)

const someIds = Argument.Int("id").pipe(Argument.withDescription("Ids of clusters"))

const ids = Argument.atLeast(someIds, 1)

const discardEntries = (what: string) =>
  Flags.yes("discard-entries", `${what} with the entries they hold; without it, all maps of such a cluster stay`)

const list = Command.make("list", { ...settings, output: Flags.reportFormat }, (options) =>
  lazily(
    () => import("./commands/cluster.ts"),
    ({ list: run }, at) => run(at, options)
  )
).pipe(
  Command.withAlias("ls"),
  Command.withDescription(
    "Lists the remote clusters that have maps, by their pins: which maps, and what is wrong with them."
  ),
  Command.withShortDescription("Lists the remote clusters that have maps."),
  Command.withExamples([{ command: "ctmap cluster list", description: "Every cluster that has a pin" }])
)

const create = Command.make("create", { ids, nat, ...settings }, (options) =>
  lazily(
    () => import("./commands/cluster.ts"),
    ({ create: run }, at) => run(at, options)
  )
).pipe(
  Command.withDescription(
    "Makes the maps of clusters that are missing and enters them into the outer maps, which are made too. Maps that are there stay as they are."
  ),
  Command.withShortDescription("Makes the maps of clusters, and enters them into the outer maps."),
  Command.withExamples([
    { command: "ctmap cluster create 7", description: "CT and NAT maps, as large as the global ones" },
    { command: "ctmap cluster create 1 2 3 --no-nat", description: "Only CT maps, of three clusters" }
  ])
)

const removal = {
  ids: Argument.atLeast(someIds, 0),
  above: Flags.number("above", "ID", "Clusters with a higher id, instead of ids: for a range that has shrunk", 511),
  discardEntries: discardEntries("With --above: delete maps"),
  nat,
  family: settings.family,
  yes: Flags.assent
}

const remove = Command.make("delete", removal, (options) =>
  lazily(
    () => import("./commands/cluster.ts"),
    ({ remove: run }, at) => run(at, options)
  )
).pipe(
  Command.withDescription(
    "Deletes the maps of clusters: what connects to them is cut. Asks.\n\n" +
      "  Clusters that are named go with their entries. With --above, those whose maps hold entries stay, and the exit code is not 0 then."
  ),
  Command.withShortDescription("Deletes the maps of clusters."),
  Command.withExamples([
    { command: "ctmap cluster delete 7 --yes", description: "Without being asked" },
    {
      command: "ctmap cluster delete --above 255",
      description: "What the range of 511 clusters left, where it is empty"
    },
    {
      command: "ctmap cluster delete --above 255 --discard-entries",
      description: "All of that; says how many entries are lost, and asks"
    }
  ])
)

const cleanup = Command.make("cleanup", { nat, family: settings.family, yes: Flags.assent }, (options) =>
  lazily(
    () => import("./commands/cluster.ts"),
    ({ cleanup: run }, at) => run(at, options)
  )
).pipe(
  Command.withDescription("Deletes all per-cluster maps, the outer ones as well, for when the feature is off. Asks."),
  Command.withExamples([
    { command: "ctmap cluster cleanup --family ipv6", description: "Those of IPv6" },
    { command: "ctmap cluster cleanup --yes", description: "All, without being asked" }
  ])
)

const check = Command.make(
  "check",
  {
    repair: Flags.yes(
      "repair",
      "Do what the last column says; asks. No entry of a map that is pinned is lost, unless --discard-entries is given"
    ),
    discardEntries: discardEntries("Unpin maps above the range of cluster ids"),
    yes: Flags.assent,
    ...settings,
    output: Flags.reportFormat
  },
  (options) =>
    lazily(
      () => import("./commands/clusterCheck.ts"),
      ({ check: run }, at) => run(at, options)
    )
).pipe(
  Command.withDescription(
    "Compares pins and slots: maps that the datapath does not use, slots whose map nobody can reach, missing maps, wrong sizes, maps above the range of cluster ids.\n\n" +
      "  Maps that `ctmap snapshot restore` has made are entered by --repair. Exit code 1 where something is wrong and stays so."
  ),
  Command.withShortDescription("Says what is wrong with the maps of clusters, and repairs it."),
  Command.withExamples([
    { command: "ctmap cluster check", description: "What is wrong, and what could be done" },
    { command: "ctmap cluster check --repair --yes", description: "Done, without being asked" },
    {
      command: "ctmap cluster check --repair --discard-entries",
      description: "Ids above the range as well, with their entries; asks, and says how many"
    }
  ])
)

/** @since 0.1.0 */
export const cluster = Command.make("cluster").pipe(
  Command.withDescription("Works on the maps of remote clusters (ClusterMesh); other commands take --cluster ID."),
  Command.withShortDescription("Works on the maps of remote clusters (ClusterMesh)."),
  Command.withSubcommands([list, create, remove, cleanup, check])
)
