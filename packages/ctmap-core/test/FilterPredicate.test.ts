import { assert, describe, it } from "@effect/vitest"
import * as CtColumns from "ctmap-core/CtColumns"
import * as CtEntry from "ctmap-core/CtEntry"
import * as CtKey from "ctmap-core/CtKey"
import * as Filter from "ctmap-core/Filter"
import * as FilterParser from "ctmap-core/FilterParser"
import * as FilterPredicate from "ctmap-core/FilterPredicate"
import * as NatEntry from "ctmap-core/NatEntry"
import * as Rows from "ctmap-core/Rows"
import { Recorded } from "ctmap-testing"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import {
  type Batch,
  batchOf,
  combined,
  type Context,
  contexts,
  ctHolds,
  ctRows,
  ctSelected,
  ctTermNear,
  flattened,
  indicesWhere,
  natHolds,
  natRows,
  natSelected,
  natTermNear,
  pick,
  random,
  supported
} from "./filterOracle.ts"

const parse = (text: string) => Result.getOrThrow(FilterParser.parse(text))
const seed = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_ffff }))

const v4: Context = { family: "ipv4", release: "1.17", hertz: 256, now: 5461, secondsPerUnit: 1 }
const v6: Context = { ...v4, family: "ipv6" }
const v4in120: Context = { ...v4, release: "1.20" }
const ip = NetAddress.ipFromStringUnsafe

type EntryFields = Partial<Omit<CtEntry.CtEntry117, "release"> & Omit<CtEntry.CtEntry120, "release">>

/** One CT row from its true ends, encoded by the typed codecs. */
const ctRow = (
  context: Context,
  options: {
    readonly source: readonly [address: string, port: number]
    readonly destination: readonly [address: string, port: number]
    readonly flags: number
    readonly nexthdr?: number
    readonly entry?: EntryFields
  }
): Batch => {
  const [source, destination] = [options.source, options.destination]
  const service = (options.flags & 4) !== 0
  const key = {
    daddr: ip((service ? destination : source)[0]),
    saddr: ip((service ? source : destination)[0]),
    dport: (service ? source : destination)[1],
    sport: (service ? destination : source)[1],
    nexthdr: options.nexthdr ?? 6,
    flags: options.flags
  }
  const keys = CtKey.toBytes(
    context.family === "ipv4" ? new CtKey.CtKey4(key as CtKey.CtKey4) : new CtKey.CtKey6(key as CtKey.CtKey6)
  )
  const zero = CtEntry.zero(context.release)
  const values = CtEntry.toBytes(
    zero.release === "1.17"
      ? new CtEntry.CtEntry117(Object.assign({}, zero, options.entry))
      : new CtEntry.CtEntry120(Object.assign({}, zero, options.entry))
  )
  return oneRow(keys, values)
}

const oneRow = (keys: Uint8Array, values: Uint8Array): Batch => ({
  rows: Rows.separate(keys, values, { keySize: keys.length, valueSize: values.length, count: 1 }),
  keys,
  values,
  keySize: keys.length,
  valueSize: values.length
})

