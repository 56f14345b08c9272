/**
 * How many live entries each way of deleting loses, in a test built to hit the window. Run as root, with two CPUs and
 * clang-19, by `node --conditions=ctmap-source src/race.ts [rounds]`.
 *
 * 256 expired entries. One CPU deletes them as a collector does: all are read, all have expired, all are deleted. At
 * the same moment, up to a few microseconds apart, a program on another CPU refreshes all of them in random order, as
 * a datapath does: it looks an entry up, and writes its lifetime in place. Lost is what was refreshed and is gone.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { MapSpec } from "ctmap-core"
import { Bpf, CompareAndDelete, LibBpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"

const ENTRIES = 256
const SIZES = { keySize: 14, valueSize: 56 }
const EXPIRED = 100
const FRESH = 5000
/** Of the refresher's list: 40 bytes for a key, the lifetime to write, and whether the entry was there. */
const SLOT = 48
const CAPACITY = 1024
/** Words that both processes watch. */
const ROUND = 0
const DONE = 1
const DELAY = 2
const READY = 3

const REFRESH = `
typedef unsigned int u32;
#define SEC(name) __attribute__((section(name), used))
static void *(*const lookup)(void *, const void *) = (void *)1;
static long (*const for_each)(void *, void *, void *, unsigned long long) = (void *)164;
struct slot { unsigned long long key[5]; u32 fresh; u32 hit; };
struct { int (*type)[9]; int (*key_size)[14]; int (*value_size)[56]; int (*max_entries)[1]; } table SEC(".maps");
struct {
	int (*type)[2]; int (*map_flags)[1024]; int (*key_size)[4]; int (*value_size)[48]; int (*max_entries)[1024];
} list SEC(".maps");
static long visit(void *map, const u32 *index, struct slot *slot, u32 *count)
{
	if (*index >= *count)
		return 1;
	volatile u32 *value = lookup(&table, slot->key);
	slot->hit = value != 0;
	if (value)
		value[8] = slot->fresh;
	return 0;
}
SEC("syscall") int refresh(u32 *given)
{
	u32 count = *given;
	for_each(&list, visit, &count, 0);
	return 0;
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
`

const words = (kernel: Bpf.Calls, fd: number, bytes: number): Int32Array => {
  const memory = kernel.mapMemory(fd, bytes)
  if (typeof memory === "number") throw new Error(`mmap: ${memory}`)
  return new Int32Array(memory.buffer, memory.byteOffset, bytes / 4)
}

const pinTo = (cpu: number, pid: number | undefined): void => void spawnSync("taskset", ["-apc", `${cpu}`, `${pid}`])

/** The other process: refreshes whenever the round changes, until it is negative. Its maps are fds 3, 4 and 5. */
const datapath = (kernel: Bpf.Calls, file: string): void => {
  const [table, list, shared] = [3, 4, 5]
  const reuse = { table, list }
  const loaded = kernel.loadObject({ name: "refresh", elf: readFileSync(file), programs: ["refresh"], reuse })
  if ("errno" in loaded) throw new Error(loaded.log)
  const watched = words(kernel, shared, 4096)
  const context = new Uint8Array(Uint32Array.of(ENTRIES).buffer)
  Atomics.store(watched, READY, 1)
  for (let round = 0; ;) {
    while (Atomics.load(watched, ROUND) === round);
    round = Atomics.load(watched, ROUND)
    if (round < 0) break
    for (let spin = Atomics.load(watched, DELAY); spin > 0; spin--) Atomics.load(watched, ROUND)
    kernel.runProgram(loaded.programs["refresh"] ?? -1, context)
    Atomics.store(watched, DONE, round)
  }
  loaded.close()
}

interface Way {
  readonly name: string
  /** Spins of the refresher before it starts, at most: about as long as the deleting takes. */
  readonly spread: number
  /** Deletes the candidates that were read; calls `go` when it starts. How many went. */
  readonly run: (read: CompareAndDelete.Candidates, count: number, go: () => void) => number
}

const engine = (name: string, cad: CompareAndDelete.CompareAndDelete, spread: number): Way => ({
  name,
  spread,
  run: (read, count, go) => {
    go()
    return cad.run(read, "lifetime", 0, count)
  }
})

