/** The agent as a process on real maps: started as anybody, listened to as systemd does, and stopped in every way. */
import { type ChildProcess, spawn } from "node:child_process"
import { chmodSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert } from "@effect/vitest"
import { MapName } from "ctmap-core"
import { Bpf, LibBpf, Pins, Snapshot } from "ctmap-kernel"
import { DatagramSocket } from "ctmap-testing"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { onTestFinished } from "vitest"

const program = fileURLToPath(new URL("../src/bin.ts", import.meta.url))
/** A machine that does much else takes long: less than a test may take, so that it can be said what was waited for. */
const WAIT_MILLIS = 200_000

/** An ordinary user. */
const NOBODY = "65534"

export interface Launch {
  readonly root: string
  readonly args?: ReadonlyArray<string>
  /** All the capabilities that the process has, as an ordinary user; left out: it is root. */
  readonly capabilities?: ReadonlyArray<string>
  /** A command that runs the one that follows it. */
  readonly inside?: ReadonlyArray<string>
}

/** A running agent. */
export interface Running {
  readonly child: ChildProcess
  /** Everything it has written. */
  readonly log: () => string
  /** Everything that it has told systemd. */
  readonly told: () => string
  /** Waits until something is so; fails, with what the agent said, where that takes too long. */
  readonly until: (what: string, isSo: () => boolean) => Promise<void>
  /** How it ended: its code, or the signal. */
  readonly ended: Promise<number | string | null>
  /** Sends a signal, and waits for the end: how it was. */
  readonly stop: (signal: NodeJS.Signals) => Promise<number | string | null>
}

let number = 0

/** Starts an agent; it is killed with the test at the latest. */
export const launch = ({ args = [], capabilities, inside = [], root }: Launch): Running => {
  const socket = `@ctmap-test-${process.pid}-${number++}`
  const systemd = DatagramSocket.bind(socket)
  // As RuntimeDirectory= would: of the agent, whoever that is.
  const run = mkdtempSync(join(tmpdir(), "ctmap-run-"))
  chmodSync(run, 0o777)
  const command = [process.execPath, "--conditions=ctmap-source", program, ...places(root, run), ...args]
  const user = capabilities === undefined ? [] : ["setpriv", ...asUser(capabilities)]
  const [file = "", ...rest] = [...inside, ...user, ...command]
  const env = {
    PATH: process.env["PATH"],
    NOTIFY_SOCKET: socket,
    CTMAP_CONFIG: "/dev/null",
    CTMAP_LOG_FORMAT: "logfmt"
  }
  const child = spawn(file, rest, { env, stdio: ["ignore", "pipe", "pipe"] })
  let log = ""
  let told = ""
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data: Buffer) => void (log += data.toString()))
  const ended = new Promise<number | string | null>((resolve) =>
    child.once("close", (code, signal) => resolve(code ?? signal))
  )
  onTestFinished(async () => {
    child.kill("SIGKILL")
    await ended
    systemd.close()
    rmSync(run, { recursive: true, force: true })
  })
  const hear = (): string => {
    for (const bytes of systemd.read()) told += `${new TextDecoder().decode(bytes)}\n`
    return told
  }
  return {
    child,
    ended,
    log: () => log,
    told: hear,
    until: (what, isSo) => {
      const deadline = performance.now() + WAIT_MILLIS
      const look = async (): Promise<void> => {
        // Few messages have room where nobody takes them: those that come later are lost.
        hear()
        if (isSo()) return
        if (performance.now() > deadline || child.exitCode !== null) assert.fail(`not ${what}:\n${log}\n${told}`)
        await new Promise((resolve) => setTimeout(resolve, 10))
        return look()
      }
      return look()
    },
    stop: (signal) => {
      hear()
      child.kill(signal)
      return ended
    }
  }
}

const places = (root: string, run: string): ReadonlyArray<string> => [
  "--bpffs-root",
  root,
  "--api-socket",
  join(run, "agent.sock")
]

/** What setpriv(1) is told, to make an ordinary user of a process who can do this and nothing else. */
export const asUser = (capabilities: ReadonlyArray<string>): ReadonlyArray<string> => {
  const set = ["-all", ...capabilities.map((name) => `+${name}`)].join(",")
  const user = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"]
  return [...user, "--inh-caps", set, "--ambient-caps", set, "--bounding-set", set]
}

/** The kernel, for what tests do in this process. */
export const kernel: Bpf.Calls = Context.get(Effect.runSync(Effect.scoped(Layer.build(LibBpf.layer))), Bpf.Bpf)