const egress = ctRow(v4, {
  source: ["10.0.1.99", 34_520],
  destination: ["1.1.1.1", 80],
  flags: 0,
  entry: {
    packets: 1000n,
    bytes: (1n << 63n) + 1n,
    lifetime: 5521,
    flags: 0x0211,
    revNat: 7,
    ifindex: 3,
    sourceSecurityId: 1001,
    backendId: 9n,
    lastTxReport: 5401,
    lastRxReport: 5301
  }
})
const ingress = ctRow(v4, {
  source: ["192.0.2.7", 40_000],
  destination: ["10.0.1.99", 53],
  flags: 3,
  nexthdr: 17,
  entry: { lifetime: 5460 }
})
const service = { source: ["10.0.1.99", 50_000], destination: ["10.96.0.1", 443], flags: 4 } as const
const service117 = ctRow(v4, { ...service, entry: { backendId: 5n, lifetime: 5461 } })
const service120 = ctRow(v4in120, { ...service, entry: { union1: 5n, natPort: 8080 } })
const natted120 = ctRow(v4in120, { ...service, flags: 0, entry: { union1: 5n, natPort: 61_000 } })
const egress6 = ctRow(v6, { source: ["fd00::1", 40_000], destination: ["2001:db8::5", 443], flags: 0 })
const ingress6 = ctRow(v6, { source: ["2001:db8:ffff::1", 9], destination: ["fd00::1", 22], flags: 1 })
const service6 = ctRow(v6, { source: ["fd00::1", 50_000], destination: ["fd96::1", 53], flags: 4, nexthdr: 17 })
const mapped6 = ctRow(v6, { source: ["::ffff:10.0.1.99", 1], destination: ["::1", 2], flags: 0 })

describe("CT terms", () => {
  it.each<[name: string, matching: string, other: string, Batch, Context]>([
    ["egress", "tcp", "udp", egress, v4],
    ["egress", "proto 6", "proto any", egress, v4],
    ["ingress", "udp", "tcp", ingress, v4],
    ["egress", "ipv4", "ipv6", egress, v4],
    ["egress6", "ipv6", "ipv4", egress6, v6],
    ["egress6", "tcp", "proto ipv6", egress6, v6],
    ["egress", "src 10.0.1.99", "src 1.1.1.1", egress, v4],
    ["egress", "dst 1.1.1.0/31", "dst 10.0.0.0/8", egress, v4],
    ["ingress", "src 192.0.2.0/24", "src 10.0.1.99", ingress, v4],
    ["ingress", "dst 10.0.1.99", "dst 192.0.2.7", ingress, v4],
    ["service", "src 10.0.1.99 and dst 10.96.0.1", "src 10.96.0.1 or dst 10.0.1.99", service117, v4],
    ["egress", "host 1.1.1.1 and host 10.0.1.99", "host 1.1.1.2", egress, v4],
    ["egress", "src {10.0.1.98, 10.0.1.99}", "src {10.0.1.98, 10.0.1.100, fd00::/8}", egress, v4],
    ["egress", "src 0.0.0.0/0", "src ::/0", egress, v4],
    ["egress", "src {::/0, 0.0.0.0/0}", "src ::ffff:10.0.1.99", egress, v4],
    ["egress6", "src fd00::/8 and dst 2001:db8::/32", "dst fd00::/8", egress6, v6],
    ["egress6", "dst 2001:db8::5", "dst 2001:db8::4", egress6, v6],
    ["egress6", "dst 2001:db8::4/127", "dst 2001:db8::6/127", egress6, v6],
    ["egress6", "dst 2001:db8::/48", "dst 2001:db8:1::/48", egress6, v6],
    ["egress6", "dst 2001:db8::/96", "dst 2001:db8:0:0:1::/96", egress6, v6],
    ["egress6", "src {::1, fd00::1, fe80::/10}", "src {::1, fd00::2, fe80::/10, 0.0.0.0/0}", egress6, v6],
    ["egress6", "src ::/0", "src 0.0.0.0/0", egress6, v6],
    ["ingress6", "src 2001:db8::/32 and dport 22", "dst 2001:db8::/32", ingress6, v6],
    ["service6", "src fd00::1 and sport 50000 and dport 53", "src fd96::1 or dport 50000", service6, v6],
    ["mapped6", "src ::ffff:10.0.1.99", "src 10.0.1.99", mapped6, v6],
    ["egress", "sport 34520 and dport 80", "sport 80", egress, v4],
    ["service", "sport 50000 and dport 443", "dport 50000", service117, v4],
    ["egress", "port 80 and port 34520", "port 81", egress, v4],
    ["egress", "port != 81", "port != 80", egress, v4],
    ["egress", "dport < 81", "dport < 80", egress, v4],
    ["egress", "dport <= 80 and dport >= 80", "dport > 80", egress, v4],
    ["egress", "dport 79-81", "dport 81-90", egress, v4],
    ["egress", "dport {1, 80, 90-99}", "dport {79, 81-90}", egress, v4],
    ["egress", "sport >= 0 and sport <= 65535", "sport < 0 or sport > 65535", egress, v4],
    ["egress", "dir out", "dir in", egress, v4],
    ["ingress", "dir in", "dir out", ingress, v4],
    ["service", "service", "dir in or dir out", service117, v4],
    ["egress", "not service", "service", egress, v4],
    ["ingress", "related", "not related", ingress, v4],
    ["egress", "not related", "related", egress, v4],
    ["egress", "flag SeenNonSyn", "flag TxClosing", egress, v4],
    ["egress", "flag 0x0211", "flag 0x0213", egress, v4],
    ["ingress", "expired", "alive", ingress, v4],
    ["service, at its last second", "alive", "expired", service117, v4],
    ["egress", "lifetime = 60s and lifetime <= 1m", "lifetime < 60s or lifetime > 60s", egress, v4],
    ["egress", "lifetime > 59999ms and lifetime < 60001ms", "lifetime = 60001ms", egress, v4],
    ["ingress", "lifetime < 0 and lifetime = -1s", "lifetime >= 0", ingress, v4],
    ["egress", "idle = 1m", "idle > 1m", egress, v4],
    ["never reported", "idle = 5461", "idle < 1h", ingress, v4],
    ["egress", "packets > 999 and packets <= 1k", "packets > 1000", egress, v4],
    ["egress", "bytes = 9223372036854775809", "bytes = 9223372036854775808", egress, v4],
    ["egress", "bytes > 9223372036854775808", "bytes > 9223372036854775809", egress, v4],
    ["egress", "identity 1001", "identity != 1001", egress, v4],
    ["egress", "identity > 1000", "identity < 1001", egress, v4],
    ["egress", "revnat 7", "revnat 1792", egress, v4],
    ["egress", "ifindex 3", "ifindex 768", egress, v4],
    ["egress in 1.17", "backend 9", "backend 5", egress, v4],
    ["service in 1.17", "backend 5", "backend 4", service117, v4],
    ["service in 1.20", "backend 5", "backend 4", service120, v4in120],
    ["not a service in 1.20", "not backend 5", "backend 5 or backend != 5 or backend >= 0", natted120, v4in120],
    ["1.20", "natport 61000", "natport < 61000", natted120, v4in120]
  ])("%s: %s, and not %s", (_, matching, other, rows, context) => {
    assert.deepStrictEqual(ctSelected(parse(matching), rows, context), [0])
    assert.deepStrictEqual(ctSelected(parse(other), rows, context), [])
  })
})