const collector = (rounds: number, compile: (file: string) => void) =>
  Effect.gen(function* () {
    const kernel = yield* Bpf.Bpf
    const map = (spec: MapSpec.Properties, name: string) =>
      Effect.acquireRelease(
        Effect.sync(() => kernel.mapCreate(spec, name)),
        (fd) => Effect.sync(() => kernel.close(fd))
      )
    const mmapable = { type: MapSpec.mapType.array, keySize: 4, flags: 1024 }
    const table = yield* map({ type: MapSpec.mapType.lruHash, ...SIZES, maxEntries: 4096, flags: 0 }, "race_ct")
    const list = yield* map({ ...mmapable, valueSize: SLOT, maxEntries: CAPACITY }, "race_list")
    const shared = yield* map({ ...mmapable, valueSize: 4096, maxEntries: 1 }, "race_shared")
    const watched = words(kernel, shared, 4096)
    const slots = words(kernel, list, SLOT * CAPACITY)
    const slotBytes = new Uint8Array(slots.buffer)

    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "ctmap-race-"))),
      (path) => Effect.sync(() => rmSync(path, { recursive: true }))
    )
    const object = join(folder, "refresh.bpf.o")
    compile(object)
    yield* Effect.acquireRelease(
      Effect.sync((): ChildProcess => {
        const args = [...process.execArgv, fileURLToPath(import.meta.url), "--datapath", object]
        const child = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit", table, list, shared] })
        pinTo(1, child.pid)
        return child
      }),
      (child) =>
        Effect.promise(async () => {
          Atomics.store(watched, ROUND, -1)
          if (child.exitCode === null) await new Promise((resolve) => child.once("exit", resolve))
        })
    )
    pinTo(0, process.pid)
    while (Atomics.load(watched, READY) === 0) yield* Effect.sleep(10)

    const target = { fd: table, ...SIZES, name: "race_ct" }
    const blind = { ...kernel, loadObject: without("compare_delete_restore", kernel) }
    const restoring = yield* CompareAndDelete.make(target, { engine: "program" })
    const plain = yield* CompareAndDelete.make(target, { engine: "program" }).pipe(
      Effect.provideService(Bpf.Bpf, blind)
    )
    const portable = yield* CompareAndDelete.make(target, { engine: "portable" })
    const ways: ReadonlyArray<Way> = [
      {
        name: "BPF_MAP_DELETE_BATCH",
        spread: 4000,
        run: ({ keys }, count, go) => {
          const deleted = Uint32Array.of(count)
          go()
          kernel.deleteBatch(table, keys, deleted)
          return deleted[0] ?? 0
        }
      },
      engine("portable: look up, delete", portable, 20_000),
      engine("program, CAP_BPF only", plain, 3000),
      engine(`program${restoring.restores ? ", puts back" : ""}`, restoring, 3000)
    ]

    const keys = new Uint8Array(ENTRIES * SIZES.keySize)
    const values = new Uint8Array(ENTRIES * SIZES.valueSize)
    for (let i = 0; i < ENTRIES; i++) {
      new DataView(keys.buffer).setUint32(i * SIZES.keySize, Math.imul(i, 2_654_435_761))
      new DataView(values.buffer).setUint32(i * SIZES.valueSize + 32, EXPIRED, true)
    }
    const keyOf = (i: number) => keys.subarray(i * SIZES.keySize, (i + 1) * SIZES.keySize)
    const count = new Uint32Array(1)
    const scanned = new Uint8Array(CAPACITY * SIZES.keySize)
    const scannedValues = new Uint8Array(CAPACITY * SIZES.valueSize)
    const read = {
      keys: scanned,
      expected: new Uint32Array(CAPACITY).fill(EXPIRED),
      verdicts: new Uint8Array(CAPACITY)
    }
    const value = new Uint8Array(SIZES.valueSize)
    const results = ways.map(({ name }) => ({ name, refreshes: 0, lost: 0, wrong: 0, deleted: 0 }))
    let round = 0

    for (let at = 0; at < rounds; at++) {
      for (const [number, way] of ways.entries()) {
        count[0] = ENTRIES
        kernel.updateBatch(table, keys, values, count)
        const order = shuffled(ENTRIES)
        for (const [slot, i] of order.entries()) {
          slotBytes.set(keyOf(i), slot * SLOT)
          slots[slot * 12 + 10] = FRESH
        }
        count[0] = CAPACITY
        kernel.lookupBatch(table, null, new Uint8Array(16), scanned, scannedValues, count)
        Atomics.store(watched, DELAY, Math.floor(Math.random() * way.spread))
        const deleted = way.run(read, count[0] ?? 0, () => Atomics.store(watched, ROUND, ++round))
        while (Atomics.load(watched, DONE) !== round);
        const result = results[number]
        if (result === undefined) continue
        result.deleted += deleted
        for (const [slot, i] of order.entries()) {
          if (slots[slot * 12 + 11] !== 1) continue
          result.refreshes += 1
          if (kernel.lookup(table, keyOf(i), value) < 0) result.lost += 1
          else if (new DataView(value.buffer).getUint32(32, true) !== FRESH) result.wrong += 1
        }
      }
    }
    console.table(
      results.map(({ name, refreshes, lost, wrong, deleted }) => ({
        "deleted by": name,
        refreshes,
        lost,
        "lost per million": Number(((lost / refreshes) * 1e6).toFixed(1)),
        "neither old nor fresh": wrong,
        deleted
      }))
    )
  })

const without =
  (program: string, kernel: Bpf.Calls): Bpf.Calls["loadObject"] =>
  (spec) =>
    spec.programs.includes(program) ? { errno: 1, log: "" } : kernel.loadObject(spec)

const shuffled = (count: number): Array<number> => {
  const order = Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    const swapped = order[i] ?? 0
    order[i] = order[j] ?? 0
    order[j] = swapped
  }
  return order
}

const compile = (object: string): void => {
  const source = object.replace(/\.o$/, ".c")
  writeFileSync(source, REFRESH)
  const { status, stderr, error } = spawnSync(
    "clang-19",
    ["-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-c", source, "-o", object],
    { encoding: "utf8" }
  )
  if (status !== 0) throw new Error(`clang-19 compiles the refresher: ${error?.message ?? stderr}`)
}

const [mode, object] = process.argv.slice(2)
const main =
  mode === "--datapath"
    ? Bpf.Bpf.useSync((kernel) => datapath(kernel, object ?? ""))
    : Effect.scoped(collector(Number(mode ?? 2000), compile))
await Effect.runPromise(main.pipe(Effect.provide(LibBpf.layer)))