const hex = (bytes: number, byte = "00"): string => byte.repeat(bytes)
const NEVER = 0xffff_ffff

/** An IPv4 TCP connection of a pod, as keys and as lines of a snapshot, with both halves of its NAT mapping. */
export interface Connection {
  readonly ct: string
  readonly nat: readonly [egress: string, ingress: string]
  readonly lines: ReadonlyArray<string>
}

/** Connections number `from` and on that end at a time in seconds of the clock; 0 is long ago. */
export const connections = (count: number, endsAt: number, from = 0): ReadonlyArray<Connection> =>
  Array.from({ length: count }, (_, i) => {
    const peer = (0x0b00_0000 + from + i).toString(16).padStart(8, "0")
    const [ct, out, back] = [
      `0a000001${peer}005003e80600`,
      `${peer}0a000001005003e80600`,
      `c0a80001${peer}9c4000500601`
    ]
    const nat = (key: string, address: string, port: string) =>
      `cilium_snat_v4_external\t${key}\t${hex(1, "01")}${hex(31)}${address}${port}${hex(2)}`
    return {
      ct,
      nat: [out, back],
      lines: [
        `cilium_ct4_global\t${ct}\t${hex(32)}${u32(endsAt)}${hex(20)}`,
        nat(out, "c0a80001", "9c40"),
        nat(back, "0a000001", "03e8")
      ]
    }
  })

const u32 = (value: number): string => Buffer.from(Uint32Array.of(value).buffer).toString("hex")

/** The datapath's clock, in seconds. */
export const clock = (): number => Number(kernel.monotonic() / 1_000_000_000n)

/** Pins tables of the node that hold these connections, and one entry of the other transport that never ends. */
export const fill = (root: string, held: ReadonlyArray<Connection>): Promise<void> => {
  const any = `cilium_ct_any4_global\t${hex(12, "ff")}1100\t${hex(32)}${u32(NEVER)}${hex(20)}`
  const lines = [...held.flatMap((connection) => connection.lines), any]
  const size = 2 ** Math.ceil(Math.log2(4 * held.length + 4096))
  return restore(root, new TextEncoder().encode(lines.map((line) => `${line}\n`).join("")), size)
}

/** How many of these connections are in the table: less work than to {@link look} at all of it. */
export const countThere = (root: string, among: ReadonlyArray<Connection>): number => {
  const fd = kernel.openPin(MapName.pinPath(root, "cilium_ct4_global"))
  const value = new Uint8Array(56)
  const there = among.filter(({ ct }) => kernel.lookup(fd, Buffer.from(ct, "hex"), value) === 0)
  kernel.close(fd)
  return there.length
}

/** Which of these connections are in the table, and which of those that are not have a half of a mapping left. */
export const look = (root: string, among: ReadonlyArray<Connection>) => {
  const [ct, nat] = [keysBelow(root, "cilium_ct4_global"), keysBelow(root, "cilium_snat_v4_external")]
  const there = among.filter((connection) => ct.has(connection.ct))
  const whole = there.filter((connection) => connection.nat.every((key) => nat.has(key)))
  const left = among.filter((connection) => !ct.has(connection.ct) && connection.nat.some((key) => nat.has(key)))
  return { there: there.length, whole: whole.length, left: left.length }
}

/** Pins tables with these entries below a root: lines of `map<TAB>key<TAB>value`, times moved by `shift`. */
export const restore = async (root: string, text: Uint8Array, size: number, shift = 0): Promise<void> => {
  const limits = { ctTcp: size, ctAny: size, nat: size }
  await Effect.runPromise(
    Snapshot.restore(Stream.make(text), { limits, shift }).pipe(
      Effect.provideService(Bpf.Bpf, kernel),
      Effect.provideService(Pins.BpfFsRoot, root)
    )
  )
}

/** Keys of a pinned map, as text; nothing where it is not pinned. */
export const keysBelow = (root: string, name: string): ReadonlySet<string> => {
  const keys = new Set<string>()
  const fd = kernel.openPin(MapName.pinPath(root, name))
  if (fd < 0) return keys
  const info = kernel.mapInfo(fd)
  if (typeof info === "number") throw new Error(`map info: ${info}`)
  let at: Uint8Array | null = null
  for (;;) {
    const next = new Uint8Array(info.keySize)
    if (kernel.nextKey(fd, at, next) < 0) break
    keys.add(Buffer.from(next).toString("hex"))
    at = next
  }
  kernel.close(fd)
  return keys
}