const natRow = (context: Context, keyHex: string, entry: Partial<NatEntry.NatEntry4>): Batch => {
  const keys = Uint8Array.from(Buffer.from(keyHex, "hex"))
  const zero = NatEntry.zero(context.family)
  const values = NatEntry.toBytes(
    zero.family === "ipv4"
      ? new NatEntry.NatEntry4(Object.assign({}, zero, entry))
      : new NatEntry.NatEntry6(Object.assign({}, zero, entry, { address: ip("fd00::9") as NetAddress.Ipv6Address }))
  )
  return oneRow(keys, values)
}
const original = natRow(v4, "010101010a000163005086d80600", {
  created: 5400n,
  address: ip("192.0.2.1") as NetAddress.Ipv4Address,
  port: 61_000
})
const reverse = natRow(v4, "c000020101010101ee4800501107", { created: 1n << 32n, needsCt: 1n })
const original6 = natRow(v6, "20010db8000000000000000000000005fd00000000000000000000000000000100359c401100", {})

describe("NAT terms", () => {
  it.each<[name: string, matching: string, other: string, Batch, Context]>([
    ["original", "tcp and ipv4", "udp or ipv6", original, v4],
    ["original", "src 10.0.1.99 and dst 1.1.1.1", "src 1.1.1.1", original, v4],
    ["original", "sport 34520 and dport 80", "sport 80", original, v4],
    ["reverse", "src 1.1.1.1 and sport 80", "dst 1.1.1.1", reverse, v4],
    ["reverse, service bit", "dst 192.0.2.1 and dport 61000", "src 192.0.2.1 or sport 61000", reverse, v4],
    ["original", "host 1.1.1.1 and port 80", "host 192.0.2.1 or port 61000", original, v4],
    ["original", "xlate 192.0.2.0/24 and xport 61000", "xlate 10.0.1.99", original, v4],
    ["original", "xport 60000-61000 and xport != 60000", "xport < 61000", original, v4],
    ["original", "dir out and not service", "dir in or service", original, v4],
    ["reverse", "dir in and related and service", "dir out", reverse, v4],
    ["original", "age = 61s and age > 1m", "age < 1m", original, v4],
    ["created beyond 32 bits", "age < 0", "age >= 0", reverse, v4],
    ["original", "not needs-ct", "needs-ct", original, v4],
    ["reverse", "needs-ct", "not needs-ct", reverse, v4],
    ["original6", "src fd00::1 and dst 2001:db8::5 and xlate fd00::9", "xlate fd00::1", original6, v6]
  ])("%s: %s, and not %s", (_, matching, other, rows, context) => {
    assert.deepStrictEqual(natSelected(parse(matching), rows, context), [0])
    assert.deepStrictEqual(natSelected(parse(other), rows, context), [])
  })
})

