/** What the commands about remote clusters do, on any kernel. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { MapName } from "ctmap-core"
import { Bpf, type BpfError } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { onTestFinished } from "vitest"
import { run } from "./harness.ts"

interface Kernel {
  readonly name: string
  readonly layer: () => Layer.Layer<Bpf.Bpf, BpfError.BpfError>
  readonly root: () => string
}

const sizes = ["--bpf-ct-global-tcp-max", "8192", "--bpf-ct-global-any-max", "8192", "--bpf-nat-global-max", "8192"]
const tcp4 = "cilium_per_cluster_ct_tcp4_7"
const nat4 = "cilium_per_cluster_snat_v4_external_7"

/** The program on a kernel, at a bpffs directory of the test's own. */
const host = (kernel: Kernel) =>
  Effect.map(Bpf.Bpf, (bpf) => {
    const root = kernel.root()
    const ctmap = (...args: ReadonlyArray<string>) => run([...args, "--bpffs-root", root], { bpf })
    const pins = (): ReadonlyArray<string> => {
      const names = bpf.listDirectory(`${root}/tc/globals`)
      return typeof names === "number" ? [] : names.toSorted()
    }
    const withMap = <A>(name: string, use: (fd: number) => A): A => {
      const fd = bpf.openPin(MapName.pinPath(root, name))
      try {
        return use(fd)
      } finally {
        bpf.close(fd)
      }
    }
    const fill = (name: string, recorded: string): void => {
      const { keys, values, count, keySize, valueSize } = Recorded.tables("pods-ktime", "before").get(recorded)!
      withMap(name, (fd) => {
        for (let i = 0; i < count; i++) {
          const value = values.subarray(i * valueSize, (i + 1) * valueSize)
          assert.strictEqual(bpf.update(fd, keys.subarray(i * keySize, (i + 1) * keySize), value, 0), 0)
        }
      })
    }
    const clearSlot = (outer: string, id: number): void =>
      withMap(outer, (fd) => void bpf.delete(fd, new Uint8Array(Uint32Array.of(id).buffer)))
    return { bpf, root, ctmap, pins, fill, clearSlot }
  })

const now = ["--clock", "ktime", "--now", "5462"]
const entriesOf = (map: string, moment: Recorded.Moment): number =>
  Recorded.tables("pods-ktime", moment).get(map)?.count ?? 0

