/** What `gc`, `flush` and `purge` must do: held against the kernel and against its twin in memory. */
import { assert, it } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import { type Place, stages, at, collected, ct, CT4, of, pods, sumOf, without } from "./collectStage.ts"
import { type Entry, entryOf, linesOf, recorded } from "./tableFile.ts"

/** When Cilium's own collector ran. */
const collectedAt = { "pods-ktime": 5462, "nat-orphans-ktime": 5495 } as const
const engines = ["auto", "hybrid", "kernel", "portable"] as const

export const cases = (place: Place): void => {
  const stage = stages(place)

  for (const [set, now] of Object.entries(collectedAt) as Array<[keyof typeof collectedAt, number]>) {
    for (const engine of engines) {
      it.effect(`${set}: gc and nat purge-orphans leave exactly what Cilium's own left, engine ${engine}`, () =>
        Effect.gen(function* () {
          const { done, json, saved } = yield* stage(recorded(set, "before"))
          const { rows } = yield* json("gc", "--now", String(now), "--engine", engine)
          assert.deepStrictEqual(yield* saved, recorded(set, "after-gc"))
          const ran = { auto: "hybrid", hybrid: "hybrid", kernel: "kernel", portable: "portable" }[engine]
          assert.deepStrictEqual(new Set(rows.map((row) => row["engine"])), new Set([ran]))
          yield* done("nat", "purge-orphans", "--engine", engine)
          assert.deepStrictEqual(yield* saved, recorded(set, "after-purge"))
        })
      )
    }
  }

  it.effect("gc reports every table so that its counts add up", () =>
    Effect.gen(function* () {
      const { json } = yield* stage(pods)
      const { rows } = yield* json("gc", ...at)
      assert.deepStrictEqual(
        rows.map(({ map, seen, deleted, expired }) => [map, seen, deleted, expired]),
        MapKind.globals.map((kind) => {
          const map = MapName.global(kind)
          const before = pods.map(entryOf).filter((entry) => entry.map === map)
          const gone = before.filter(({ lifetime }) => lifetime < 5462).length
          return [map, before.length, gone, gone]
        })
      )
      for (const row of rows) {
        const parts = ["kept", "deleted", "refreshed", "vanished", "busy"]
        assert.strictEqual(
          parts.reduce((sum, part) => sum + Number(row[part]), 0),
          row["seen"]
        )
        assert.deepStrictEqual([row["completed"], row["incomplete"], row["dryRun"]], [true, null, false])
      }
      const natGone = pods.length - ct(pods).length - (collected.length - ct(collected).length)
      assert.strictEqual(sumOf(rows, "natDeleted"), natGone)
    })
  )

  it.effect("gc takes one family, one map or the maps of an endpoint, and leaves the others", () =>
    Effect.gen(function* () {
      const ipv4 = yield* stage(pods)
      yield* ipv4.done("gc", ...at, "--family", "ipv4")
      assert.deepStrictEqual(yield* ipv4.saved, [...of("ipv4", collected), ...of("ipv6", pods)].toSorted())

      const one = yield* stage(pods)
      yield* one.done("gc", ...at, "--map", CT4)
      // NAT entries go with the protocol of the map that was collected.
      const isTcp4 = ({ family, proto }: Entry) => family === "ipv4" && proto === 6
      const expected = [...without(pods, isTcp4), ...collected.filter((line) => isTcp4(entryOf(line)))]
      assert.deepStrictEqual(yield* one.saved, expected.toSorted())

      const local = (lines: ReadonlyArray<string>) => ct(lines).map((line) => line.replace("_global", "_00007"))
      const endpoint = yield* stage([...local(pods), ...ct(pods)])
      yield* endpoint.done("gc", ...at, "--endpoint", "7")
      const kept = Effect.map(endpoint.done("list", "--endpoint", "7", "-o", "ndjson", ...at), linesOf)
      assert.strictEqual((yield* kept).length, ct(collected).length)
      assert.strictEqual(linesOf(yield* endpoint.done("list")).length, ct(pods).length)
    })
  )

  it.effect("a dry run says what would go, and changes nothing", () =>
    Effect.gen(function* () {
      const { done, json, saved } = yield* stage(pods)
      const table = yield* done("gc", ...at, "--dry-run")
      assert.match(
        table,
        /^MAP +SEEN +WOULD DELETE +SHARE +BECAUSE +MS\ncilium_ct4_global +1,008 +688 +68\.3 % +expired/
      )
      const looks: ReadonlyArray<readonly [args: ReadonlyArray<string>, wanted: number]> = [
        [["gc", ...at], ct(pods).length - ct(collected).length],
        [["flush"], ct(pods).length],
        [["purge", "--proto", "tcp"], ct(pods).filter((line) => entryOf(line).proto === 6).length],
        [["nat", "flush"], pods.length - ct(pods).length],
        [
          ["nat", "flush", "--where", "tcp"],
          pods.map(entryOf).filter(({ isNat, proto }) => isNat && proto === 6).length
        ]
      ]
      for (const [args, wanted] of looks) {
        const { rows, code } = yield* json(...args, "--dry-run")
        assert.deepStrictEqual([code, sumOf(rows, "wanted"), sumOf(rows, "deleted")], [0, wanted, 0], args.join(" "))
      }
      assert.deepStrictEqual(yield* saved, pods)
    })
  )

  it.effect("a dry run says where the guard would stop it", () =>
    Effect.gen(function* () {
      const { ctmap } = yield* stage(pods)
      const limited = yield* ctmap("purge", "--proto", "tcp", "--max-delete-ratio", "0.25", "--dry-run")
      assert.strictEqual(limited.code, 0)
      assert.match(
        limited.stderr,
        /the guard would stop this at cilium_ct4_global: 1,008 of its 1,008 entries would go, where at most 252 may/
      )
      assert.match(limited.stderr, /cilium_ct6_global.*--max-delete-ratio/)
      assert.notInclude(limited.stderr, "any")
      // Expiry is not limited by share, but by number.
      assert.strictEqual((yield* ctmap("gc", ...at, "--max-delete-ratio", "0", "--dry-run")).stderr, "")
      const counted = yield* ctmap("gc", ...at, "--max-deletions", "10", "--dry-run", "--map", CT4)
      assert.match(counted.stderr, /688 of its 1,008 entries would go, where at most 10 may: more with --max-deletions/)
    })
  )

  it.effect("--where narrows what a collection takes", () =>
    Effect.gen(function* () {
      const { done, saved } = yield* stage(pods)
      yield* done("gc", ...at, "--where", "udp")
      const isGone = ({ lifetime, proto }: Entry) => proto === 17 && lifetime < 5462
      const left = yield* saved
      assert.deepStrictEqual(ct(left), without(ct(pods), isGone))
      const ofUdp = (lines: ReadonlyArray<string>) =>
        lines.filter((line) => entryOf(line).isNat && entryOf(line).proto === 17)
      assert.deepStrictEqual(ofUdp(left), ofUdp(collected))
    })
  )

  const refused = [["flush"], ["purge", "--ip", "198.18.1.10"], ["nat", "flush"], ["nat", "flush", "--where", "tcp"]]
  for (const args of refused) {
    it.effect(`without --yes, and nobody to ask, is refused and says what it would do: ${args.join(" ")}`, () =>
      Effect.gen(function* () {
        const { ctmap, saved } = yield* stage(pods)
        const { code, stdout, stderr } = yield* ctmap(...args)
        assert.deepStrictEqual([code, stdout], [3, ""])
        assert.match(
          stderr,
          /^ctmap: deletes every .*\nctmap: this cuts live connections and nobody is there to be asked: add --yes\n$/
        )
        assert.deepStrictEqual(yield* saved, pods)
      })
    )
  }

  it.effect("flush --yes empties CT tables, and takes the NAT entries that a connection owned", () =>
    Effect.gen(function* () {
      const { done, saved } = yield* stage(pods)
      yield* done("flush", "--yes", "--family", "ipv6")
      const half = yield* saved
      assert.deepStrictEqual(of("ipv4", half), of("ipv4", pods))
      assert.deepStrictEqual(ct(of("ipv6", half)), [])
      yield* done("flush", "-y")
      const left = yield* saved
      assert.deepStrictEqual(ct(left), [])
      // What is left had lost its connection before.
      const other = yield* stage(pods)
      yield* other.done("nat", "purge-orphans")
      const alive = new Set(yield* other.saved)
      assert.deepStrictEqual(
        left,
        without(pods, ({ isNat, line }) => !isNat || alive.has(line))
      )
    })
  )

  it.effect("flush --where takes what matches, and stays within the guard", () =>
    Effect.gen(function* () {
      const { done, ctmap, saved } = yield* stage(pods)
      yield* done("flush", "--yes", "--where", "udp and port 53")
      const isGone = ({ isNat, ports, proto }: Entry) => !isNat && proto === 17 && ports.includes(53)
      const left = yield* saved
      assert.isAbove(pods.filter((line) => isGone(entryOf(line))).length, 0)
      assert.deepStrictEqual(ct(left), without(ct(pods), isGone))
      const { code } = yield* ctmap("flush", "--yes", "--where", "udp", "--max-delete-ratio", "0.1")
      assert.strictEqual(code, 3)
      assert.deepStrictEqual(yield* saved, left)
    })
  )

  const hex = (dotted: string) => Buffer.from(dotted.split(".").map(Number)).toString("hex")
  const starts = (prefix: string) => (entry: Entry) => entry.addresses.some((end) => end.startsWith(prefix))
  const isCt4 = ({ family, isNat }: Entry) => family === "ipv4" && !isNat
  const purges: ReadonlyArray<readonly [args: ReadonlyArray<string>, gone: (entry: Entry) => boolean]> = [
    [["--ip", "198.18.1.10"], (entry) => isCt4(entry) && starts(hex("198.18.1.10"))(entry)],
    [
      ["--ip", "198.18.1.10,198.18.1.11", "--ip", "198.18.2.1"],
      (entry) => isCt4(entry) && ["198.18.1.10", "198.18.1.11", "198.18.2.1"].some((ip) => starts(hex(ip))(entry))
    ],
    [["--ip", "198.18.1.0/24"], (entry) => isCt4(entry) && starts(hex("198.18.1"))(entry)],
    [
      ["--port", "8000-9000", "--proto", "tcp"],
      ({ isNat, ports, proto }) => !isNat && proto === 6 && ports.some((port) => port >= 8000 && port <= 9000)
    ],
    [["--proto", "sctp"], ({ isNat, proto }) => !isNat && proto === 132],
    [["--proto", "132,1"], ({ isNat, proto }) => !isNat && (proto === 132 || proto === 1)],
    [
      ["--ip", "198.18.1.10", "--proto", "udp", "--where", "expired", ...at],
      (entry) => isCt4(entry) && starts(hex("198.18.1.10"))(entry) && entry.proto === 17 && entry.lifetime < 5462
    ]
  ]
  for (const [args, gone] of purges) {
    it.effect(`purge ${args.join(" ")} takes exactly that`, () =>
      Effect.gen(function* () {
        const { json, saved } = yield* stage(pods)
        const { code, rows, stderr } = yield* json("purge", ...args, "--yes", "--max-delete-ratio", "1")
        assert.strictEqual(code, 0, stderr)
        const left = yield* saved
        const expected = without(ct(pods), gone)
        assert.isBelow(expected.length, ct(pods).length, "something matches")
        assert.deepStrictEqual(ct(left), expected)
        assert.strictEqual(sumOf(rows, "deleted"), ct(pods).length - expected.length)
        assert.strictEqual(sumOf(rows, "natDeleted"), pods.length - ct(pods).length - (left.length - expected.length))
      })
    )
  }

  it.effect("purge leaves the tables of the other family alone where its addresses are of one", () =>
    Effect.gen(function* () {
      const { json } = yield* stage(pods)
      const maps = (...ips: ReadonlyArray<string>) =>
        Effect.map(json("purge", "--dry-run", ...ips.flatMap((ip) => ["--ip", ip])), ({ rows }) =>
          rows.map(({ family }) => family)
        )
      assert.deepStrictEqual(yield* maps("10.0.1.1", "10.0.2.0/24"), ["ipv4", "ipv4"])
      assert.deepStrictEqual(yield* maps("fd00::1"), ["ipv6", "ipv6"])
      assert.deepStrictEqual(yield* maps("10.0.1.1,fd00::1"), ["ipv4", "ipv4", "ipv6", "ipv6"])
    })
  )

  it.effect("the guard ends a purge with 3, after a report of what was and what was not done", () =>
    Effect.gen(function* () {
      const { ctmap, json, saved } = yield* stage(pods)
      const where = "(ipv4 and udp) or (ipv6 and tcp and port 80)"
      const args = ["purge", "--where", where, "--yes", "--max-delete-ratio", "0.3"]
      const { code, rows, stderr } = yield* json(...args)
      const isGone = ({ family, isNat, ports, proto }: Entry) =>
        family === "ipv6" && !isNat && proto === 6 && ports.includes(80)
      const gone = pods.filter((line) => isGone(entryOf(line))).length
      assert.isAbove(gone, 0)
      assert.strictEqual(code, 3)
      assert.deepStrictEqual(
        rows.map(({ map, deleted }) => [map, deleted]),
        [
          [CT4, 0],
          ["cilium_ct_any4_global", 0],
          ["cilium_ct6_global", gone],
          ["cilium_ct_any6_global", 0]
        ]
      )
      const stopped =
        /the guard stopped the pass over map cilium_ct_any4_global: .*nothing was deleted.*--max-delete-ratio/
      assert.match(stderr, stopped)
      assert.match(String(rows[1]?.["incomplete"]), /nothing was deleted.* the setting max-delete-ratio/)
      assert.deepStrictEqual([rows[2]?.["incomplete"], rows[3]?.["incomplete"]], [null, null])
      assert.deepStrictEqual(ct(yield* saved), without(ct(pods), isGone))
      const table = yield* ctmap(...args)
      assert.match(table.stdout, /^MAP .* MS +WANTED +END\n/)
      assert.match(table.stdout, /cilium_ct_any4_global .* 1,342 +stopped\n/)
    })
  )

  for (const engine of engines) {
    it.effect(`gc --max-deletions stops after so many in each family, engine ${engine}`, () =>
      Effect.gen(function* () {
        const { json, saved } = yield* stage(pods)
        const { code, rows } = yield* json("gc", ...at, "--max-deletions", "100", "--engine", engine)
        assert.strictEqual(code, 3)
        assert.deepStrictEqual(
          rows.map(({ map, deleted, completed }) => [map, deleted, completed]),
          [
            [CT4, 100, false],
            ["cilium_ct6_global", 100, false]
          ]
        )
        const left = yield* saved
        assert.strictEqual(ct(left).length, ct(pods).length - 200)
        assert.deepStrictEqual(
          ct(collected).filter((line) => !left.includes(line)),
          []
        )
      })
    )
  }

  it.effect("a table that does not fit the clock is not touched, and the other family is collected", () =>
    Effect.gen(function* () {
      const [first = "", ...rest] = pods
      const until = (line: string, lifetime: string) => `${line.slice(0, -48)}${lifetime}${line.slice(-40)}`
      const far = until(first, "ffffff7f")
      assert.strictEqual(entryOf(far).lifetime, 0x7fff_ffff)
      // Expired by the clock of any host, however short it has been up.
      const old = ct(of("ipv6", rest))[0]!
      const { ctmap, saved } = yield* stage([far, ...rest.with(rest.indexOf(old), until(old, "01000000"))])
      const before = yield* saved
      const { code, stdout, stderr } = yield* ctmap("gc", "--map", CT4)
      assert.strictEqual(code, 3)
      assert.match(stderr, /the times of map cilium_ct4_global do not fit the ktime clock: .*nothing was touched/)
      assert.match(stdout, /cilium_ct4_global .* stopped\n$/)
      assert.deepStrictEqual(yield* saved, before)
      const both = yield* ctmap("gc")
      assert.strictEqual(both.code, 3)
      assert.deepStrictEqual(of("ipv4", yield* saved), of("ipv4", before))
      assert.notDeepEqual(of("ipv6", yield* saved), of("ipv6", before))
      // Who sets the time by hand knows better.
      assert.strictEqual((yield* ctmap("gc", ...at)).code, 0)
    })
  )

  it.effect("a family of which a map is missing does not keep the other from being collected", () =>
    Effect.gen(function* () {
      const broken = without(pods, ({ map }) => map === "cilium_ct_any4_global")
      const { ctmap, saved } = yield* stage(broken)
      const { code, stdout, stderr } = yield* ctmap("gc", ...at)
      assert.strictEqual(code, 1)
      assert.match(stderr, /^ctmap: .*cilium_ct_any4_global: nothing is pinned there.*\n$/)
      assert.match(stdout, /^MAP .*\ncilium_ct6_global .*\ncilium_ct_any6_global .*\n$/)
      assert.deepStrictEqual(yield* saved, [...of("ipv4", broken), ...of("ipv6", collected)].toSorted())
    })
  )

  it.effect("a NAT map that cannot be read stops its family before anything is deleted, and no other", () =>
    Effect.gen(function* () {
      const isNat4 = ({ family, isNat }: Entry) => isNat && family === "ipv4"
      const { ctmap, pin } = yield* stage(without(pods, isNat4))
      yield* pin({ ...MapSpec.nat("ipv4", {}), valueSize: 20, maxEntries: 64 }, MapName.nat("ipv4"))
      const { code, stdout, stderr } = yield* ctmap("gc", ...at)
      assert.strictEqual(code, 1)
      assert.match(stderr, /^ctmap: .*cilium_snat_v4_external.*\n$/)
      assert.match(stdout, /^MAP .*\ncilium_ct6_global .*\ncilium_ct_any6_global .*\n$/)
      const list = (family: Entry["family"]) => ctmap("count", "--family", family, "-o", "json")
      const total = Effect.fnUntraced(function* (family: Entry["family"]) {
        return (JSON.parse((yield* list(family)).stdout) as { readonly total: number }).total
      })
      assert.strictEqual(yield* total("ipv4"), ct(of("ipv4", pods)).length)
      assert.strictEqual(yield* total("ipv6"), ct(of("ipv6", collected)).length)
      for (const args of [
        ["nat", "flush", "--yes"],
        ["nat", "purge-orphans"]
      ]) {
        const nat = yield* ctmap(...args)
        assert.strictEqual(nat.code, 1)
        assert.match(nat.stderr, /cilium_snat_v4_external/)
        assert.match(nat.stdout, /^MAP .*\ncilium_snat_v6_external .*\n$/)
      }
    })
  )
}