describe("terms without a meaning", () => {
  const ctError = (text: string, context: FilterPredicate.FilterContext) =>
    Result.getOrThrow(Result.flip(FilterPredicate.compileCt(parse(text), context)))
  const natError = (text: string, context: FilterPredicate.FilterContext) =>
    Result.getOrThrow(Result.flip(FilterPredicate.compileNat(parse(text), context)))

  it.each(["xlate 10.0.0.1", "xport 1", "xport != 1", "age > 1m", "needs-ct", "natport 1"])("CT: %s", (text) => {
    const error = ctError(`tcp or not (udp and ${text})`, v4)
    assert.instanceOf(error, Filter.FilterUnsupported)
    assert.strictEqual(error.term, text)
    assert.strictEqual(error.table, "ct")
  })

  it.each([
    "flag NodePort",
    "expired",
    "alive",
    "lifetime < 1m",
    "idle < 1m",
    "packets > 5",
    "bytes > 5",
    "identity 5",
    "revnat 5",
    "backend 5",
    "ifindex 5",
    "natport 5"
  ])("NAT: %s", (text) => {
    const error = natError(`tcp or not (udp and ${text})`, v4)
    assert.strictEqual(error.term, text)
    assert.match(error.message, /NAT tables know .*xlate, xport, age, needs-ct/)
  })

  it("is an error even where the term could not matter", () => {
    assert.strictEqual(natError("ipv6 and packets > 5", v4).term, "packets > 5")
  })

  it("names the release that has the field", () => {
    assert.match(ctError("ifindex 1", v4in120).message, /release 1\.20 have no interface index, only those of 1\.17/)
    assert.match(ctError("natport 1", v4).message, /release 1\.17 have no NAT port, only those of 1\.20/)
  })

  it("says how to supply the clock", () => {
    const bare = { family: "ipv4", release: "1.17" } as const
    assert.strictEqual(
      ctError("tcp and expired", bare).message,
      'the filter term "expired" cannot be used on a CT table: it needs the clock of the datapath, and none was given (`now`, in clock units)'
    )
    assert.match(ctError("lifetime < 1m", { ...bare, now: 1 }).message, /`secondsPerUnit`\): 1 where it counts seconds/)
    assert.match(natError("age < 1m", { ...bare, now: 1 }).message, /secondsPerUnit/)
    assert.isTrue(Result.isSuccess(FilterPredicate.compileCt(parse("expired"), { ...bare, now: 0 })))
  })

  it.each([-1, 0.5, Number.NaN, 2 ** 32])("refuses a clock that reads %s", (now) => {
    assert.match(ctError("alive", { ...v4, now }).message, /not an unsigned 32-bit number/)
  })

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("refuses a clock unit of %s seconds", (secondsPerUnit) => {
    assert.match(ctError("idle > 1m", { ...v4, secondsPerUnit }).message, /is not a span of time/)
  })

  it("refuses trees nested too deeply to evaluate, and takes chains of any length", () => {
    let deep: Filter.Filter = parse("tcp")
    for (let i = 0; i < 5000; i++) deep = Filter.not(deep)
    assert.isTrue(Result.isFailure(FilterPredicate.compileCt(deep, v4)))
    let right: Filter.Filter = parse("tcp")
    for (let i = 0; i < 50_000; i++) right = Filter.and(parse("ipv4 or tcp"), right)
    assert.deepStrictEqual(ctSelected(right, egress, v4), [0])
    assert.deepStrictEqual(ctSelected(parse(Array.from({ length: 6000 }, () => "udp").join(" or ")), egress, v4), [])
  })
})