export const clusterCases = (kernel: Kernel): void => {
  const live = <A, E>(title: string, body: Effect.Effect<A, E, Bpf.Bpf>): void =>
    it.live(title, () => Effect.provide(body, kernel.layer()))

  describe(`ctmap cluster ${kernel.name}`, () => {
    live(
      "makes clusters, lists them, deletes them and cleans up",
      Effect.gen(function* () {
        const { bpf, ctmap, pins, root } = yield* host(kernel)
        bpf.makeDirectory(root)
        const none = yield* ctmap("cluster", "list")
        assert.strictEqual(none.code, 1)
        assert.match(none.stderr, /no map of a remote cluster is pinned in .*cluster create/)
        const made = yield* ctmap("cluster", "create", "7", "255", ...sizes)
        assert.deepStrictEqual([made.code, made.stdout], [0, ""], made.stderr)
        assert.match(made.stderr, /^ctmap: cluster 7: CT and NAT maps are there and in use\nctmap: cluster 255: /)
        assert.strictEqual(pins().length, 6 + 12)
        assert.strictEqual((yield* ctmap("cluster", "create", "7", ...sizes)).code, 0)
        const listed = yield* ctmap("cluster", "list", "-o", "ndjson", ...sizes)
        assert.deepStrictEqual(
          listed.stdout
            .trim()
            .split("\n")
            .map((line) => JSON.parse(line)),
          [7, 255].map((cluster) => ({
            cluster,
            ct: ["ipv4", "ipv6"],
            nat: ["ipv4", "ipv6"],
            maps: 6,
            health: []
          }))
        )
        assert.match((yield* ctmap("cluster", "list", ...sizes)).stdout, /CLUSTER +CT +NAT +MAPS +HEALTH/)
        const refused = yield* ctmap("cluster", "delete", "7")
        assert.strictEqual(refused.code, 3)
        assert.match(refused.stderr, /cuts live connections and nobody is there to be asked: add --yes/)
        const unknown = yield* ctmap("cluster", "delete", "7", "8", "--yes")
        assert.deepStrictEqual([unknown.code, pins().length], [1, 18])
        assert.match(unknown.stderr, /no map of cluster 8 is pinned, and nothing was deleted/)
        assert.strictEqual((yield* ctmap("cluster", "delete", "7", "--yes")).code, 0)
        assert.strictEqual(pins().length, 12)
        assert.strictEqual((yield* ctmap("cluster", "cleanup")).code, 3)
        const half = yield* ctmap("cluster", "cleanup", "--family", "ipv6", "--yes")
        assert.deepStrictEqual([half.code, half.stderr], [0, "ctmap: 6 per-cluster maps deleted\n"])
        assert.strictEqual((yield* ctmap("cluster", "check", ...sizes)).code, 0)
        assert.strictEqual((yield* ctmap("cluster", "cleanup", "-y")).code, 0)
        assert.deepStrictEqual(pins(), [])
        assert.match((yield* ctmap("cluster", "cleanup", "-y")).stderr, /nothing to delete/)
      })
    )

    live(
      "refuses ids that there are not, before anything is made",
      Effect.gen(function* () {
        const { ctmap, pins } = yield* host(kernel)
        for (const [id, sentence] of [
          ["0", "ClusterID 0 is reserved"],
          ["256", "ClusterID > 255 is not supported"]
        ] as const) {
          const { code, stderr } = yield* ctmap("cluster", "create", "1", id, ...sizes)
          assert.deepStrictEqual([code, stderr.trim()], [2, `ctmap: ${sentence}`])
        }
        assert.deepStrictEqual(pins(), [])
        assert.strictEqual(
          (yield* ctmap("cluster", "create", "511", "--max-connected-clusters", "511", ...sizes)).code,
          0
        )
        assert.strictEqual((yield* ctmap("cluster", "create", "500", "--no-nat", ...sizes)).code, 0)
        assert.include(pins(), "cilium_per_cluster_ct_any6_500")
        assert.notInclude(pins(), "cilium_per_cluster_snat_v6_external_500")
      })
    )

    live(
      "takes sizes and families from the maps of the node, and leaves maps of another size as they are",
      Effect.gen(function* () {
        const { bpf, ctmap, pins, root } = yield* host(kernel)
        const directory = `${root}/tc/globals`
        bpf.makeDirectory(directory)
        for (const [name, maxEntries, valueSize] of [
          ["cilium_ct4_global", 300, 56],
          ["cilium_ct_any4_global", 200, 56],
          ["cilium_snat_v4_external", 100, 40]
        ] as const) {
          const fd = bpf.mapCreate({ type: 9, keySize: 14, valueSize, maxEntries, flags: 0 }, name)
          bpf.pin(fd, `${directory}/${name}`)
          bpf.close(fd)
        }
        assert.strictEqual((yield* ctmap("cluster", "create", "3")).code, 0)
        assert.deepStrictEqual(
          pins().filter((pin) => pin.endsWith("_3")),
          ["cilium_per_cluster_ct_any4_3", "cilium_per_cluster_ct_tcp4_3", "cilium_per_cluster_snat_v4_external_3"]
        )
        const sizeOf = (name: string): number => {
          const fd = bpf.openPin(`${directory}/${name}`)
          const info = bpf.mapInfo(fd)
          bpf.close(fd)
          return typeof info === "number" ? info : info.maxEntries
        }
        assert.deepStrictEqual(
          ["ct_tcp4_3", "ct_any4_3", "snat_v4_external_3"].map((name) => sizeOf(`cilium_per_cluster_${name}`)),
          [300, 200, 100]
        )
        assert.strictEqual((yield* ctmap("cluster", "create", "3", ...sizes)).code, 0)
        assert.strictEqual(sizeOf("cilium_per_cluster_ct_tcp4_3"), 300)
        const wrong = yield* ctmap("cluster", "check", "-o", "ndjson", ...sizes)
        assert.strictEqual(wrong.code, 1)
        assert.deepStrictEqual(JSON.parse(wrong.stdout.split("\n")[0]!), {
          problem: "maxEntries is 300, wanted 8192",
          map: "cilium_per_cluster_ct_tcp4_3",
          cluster: 3,
          remedy: null
        })
      })
    )

    live(
      "finds a slot that is empty and mends it; without --repair it only says so",
      Effect.gen(function* () {
        const { ctmap, clearSlot, bpf, root } = yield* host(kernel)
        yield* ctmap("cluster", "create", "7", "8", ...sizes)
        clearSlot("cilium_per_cluster_ct_tcp4", 7)
        bpf.unpin(MapName.pinPath(root, "cilium_per_cluster_ct_any6_8"))
        const found = yield* ctmap("cluster", "check", ...sizes)
        assert.strictEqual(found.code, 1)
        assert.match(found.stdout, /cilium_per_cluster_ct_tcp4_7 +7 +pinned, but slot 7 .* is empty.* +enter it/)
        assert.match(found.stdout, /cilium_per_cluster_ct_any6 +8 +slot 8 holds a map .*not pinned.* +empty the slot/)
        assert.match(found.stderr, /2 of 2 problems are there; --repair does what the last column says/)
        assert.match((yield* ctmap("cluster", "list", ...sizes)).stdout, /tcp4_7: pinned, but slot 7/)
        assert.strictEqual((yield* ctmap("cluster", "check", "--repair", ...sizes)).code, 3)
        const mended = yield* ctmap("cluster", "check", "--repair", "--yes", ...sizes)
        assert.strictEqual(mended.code, 0, mended.stderr)
        const whole = yield* ctmap("cluster", "check", ...sizes)
        assert.deepStrictEqual([whole.code, whole.stdout], [0, ""])
        assert.match(whole.stderr, /every pin has its slot, and every slot its pin/)
      })
    )

    const above = "cilium_per_cluster_ct_tcp4_300"
    const clusterAbove = (on: { bpf: Bpf.Calls; root: string; pins: () => ReadonlyArray<string> }) => {
      for (const pin of on.pins()) {
        if (!pin.endsWith("_7")) on.bpf.unpin(MapName.pinPath(on.root, pin))
        else on.bpf.renamePin(MapName.pinPath(on.root, pin), MapName.pinPath(on.root, pin.replace(/7$/, "300")))
      }
    }

    live(
      "leaves the maps of a cluster above the range while they hold entries, unless --discard-entries is given",
      Effect.gen(function* () {
        const on = yield* host(kernel)
        const { ctmap, fill, pins } = on
        yield* ctmap("cluster", "create", "7", "--family", "ipv4", ...sizes)
        fill(tcp4, "cilium_ct4_global")
        const entries = entriesOf("cilium_ct4_global", "before").toLocaleString("en")
        clusterAbove(on)
        const range = ["--family", "ipv4", "--max-connected-clusters", "255", ...sizes]
        const three = pins()
        assert.include(three, above)

        const kept = yield* ctmap("cluster", "check", "--repair", "--yes", ...range)
        assert.strictEqual(kept.code, 1)
        assert.match(
          kept.stdout,
          new RegExp(`${above} +300 +the outer map has no slot 300.* holds ${entries} entries +-`)
        )
        assert.notMatch(kept.stderr, /remove the pin/)
        assert.match(
          kept.stderr,
          new RegExp(`--discard-entries it also unpins 3 maps .*whose ${entries} entries are lost`)
        )
        assert.includeMembers([...pins()], [...three])

        const refused = yield* ctmap("cluster", "check", "--repair", "--discard-entries", ...range)
        assert.strictEqual(refused.code, 3)
        assert.match(refused.stderr, new RegExp(`loses ${entries} entries and nobody is there to be asked: add --yes`))
        assert.match(refused.stdout, new RegExp(`${above} .*remove the pin, and lose ${entries} entries`))
        assert.includeMembers([...pins()], [...three])

        const gone = yield* ctmap("cluster", "check", "--repair", "--discard-entries", "--yes", ...range)
        assert.strictEqual(gone.code, 0, gone.stderr)
        assert.match(gone.stderr, new RegExp(`${above}: repaired: remove the pin, and lose ${entries} entries`))
        assert.isFalse(pins().some((pin) => pin.endsWith("_300")))
      })
    )

    live(
      "deletes the clusters above an id: the empty ones, and with --discard-entries all of them",
      Effect.gen(function* () {
        const { ctmap, fill, pins } = yield* host(kernel)
        const wide = ["--max-connected-clusters", "511", "--family", "ipv4", ...sizes]
        yield* ctmap("cluster", "create", "7", "300", "301", ...wide)
        fill(above, "cilium_ct4_global")
        const entries = entriesOf("cilium_ct4_global", "before").toLocaleString("en")
        const left = () => ["_7", "_300", "_301"].map((end) => pins().filter((pin) => pin.endsWith(end)).length)

        for (const [wrong, why] of [
          [[], /say which clusters: their ids, or --above ID/],
          [["7", "--above", "255"], /name clusters, or give --above ID, but not both/],
          [["7", "--discard-entries"], /--discard-entries goes with --above/]
        ] as const) {
          const refused = yield* ctmap("cluster", "delete", ...wrong, "--yes")
          assert.strictEqual(refused.code, 2, refused.stderr)
          assert.match(refused.stderr, why)
        }
        const unasked = yield* ctmap("cluster", "delete", "--above", "255")
        assert.strictEqual(unasked.code, 3)
        assert.match(
          unasked.stderr,
          /deletes the maps of cluster 301, all of them empty\n.*nobody is there to be asked/
        )
        assert.deepStrictEqual(left(), [3, 3, 3])

        const some = yield* ctmap("cluster", "delete", "--above", "255", "--yes")
        assert.strictEqual(some.code, 1)
        assert.match(some.stderr, /the maps of cluster 301 were deleted\n/)
        assert.match(some.stderr, new RegExp(`the maps of cluster 300 stay: they hold ${entries} entries\n`))
        assert.match(some.stderr, /1 of 2 clusters stay for their entries: --discard-entries deletes them as well/)
        assert.deepStrictEqual(left(), [3, 3, 0])
        assert.strictEqual((yield* ctmap("cluster", "delete", "--above", "255", "--yes")).code, 3)
        assert.deepStrictEqual(left(), [3, 3, 0])

        const all = yield* ctmap("cluster", "delete", "--above", "255", "--discard-entries", "--yes")
        assert.strictEqual(all.code, 0, all.stderr)
        assert.match(all.stderr, new RegExp(`deletes the maps of cluster 300, which hold ${entries} entries\n`))
        assert.match(all.stderr, new RegExp(`cluster 300 were deleted, and ${entries} entries with them\n`))
        assert.deepStrictEqual(left(), [3, 0, 0])
        const none = yield* ctmap("cluster", "delete", "--above", "255", "--yes")
        assert.deepStrictEqual([none.code, none.stderr], [0, "ctmap: no map of a cluster above 255 is pinned\n"])
        assert.strictEqual((yield* ctmap("cluster", "check", "--family", "ipv4", ...sizes)).code, 0)
      })
    )

    live(
      "makes outer maps that are gone as large as the pinned maps need",
      Effect.gen(function* () {
        const on = yield* host(kernel)
        yield* on.ctmap("cluster", "create", "7", "--family", "ipv4", ...sizes)
        on.fill(tcp4, "cilium_ct4_global")
        clusterAbove(on)
        const mended = yield* on.ctmap("cluster", "check", "--repair", "--yes", "--family", "ipv4", ...sizes)
        assert.strictEqual(mended.code, 0, mended.stderr)
        const counted = yield* on.ctmap("count", "-o", "ndjson", "--map", above)
        assert.strictEqual(JSON.parse(counted.stdout).entries, entriesOf("cilium_ct4_global", "before"))
      })
    )
  })

  describe(`--cluster on the other commands ${kernel.name}`, () => {
    live(
      "lists, counts, collects with the cluster's own NAT map, saves, flushes and restores",
      Effect.gen(function* () {
        const { ctmap, fill } = yield* host(kernel)
        yield* ctmap("cluster", "create", "7", "8", ...sizes)
        for (const id of [7, 8]) {
          fill(`cilium_per_cluster_ct_tcp4_${id}`, "cilium_ct4_global")
          fill(`cilium_per_cluster_ct_any4_${id}`, "cilium_ct_any4_global")
          fill(`cilium_per_cluster_snat_v4_external_${id}`, "cilium_snat_v4_external")
        }
        const count = (map: string, ...more: ReadonlyArray<string>) =>
          Effect.map(ctmap("count", "-o", "ndjson", "--map", map, ...more), ({ stdout }) => JSON.parse(stdout).entries)
        const listed = yield* ctmap("list", "--cluster", "7", "--family", "ipv4")
        const all = entriesOf("cilium_ct4_global", "before") + entriesOf("cilium_ct_any4_global", "before")
        assert.strictEqual(listed.stdout.split("\n").filter((line) => line !== "").length, all)

        const pass = yield* ctmap("gc", "--cluster", "7", ...now)
        assert.strictEqual(pass.code, 0, pass.stderr)
        assert.strictEqual(yield* count(tcp4), entriesOf("cilium_ct4_global", "after-gc"))
        assert.strictEqual(yield* count(nat4, "--nat"), entriesOf("cilium_snat_v4_external", "after-gc"))
        assert.strictEqual(yield* count("cilium_per_cluster_ct_tcp4_8"), entriesOf("cilium_ct4_global", "before"))
        const natOf8 = yield* count("cilium_per_cluster_snat_v4_external_8", "--nat")
        assert.strictEqual(natOf8, entriesOf("cilium_snat_v4_external", "before"))

        const directory = mkdtempSync(join(tmpdir(), "ctmap-cluster-"))
        onTestFinished(() => rmSync(directory, { recursive: true }))
        const file = join(directory, "cluster.tsv")
        assert.strictEqual((yield* ctmap("snapshot", "save", file, "--cluster", "7")).code, 0)
        const text = readFileSync(file, "latin1")
        assert.include(text, `${nat4}\t`)
        assert.notInclude(text, "_8\t")

        const purged = yield* ctmap("nat", "purge-orphans", "--cluster", "7", "--max-delete-ratio", "1")
        assert.strictEqual(purged.code, 0, purged.stderr)
        const flushed = yield* ctmap("flush", "--cluster", "7", "--yes")
        assert.strictEqual(flushed.code, 0, flushed.stderr)
        assert.strictEqual(yield* count(tcp4), 0)
        assert.strictEqual(yield* count("cilium_per_cluster_ct_tcp4_8"), entriesOf("cilium_ct4_global", "before"))

        // A restore into nothing: the maps are made and pinned, and a check enters them.
        yield* ctmap("cluster", "delete", "7", "--yes")
        const restored = yield* ctmap("snapshot", "restore", file, ...sizes)
        assert.strictEqual(restored.code, 0, restored.stderr)
        assert.strictEqual(yield* count(tcp4), entriesOf("cilium_ct4_global", "after-gc"))
        assert.match((yield* ctmap("cluster", "check", ...sizes)).stdout, /tcp4_7 +7 +pinned, but slot 7/)
        const mended = yield* ctmap("cluster", "check", "--repair", "-y", ...sizes)
        assert.strictEqual(mended.code, 0, mended.stderr)
        assert.strictEqual(yield* count(tcp4), entriesOf("cilium_ct4_global", "after-gc"))
      })
    )
  })
}
