/** What `nat flush`, `nat purge-orphans`, `nat retries` and `watch` must do, and what reports look like, on either kernel. */
import { assert, it } from "@effect/vitest"
import { CtJson, MapName, MapSpec } from "ctmap-core"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Place, stages, at, collected, ct, CT4, pods, sumOf, without } from "./collectStage.ts"
import { entryOf, linesOf, recorded } from "./tableFile.ts"

export const cases = (place: Place): void => {
  const stage = stages(place)

  it.effect("nat flush takes all NAT entries of the chosen maps, or those that match, and no CT entry", () =>
    Effect.gen(function* () {
      const { ctmap, done, json, saved } = yield* stage(pods)
      const narrow = yield* json("nat", "flush", "--where", "udp", "--yes", "--max-delete-ratio", "1")
      assert.strictEqual(narrow.code, 0, narrow.stderr)
      const afterUdp = without(pods, ({ isNat, proto }) => isNat && proto === 17)
      assert.isBelow(afterUdp.length, pods.length)
      assert.deepStrictEqual(yield* saved, afterUdp)
      assert.strictEqual(sumOf(narrow.rows, "deleted"), pods.length - afterUdp.length)
      yield* done("nat", "flush", "--map", "cilium_snat_v4_external", "--yes")
      assert.deepStrictEqual(
        yield* saved,
        without(afterUdp, ({ map }) => map === "cilium_snat_v4_external")
      )
      assert.match((yield* ctmap("nat", "flush", "--map", CT4, "--yes")).stderr, /not the name of a NAT map/)
      yield* done("nat", "flush", "--yes")
      assert.deepStrictEqual(yield* saved, ct(pods))
    })
  )

  it.effect("nat flush --where stays within the guard, and says so with 3", () =>
    Effect.gen(function* () {
      const { ctmap, saved } = yield* stage(pods)
      const { code, stdout, stderr } = yield* ctmap(
        "nat",
        "flush",
        "--where",
        "ipv4",
        "--yes",
        "--max-delete-ratio",
        "0.5"
      )
      assert.strictEqual(code, 3)
      assert.match(stdout, /cilium_snat_v4_external +1,064 .* 1,064 +stopped/)
      assert.match(stderr, /the guard stopped the pass over map cilium_snat_v4_external/)
      assert.deepStrictEqual(yield* saved, pods)
    })
  )

  it.effect("nat purge-orphans --dry-run counts what Cilium's purge takes", () =>
    Effect.gen(function* () {
      const set = "nat-orphans-ktime"
      const { done, json, saved } = yield* stage(recorded(set, "before"))
      yield* done("gc", "--now", "5495")
      const { rows } = yield* json("nat", "purge-orphans", "--dry-run")
      const orphans = recorded(set, "after-gc").length - recorded(set, "after-purge").length
      assert.isAbove(orphans, 0)
      assert.strictEqual(sumOf(rows, "wanted"), orphans)
      assert.deepStrictEqual(yield* saved, recorded(set, "after-gc"))
    })
  )

  it.effect("nat retries lists counters, zeroes them, and says where there are none", () =>
    Effect.gen(function* () {
      const { ctmap, done, pin, root } = yield* stage(pods)
      for (const command of ["list", "flush"]) {
        const { code, stdout, stderr } = yield* ctmap("nat", "retries", command)
        assert.deepStrictEqual([code, stdout], [1, ""])
        assert.match(stderr, /keeps no count of port retries here: Cilium does since 1\.20/)
      }
      yield* pin(MapSpec.natRetries, MapName.natRetries("ipv4"))
      assert.match((yield* ctmap("nat", "retries", "list")).stderr, /no port has been allocated/)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          const map = yield* BpfMap.open(MapName.pinPath(root, MapName.natRetries("ipv4")))
          const value = new Uint8Array(BpfMap.valueRoom(bpf, map))
          for (let i = 0; i < value.length; i += 8) value[i] = 3
          assert.strictEqual(bpf.update(map.fd, Uint8Array.of(2, 0, 0, 0), value, Bpf.ANY), 0)
        })
      ).pipe(Effect.provide(place.layer))
      assert.match(yield* done("nat", "retries", "list"), /^FAMILY +RETRIES +ALLOCATIONS\nipv4 +2 +\d+\n$/)
      const counts = JSON.parse(yield* done("nat", "retries", "list", "-o", "json")) as Array<Record<string, unknown>>
      assert.strictEqual(counts.length, 33)
      assert.isAbove(Number(counts[2]?.["count"]), 0)
      assert.match((yield* ctmap("nat", "retries", "flush")).stderr, /the counters of ipv4 are zero now/)
      assert.match((yield* ctmap("nat", "retries", "list")).stderr, /no port has been allocated/)
      assert.strictEqual((yield* ctmap("nat", "retries", "list", "--family", "ipv6")).code, 1)
    })
  )

  const decodeRecord = Schema.decodeUnknownSync(CtJson.Record)

  it.live("watch tells of every entry that is due once, as records of the schema, and deletes nothing", () =>
    Effect.gen(function* () {
      const { done, saved } = yield* stage(pods)
      const args = ["watch", ...at, "--backlog", "--passes", "2", "--interval", "1"]
      const told = (yield* done(...args, "-o", "ndjson")).trimEnd().split("\n")
      assert.strictEqual(new Set(told).size, told.length)
      assert.strictEqual(told.length, ct(pods).length - ct(collected).length)
      for (const line of told) {
        const { event, reason, ...record } = JSON.parse(line) as Record<string, unknown>
        assert.deepStrictEqual([event, reason], ["due", "expired"])
        decodeRecord(record, { onExcessProperty: "error" })
      }
      const some = yield* done("watch", ...at, "--backlog", "--passes", "1", "--where", "udp", "--family", "ipv4")
      const expected = pods
        .map(entryOf)
        .filter((entry) => !entry.isNat && entry.family === "ipv4" && entry.proto === 17 && entry.lifetime < 5462)
      assert.strictEqual(linesOf(some).length, expected.length)
      assert.match(some, /^cilium_ct_any4_global: expired: UDP .* expires=\d+ /)
      assert.strictEqual(yield* done("watch", ...at, "--passes", "1"), "")
      assert.deepStrictEqual(yield* saved, pods)
    })
  )

  const reports: ReadonlyArray<readonly [args: ReadonlyArray<string>, header: RegExp]> = [
    [["gc", ...at, "--dry-run"], /^MAP +SEEN +WOULD DELETE +SHARE +BECAUSE +MS$/],
    [["gc", ...at], /^MAP +ENGINE +SEEN +KEPT +DELETED +REFRESHED +NAT DELETED +BECAUSE +MS$/],
    [["flush", "--yes"], /^MAP +ENGINE +SEEN +KEPT +DELETED +REFRESHED +NAT DELETED +BECAUSE +MS$/],
    [["purge", "--port", "1", "--yes"], /^MAP +ENGINE +SEEN +KEPT +DELETED +REFRESHED +NAT DELETED +BECAUSE +MS$/],
    [["nat", "flush", "--yes"], /^MAP +SEEN +IN ALIVE +IN DELETED +OUT ALIVE +OUT DELETED +REFRESHED +MS$/],
    [["nat", "flush", "--dry-run"], /^MAP +SEEN +WOULD DELETE +SHARE +MS$/],
    [["nat", "purge-orphans"], /^MAP +SEEN +IN ALIVE +IN DELETED +OUT ALIVE +OUT DELETED +REFRESHED +MS$/],
    [["nat", "purge-orphans", "--dry-run"], /^MAP +SEEN +WOULD DELETE +SHARE +MS$/]
  ]
  it.effect("every report is a table, JSON and NDJSON of the same rows", () =>
    Effect.gen(function* () {
      for (const [args, header] of reports) {
        const { done, json } = yield* stage(pods)
        const { rows } = yield* json(...args)
        const again = yield* stage(pods)
        const lines = (yield* again.done(...args, "-o", "ndjson")).trimEnd().split("\n")
        const shape = (row: Readonly<Record<string, unknown>>) =>
          Object.entries(row).map(([key, cell]) => [key, typeof cell])
        assert.deepStrictEqual(
          lines.map((line) => shape(JSON.parse(line) as Record<string, unknown>)),
          rows.map(shape)
        )
        const [first = "", ...rest] = (yield* done(...args, "-o", "table")).trimEnd().split("\n")
        assert.match(first, header)
        assert.deepStrictEqual(
          rest.map((line) => line.split(" ")[0]),
          rows.map(({ map }) => map)
        )
        assert.match((yield* done(...args, "-o", "text")).split("\n")[0] ?? "", header)
      }
    })
  )
}