describe("selecting", () => {
  const tcp = Result.getOrThrow(FilterPredicate.compileCt(parse("tcp"), v4))

  it("refuses a batch of the other family and a list without room", () => {
    const columns = new CtColumns.CtColumns(v6).bind(egress6.rows)
    assert.throws(() => FilterPredicate.select(tcp, columns, new Uint32Array(1)), TypeError)
    assert.throws(() => FilterPredicate.count(tcp, columns), TypeError)
    const own = new CtColumns.CtColumns(v4).bind(egress.rows)
    assert.throws(() => FilterPredicate.select(tcp, own, new Uint32Array(0)), RangeError)
    assert.strictEqual(FilterPredicate.count(tcp, own), 1)
  })

  it("takes a predicate of the caller's own", () => {
    const own = new CtColumns.CtColumns(v4).bind(egress.rows)
    const busy = (columns: CtColumns.CtColumns, row: number) => columns.packets(row) > 10
    assert.strictEqual(
      FilterPredicate.count((columns, row) => tcp(columns, row) && busy(columns, row), own),
      1
    )
  })
})

describe("recorded tables", () => {
  const batchIn = (table: Recorded.Table): Batch => ({ ...table, rows: Rows.separate(table.keys, table.values, table) })
  const contextOf = (map: string): Context => (/v?6_/.test(map) ? v6 : v4)
  const before = Recorded.tables("pods-ktime", "before")
  const ctMaps = [...before.keys()].filter((map) => map.includes("_ct"))
  const natMaps = [...before.keys()].filter((map) => map.includes("snat"))

  it.each(ctMaps)("%s: as many expired entries as Cilium's own collector deleted", (map) => {
    const table = before.get(map) ?? assert.fail(map)
    const left = Recorded.tables("pods-ktime", "after-gc").get(map)?.count ?? 0
    const context = { ...contextOf(map), now: 5462 }
    assert.strictEqual(ctSelected(parse("expired"), batchIn(table), context).length, table.count - left)
    assert.strictEqual(ctSelected(parse("alive"), batchIn(table), context).length, left)
  })

  const shared = ["tcp", "udp or icmp or icmpv6", "dir in", "dir out and not related", "service", "related", "dport 53"]
  const ctFilters = [
    ...shared,
    "src 10.0.0.0/8 and dport {80, 443, 8080}",
    "dst {10.0.0.0/8, fd00::/8} and expired",
    "flag SeenNonSyn and not flag RxClosing",
    "lifetime < 60s or lifetime > 5h",
    "idle > 10s and packets > 5",
    "revnat > 0 and dir out",
    "identity >= 1 and bytes < 4Ki"
  ]
  it.each(ctMaps.flatMap((map) => ctFilters.map((text) => [map, text] as const)))("%s: %s", (map, text) => {
    const [rows, context, filter] = [batchIn(before.get(map) ?? assert.fail(map)), contextOf(map), parse(text)]
    const expected = indicesWhere(ctRows(rows, context).map((row) => ctHolds(filter, row.key, row.entry, context)))
    assert.deepStrictEqual(ctSelected(filter, rows, context), expected)
  })

  const natFilters = [...shared, "xport >= 32768", "xlate {10.0.0.0/8, fd00::/8}", "age < 1m", "needs-ct"]
  it.each(natMaps.flatMap((map) => natFilters.map((text) => [map, text] as const)))("%s: %s", (map, text) => {
    const [rows, context, filter] = [batchIn(before.get(map) ?? assert.fail(map)), contextOf(map), parse(text)]
    const expected = indicesWhere(natRows(rows, context).map((row) => natHolds(filter, row.key, row.entry, context)))
    assert.deepStrictEqual(natSelected(filter, rows, context), expected)
  })
})

