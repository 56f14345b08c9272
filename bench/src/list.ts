/**
 * What it costs to print a whole CT map as text into a file, beside Go's way of Cilium and bpftool; the yardstick is C's
 * bare read of the same map, which prints nothing. Run as root by
 * `node --conditions=ctmap-source src/list.ts [--sizes 65536,524288] [--rounds 7] [--to FOLDER]`.
 *
 * ctmap's ways run in a process that is warm, without its start; its command line, Go and bpftool are whole processes.
 */
import { createHash } from "node:crypto"
import { closeSync, existsSync, openSync, readSync, rmSync, statfsSync, statSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { hrtime } from "node:process"
import { fileURLToPath } from "node:url"
import { CtColumns, MapLimits } from "ctmap-core"
import * as CtLineWriter from "ctmap-core/CtLineWriter"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import type * as CtPair from "ctmap-kernel/CtPair"
import * as Dump from "ctmap-kernel/Dump"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as Owner from "ctmap-kernel/Owner"
import * as RowScan from "ctmap-kernel/RowScan"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as KernelTable from "./common/kernelTable.ts"
import { machine } from "./common/measure.ts"
import { guard, options, type Options, roundsFor } from "./common/options.ts"
import * as Peers from "./common/peers.ts"
import * as Rounds from "./common/rounds.ts"
import * as Worker from "./common/worker.ts"

/** Above this, bpftool takes longer than anybody waits. */
const BPFTOOL_UP_TO = 524_288
/** The size for which there are targets, and the one whose memory must not be more. */
const TARGET_SIZE = 524_288
const LARGE_SIZE = 4_194_304
/** What is written at a time. */
const BUFFER = 256 * 1024

const BASE = "C, bare scan"
const OURS = "ctmap, iterator"
const COMMAND = "ctmap list, whole process"
const GO = "Go, whole process"
const BPFTOOL = "bpftool, whole process"

/** What must write the same text. */
const SAME_TEXT: ReadonlySet<string> = new Set([OURS, COMMAND, GO, "ctmap, batches", "ctmap, Dump.text"])

type Write = (bytes: Uint8Array, length: number) => void

/** The loop that reads rows, makes lines and hands on full buffers. */
const lines = (map: BpfMap.BpfMap, method: RowScan.Method, write: Write) =>
  Effect.suspend(() => {
    const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
    const writer = new CtLineWriter.CtLineWriter(columns)
    const buffer = new Uint8Array(BUFFER)
    let used = 0
    const put = (): void => {
      for (let row = 0; row < columns.count;) {
        row = writer.fill(buffer, { from: row, at: used })
        used = writer.end
        if (row === columns.count) return
        write(buffer, used)
        used = 0
      }
    }
    const scan = RowScan.forEach(
      map,
      (rows) =>
        Effect.sync(() => {
          columns.bind(rows)
          put()
        }),
      { method }
    )
    return Effect.map(scan, () => write(buffer, used))
  })

/** As the library hands it out, a copied chunk at a time. */
const dumped = (map: BpfMap.BpfMap, write: Write) => {
  const layout = { _tag: "Assumed", release: "1.17" } as const
  const opened: CtPair.CtMap = { _tag: "CtMap", family: "ipv4", transport: "tcp", owner: Owner.global, layout, map }
  return Stream.runForEach(Dump.text(opened), (chunk) => Effect.sync(() => write(chunk, chunk.byteLength)))
}

const writers: Readonly<
  Record<string, (map: BpfMap.BpfMap, write: Write) => Effect.Effect<unknown, unknown, Bpf.Bpf>>
> = {
  [OURS]: (map, write) => lines(map, "iterator", write),
  "ctmap, batches": (map, write) => lines(map, "batch", write),
  "ctmap, iterator, text dropped": (map) => lines(map, "iterator", () => {}),
  "ctmap, Dump.text": (map, write) => dumped(map, write)
}

/** The process of one writer. */
const worker = (name: string, pin: string, file: string) =>
  Effect.gen(function* () {
    const calls = Worker.noCalls()
    const bpf = Worker.timed(yield* Bpf.Bpf, calls)
    const map = yield* BpfMap.open(pin)
    const entries = yield* Scan.count(map)
    const list = writers[name]
    if (list === undefined) return yield* Effect.die(new Error(`there is no writer ${name}`))
    const work = Effect.scoped(
      Effect.flatMap(
        Effect.acquireRelease(
          Effect.sync(() => {
            // What it costs to give up the last file's pages is nobody's time here.
            rmSync(file, { force: true })
            return openSync(file, "w", 0o600)
          }),
          (fd) => Effect.sync(() => closeSync(fd))
        ),
        (fd) =>
          Effect.suspend(() => {
            const begin = hrtime.bigint()
            const listing = list(map, (bytes, length) => void writeSync(fd, bytes, 0, length))
            return Effect.map(listing, () => ({ entries, nanoseconds: Number(hrtime.bigint() - begin) }))
          })
      )
    )
    yield* Worker.serve(Effect.provideService(work, Bpf.Bpf, bpf), calls)
  })

/** The command line, where it has been built. */
const commandLine = (): string | undefined => {
  const file = fileURLToPath(new URL("../../apps/ctmap/dist/ctmap.js", import.meta.url))
  return existsSync(file) ? file : undefined
}

interface Text {
  readonly bytes: number
  readonly digest: string | undefined
}

/** The command line ends a table with an empty line, as Cilium does: that is left out. */
const textOf = (name: string, path: string): Text => {
  const bytes = statSync(path).size - (name === COMMAND ? 1 : 0)
  if (!SAME_TEXT.has(name)) return { bytes, digest: undefined }
  const hash = createHash("sha1")
  const chunk = new Uint8Array(1 << 20)
  const fd = openSync(path, "r")
  for (let left = bytes; left > 0;) {
    const read = readSync(fd, chunk, 0, Math.min(left, chunk.byteLength), null)
    if (read === 0) break
    hash.update(chunk.subarray(0, read))
    left -= read
  }
  closeSync(fd)
  return { bytes, digest: hash.digest("hex") }
}

const subjects = (size: number, pin: string, root: string, folder: string, peers: Peers.Peers) =>
  Effect.gen(function* () {
    const { c, go, bpftool, peak } = peers
    const all: Array<Rounds.Subject> = []
    const texts = new Map<string, Text>()
    const file = (name: string): string => join(folder, name.replaceAll(/\W+/g, "-"))
    /** Notes what was written at first, and removes it. */
    const taking = (name: string, run: Rounds.Subject["run"], rounds?: number): void => {
      all.push({
        name,
        ...(rounds === undefined ? {} : { rounds }),
        run: async () => {
          const sample = await run()
          if (!texts.has(name)) texts.set(name, textOf(name, file(name)))
          rmSync(file(name), { force: true })
          return sample
        }
      })
    }
    const whole = (name: string, command: ReadonlyArray<string>, rounds?: number): void => {
      if (peak === undefined) return
      taking(name, () => Peers.wholeProcess(peak, command, { output: file(name), entries: size }), rounds)
    }
    if (c !== undefined) all.push({ name: BASE, run: () => Peers.ownTime([...c, pin, "batch", "4096"]) })
    for (const name of Object.keys(writers)) {
      const args = ["--worker", name, "--pin", pin, "--to", file(name)]
      taking(name, (yield* Worker.start(fileURLToPath(import.meta.url), args)).run)
    }
    const cli = commandLine()
    if (cli !== undefined) whole(COMMAND, [process.execPath, cli, "--bpffs-root", root, "list", "-o", "text"])
    if (go !== undefined) whole(GO, [...go, pin, "list", `${MapLimits.startingBatchSize(2 * size)}`])
    if (bpftool !== undefined && size <= BPFTOOL_UP_TO) {
      whole(BPFTOOL, [...bpftool, "map", "dump", "pinned", pin], 2)
      whole(`${BPFTOOL}, -j`, [...bpftool, "-j", "map", "dump", "pinned", pin], 2)
    }
    return { all, texts }
  })

const report = (size: number, results: ReadonlyArray<Rounds.Result>, texts: ReadonlyMap<string, Text>): void => {
  const base = Rounds.find(results, BASE) ?? results[0]!
  console.log(`\n${Rounds.table(`list of ${size} entries`, results, base)}\n`)
  const ours = texts.get(OURS)
  console.log(`${Rounds.megabytes(ours?.bytes)} MB of text`)
  for (const [name, { digest }] of texts) {
    if (digest !== undefined && digest !== ours?.digest) console.log(`${name}: NOT the same text`)
  }
  if (size !== TARGET_SIZE) return
  for (const name of [OURS, COMMAND]) {
    const result = Rounds.find(results, name)
    const go = Rounds.find(results, GO)
    const bpftool = Rounds.find(results, BPFTOOL)
    if (result === undefined) continue
    if (base.name === BASE) {
      console.log(Rounds.target(`${name}: × C's bare scan`, { atMost: 1.4 }, Rounds.ratio(result, base)))
    }
    if (go !== undefined)
      console.log(Rounds.target(`${name}: times faster than Go`, { atLeast: 7 }, Rounds.ratio(go, result)))
    if (bpftool === undefined) continue
    console.log(Rounds.target(`${name}: times faster than bpftool`, { atLeast: 20 }, Rounds.ratio(bpftool, result)))
  }
}

/** Peak memory of the command line, or of the in-process way where there is none. */
const reportMemory = (peaks: ReadonlyMap<number, number>): void => {
  for (const [size, bytes] of peaks) {
    console.log(Rounds.target(`peak memory at ${size} entries, MB`, { atMost: 150 }, bytes / 1e6))
  }
  const [middle, large] = [peaks.get(TARGET_SIZE), peaks.get(LARGE_SIZE)]
  if (middle === undefined || large === undefined) return
  console.log(
    Rounds.target(`peak memory, ${LARGE_SIZE} against ${TARGET_SIZE} entries`, { atMost: 1.1 }, large / middle)
  )
}

const TMPFS = 0x0102_1994

const bench = ({ sizes, rounds, to = tmpdir() }: Options) =>
  Effect.gen(function* () {
    const peers = Peers.prepare()
    const root = yield* KernelTable.bpfFs
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => Peers.temporaryFolder(to)),
      (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
    )
    const where = statfsSync(folder).type === TMPFS ? "memory (tmpfs)" : "a disk"
    console.log(`${machine()}; files on ${where}; ${Rounds.load()}`)
    if (commandLine() === undefined) console.log("left out: the command line, which has not been built (npm run build)")
    const peaks = new Map<number, number>()
    for (const size of sizes) {
      const measured = Effect.gen(function* () {
        const pin = yield* KernelTable.make(`${root}/${size}`, size)
        const { all, texts } = yield* subjects(size, pin, `${root}/${size}`, folder, peers)
        const plan = { rounds: roundsFor(rounds, size), entries: size }
        const results = yield* Rounds.interleave(all, plan)
        report(size, results, texts)
        const ours = Rounds.find(results, COMMAND) ?? Rounds.find(results, OURS)
        const bytes = ours === undefined ? undefined : Rounds.peak(ours)
        if (bytes !== undefined) peaks.set(size, bytes)
      })
      yield* Effect.scoped(measured)
    }
    console.log()
    reportMemory(peaks)
    console.log(`\n${Rounds.load()}`)
  })

const given = options()
if (given.worker === undefined) guard()
await Effect.runPromise(
  Effect.scoped(given.worker === undefined ? bench(given) : worker(given.worker, given.pin, given.to ?? "")).pipe(
    Effect.provide(Layer.provideMerge(MapIterator.layer, LibBpf.layer))
  )
)
