/**
 * The command line of the agent: its flags are the settings of its cells.
 *
 * @since 0.1.0
 */
import { Inspect, Settings } from "ctmap-cell"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { hive } from "./Agent.ts"
import type { Configuration } from "./Configuration.ts"
import * as ConfigFile from "./ConfigFile.ts"
import { print, type WriteError } from "./Output.ts"
import { run } from "./Run.ts"

/** The command line asks for something that makes no sense. @since 0.1.0 */
class UsageError extends Schema.TaggedError<UsageError>()("UsageError", { problem: Schema.String }) {
  override get message(): string {
    return this.problem
  }
}

/** Absent is an empty list, which says nothing. */
const flagOf = ({ description, fallback, name, shape }: Settings.Definition): Flag.Flag<ReadonlyArray<string>> => {
  const told = `${description ?? ""}${fallback === undefined || fallback === "unset" ? "" : ` (default ${fallback})`}`
  if (shape === "list") return Flag.String(name).pipe(Flag.withDescription(told), Flag.atLeast(0))
  const one: Flag.Flag<string> = shape === "boolean" ? Flag.map(Flag.Boolean(name), String) : Flag.String(name)
  return Flag.optional(one.pipe(Flag.withDescription(told))).pipe(Flag.map(Option.toArray))
}

const flags = Object.fromEntries(
  Settings.definitions(hive).map((definition) => [definition.name, flagOf(definition)] as const)
)

const shared = {
  settings: flags,
  config: Flag.optional(
    Flag.String("config").pipe(
      Flag.withMetavar("FILE"),
      Flag.withDescription(`A YAML or JSON file with settings (else CTMAP_CONFIG, else ${ConfigFile.DEFAULT_FILE})`)
    )
  )
}

interface Given {
  readonly settings: Readonly<Record<string, ReadonlyArray<string>>>
  readonly config: Option.Option<string>
}

/** Where the settings of a command line come from. */
const configurationOf = ({ config, settings }: Given): Configuration["Service"] =>
  ConfigFile.make({
    flags: Object.fromEntries(Object.entries(settings).flatMap(given)),
    env: process.env,
    file: Option.getOrUndefined(config)
  })

const given = ([name, texts]: readonly [string, ReadonlyArray<string>]) =>
  texts.length === 0 ? [] : [[name, lists.has(name) ? texts : texts[0]!] as const]

const lists = new Set(Settings.definitions(hive).flatMap(({ name, shape }) => (shape === "list" ? [name] : [])))

const root = Command.make("ctmap-agent").pipe(
  Command.withSharedFlags(shared),
  Command.withDescription(
    "Collects the conntrack and NAT tables that Cilium's datapath writes, until it is told to stop.\n\n" +
      "  Every setting is a flag, a variable (CTMAP_…) and a key of the file; `ctmap-agent config` tells where each came " +
      "from.\n  SIGHUP reads them again. Exit code: 0 stopped, 1 failed, 2 wrong usage or settings."
  ),
  Command.withShortDescription("Collects conntrack and NAT tables until it is told to stop."),
  Command.withExamples([
    { command: "ctmap-agent", description: "With the defaults" },
    {
      command: "ctmap-agent --conntrack-gc-max-interval 30m --signals",
      description: "In the place of Cilium's collector"
    },
    { command: "ctmap-agent config --config agent.yaml", description: "What would be in force, and why" },
    { command: "ctmap-agent hive --mermaid", description: "What it is made of, as a picture" }
  ])
)

const hiveCommand = Command.make(
  "hive",
  {
    dot: Flag.Boolean("dot").pipe(Flag.withDefault(false), Flag.withDescription("For Graphviz")),
    mermaid: Flag.Boolean("mermaid").pipe(Flag.withDefault(false), Flag.withDescription("For Markdown"))
  },
  ({ dot, mermaid }): Effect.Effect<void, UsageError | WriteError> =>
    dot && mermaid
      ? Effect.fail(new UsageError({ problem: "--dot and --mermaid are two pictures: give one of them" }))
      : print(dot ? Inspect.dot(hive) : mermaid ? Inspect.mermaid(hive) : Inspect.text(hive))
).pipe(Command.withDescription("Prints the cells of the agent, with what they provide, need, and can be told."))

const configCommand = Command.make(
  "config",
  {
    output: Flag.Literals("output", ["text", "json"]).pipe(
      Flag.withAlias("o"),
      Flag.withDefault("text"),
      Flag.withDescription("How to print them (default text)")
    )
  },
  ({ output }) =>
    Effect.gen(function* () {
      const { effective } = yield* configurationOf(yield* root).load
      yield* print(output === "json" ? JSON.stringify(effective, undefined, 2) : Settings.render(effective))
    })
).pipe(Command.withDescription("Prints the settings that would be in force, and where each value came from."))

/** The commands. @since 0.1.0 */
export const cli = (version: string) =>
  root.pipe(
    Command.withHandler((options) => run(configurationOf(options), version)),
    Command.withSubcommands([hiveCommand, configCommand])
  )