describe("the compiled predicate agrees with the oracle", () => {
  it.prop(
    "CT: filters near the rows, any bytes",
    [seed],
    ([start]) => {
      const draw = random(start)
      const context = pick(draw, contexts)
      const batch = batchOf(draw, context.family, CtEntry.SIZE, 24)
      const rows = ctRows(batch, context)
      for (let n = 0; n < 10; n++) {
        const { key, entry } = pick(draw, rows)
        const filter = combined(draw, () => ctTermNear(draw, key, entry, context), draw(4))
        const expected = indicesWhere(rows.map((row) => ctHolds(filter, row.key, row.entry, context)))
        assert.deepStrictEqual(ctSelected(filter, batch, context), expected)
      }
    },
    { arbitrary: { runs: 1500 } }
  )

  it.prop(
    "NAT: filters near the rows, any bytes",
    [seed],
    ([start]) => {
      const draw = random(start)
      const context = pick(draw, contexts)
      const batch = batchOf(draw, context.family, NatEntry.shape(context.family).size, 24)
      const rows = natRows(batch, context)
      for (let n = 0; n < 10; n++) {
        const { key, entry } = pick(draw, rows)
        const filter = combined(draw, () => natTermNear(draw, key, entry, context), draw(4))
        const expected = indicesWhere(rows.map((row) => natHolds(filter, row.key, row.entry, context)))
        assert.deepStrictEqual(natSelected(filter, batch, context), expected)
      }
    },
    { arbitrary: { runs: 800 } }
  )

  it.prop(
    "any filter: compiles exactly when every term has a meaning, and then agrees",
    [Filter.Filter, seed],
    ([filter, start]) => {
      const draw = random(start)
      const context = pick(draw, contexts)
      const ct = FilterPredicate.compileCt(filter, context)
      assert.strictEqual(Result.isSuccess(ct), supported(flattened(filter), "ct", context.release))
      if (Result.isSuccess(ct)) {
        const batch = batchOf(draw, context.family, CtEntry.SIZE, 12)
        const expected = ctRows(batch, context).map((row) => ctHolds(filter, row.key, row.entry, context))
        assert.deepStrictEqual(ctSelected(filter, batch, context), indicesWhere(expected))
      }
      const nat = FilterPredicate.compileNat(filter, context)
      assert.strictEqual(Result.isSuccess(nat), supported(flattened(filter), "nat", context.release))
      if (Result.isSuccess(nat)) {
        const batch = batchOf(draw, context.family, NatEntry.shape(context.family).size, 12)
        const expected = natRows(batch, context).map((row) => natHolds(filter, row.key, row.entry, context))
        assert.deepStrictEqual(natSelected(filter, batch, context), indicesWhere(expected))
      }
    },
    { arbitrary: { runs: 2000 } }
  )
})
