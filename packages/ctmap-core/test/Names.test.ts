import { assert, describe, it } from "@effect/vitest"
import { BpfMacros, ClusterId, MapKind, MapLimits, MapName, MapPair, MapSpec, Protocol, type Release } from "ctmap-core"
import { Vectors } from "ctmap-testing"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const message = <A>(result: Result.Result<A, { readonly message: string }>): string =>
  Result.getOrThrow(Result.flip(result)).message

describe("kinds", () => {
  it("have Cilium's numbers, and no others exist", () => {
    assert.deepStrictEqual(
      Array.from({ length: 8 }, (_, n) => MapKind.describe(MapKind.fromNumber(n)!)),
      [
        "Local IPv4 TCP CT map",
        "Local IPv6 TCP CT map",
        "Global IPv4 TCP CT map",
        "Global IPv6 TCP CT map",
        "Local IPv4 non-TCP CT map",
        "Local IPv6 non-TCP CT map",
        "Global IPv4 non-TCP CT map",
        "Global IPv6 non-TCP CT map"
      ]
    )
    assert.isUndefined(MapKind.fromNumber(-1))
    assert.isUndefined(MapKind.fromNumber(8))
  })

  it("have a macro that names family and transport", () => {
    assert.deepStrictEqual(MapKind.globals.map(MapKind.macro), [
      "CT_MAP_TCP4",
      "CT_MAP_ANY4",
      "CT_MAP_TCP6",
      "CT_MAP_ANY6"
    ])
    assert.deepStrictEqual(MapKind.locals.map(MapKind.macro), MapKind.globals.map(MapKind.macro))
  })

  it("come in list order, by family", () => {
    const names = (ipv4: boolean, ipv6: boolean) => MapKind.select("global", { ipv4, ipv6 }).map(MapName.global)
    assert.deepStrictEqual(names(true, true), [
      "cilium_ct4_global",
      "cilium_ct_any4_global",
      "cilium_ct6_global",
      "cilium_ct_any6_global"
    ])
    assert.deepStrictEqual(names(true, false), ["cilium_ct4_global", "cilium_ct_any4_global"])
    assert.deepStrictEqual(names(false, false), [])
  })

  it("have one of two protocol labels in metrics, whatever the scope", () => {
    for (const kinds of [MapKind.globals, MapKind.locals])
      assert.deepStrictEqual(kinds.map(MapKind.metricProtocol), ["TCP", "non-TCP", "TCP", "non-TCP"])
  })

  it("hold TCP in one map and everything else in the other", () => {
    assert.deepStrictEqual([0, 1, 6, 17, 58, 132, 255].map(MapKind.transportOf), [
      "any",
      "any",
      "tcp",
      "any",
      "any",
      "any",
      "any"
    ])
  })
})

describe("names", () => {
  it("of endpoints are five digits of the low 16 bits", () => {
    assert.deepStrictEqual(
      [
        MapName.local(MapKind.locals[0], 1234),
        MapName.local(MapKind.locals[3], 7),
        MapName.local(MapKind.locals[1], 65537n)
      ],
      ["cilium_ct4_01234", "cilium_ct_any6_00007", "cilium_ct_any4_00001"]
    )
  })

  it("are global for exactly four", () => {
    const all = MapKind.globals.map(MapName.global)
    assert.isTrue(all.every(MapName.isGlobal))
    for (const other of ["cilium_ct4_01234", "cilium_ct4_global_", "ilium_ct4_global", "", "cilium_snat_v4_external"])
      assert.isFalse(MapName.isGlobal(other))
  })

  const written: ReadonlyArray<readonly [string, MapName.Denoted]> = [
    ...MapKind.globals.flatMap((kind): ReadonlyArray<readonly [string, MapName.Denoted]> => [
      [MapName.global(kind), { _tag: "Global", kind }],
      [MapName.clusterOuter(kind), { _tag: "ClusterOuter", kind }],
      [MapName.clusterInner(kind, 1), { _tag: "ClusterInner", kind, clusterId: 1 }],
      [MapName.clusterInner(kind, 511), { _tag: "ClusterInner", kind, clusterId: 511 }]
    ]),
    ...MapKind.locals.map(
      (kind) => [MapName.local(kind, 42), { _tag: "Local", kind, endpointId: 42, canonical: true }] as const
    ),
    ...(["ipv4", "ipv6"] as const).flatMap((family): ReadonlyArray<readonly [string, MapName.Denoted]> => [
      [MapName.nat(family), { _tag: "Nat", family }],
      [MapName.natRetries(family), { _tag: "NatRetries", family }],
      [MapName.clusterNatOuter(family), { _tag: "ClusterNatOuter", family }],
      [MapName.clusterNatInner(family, 255), { _tag: "ClusterNatInner", family, clusterId: 255 }]
    ]),
    [MapName.SIGNALS, { _tag: "Signals" }]
  ]
  it.each(written)("%s is read back as what it was written for", (name, denoted) => {
    assert.deepStrictEqual(MapName.parse(name), denoted)
  })

  const canonical = [1, 42].flatMap((id) => MapKind.locals.map((kind) => MapName.local(kind, id)))
  const badlyNamed = MapKind.locals.flatMap((kind) =>
    [1, 42].flatMap((id) => ["", "0", "00"].map((zeros) => MapName.local(kind, id).replace(/0+[0-9]*$/, zeros + id)))
  )
  it.each([
    { endpoints: [1, 42], names: canonical, stale: [] },
    { endpoints: [42], names: canonical, stale: canonical.filter((name) => name.endsWith("_00001")) },
    { endpoints: [1, 42], names: [...canonical, ...badlyNamed], stale: badlyNamed }
  ])("say which maps are stale where endpoints are $endpoints", ({ endpoints, names, stale }) => {
    const shared = [...MapKind.globals.map(MapName.global), MapName.nat("ipv4"), MapName.SIGNALS, "cilium_ipcache"]
    const swept = [...shared, ...names].filter((name) => {
      const denoted = MapName.parse(name)
      return denoted?._tag === "Local" && !(denoted.canonical && endpoints.includes(denoted.endpointId))
    })
    assert.deepStrictEqual(swept, stale)
  })

  it("of maps that are not CT maps are these", () => {
    assert.deepStrictEqual(
      [
        MapName.SIGNALS,
        ...(["ipv4", "ipv6"] as const).flatMap((family) => [MapName.nat(family), MapName.natRetries(family)])
      ],
      [
        "cilium_signals",
        "cilium_snat_v4_external",
        "cilium_snat_v4_alloc_retries",
        "cilium_snat_v6_external",
        "cilium_snat_v6_alloc_retries"
      ]
    )
  })

  it.each([
    ["cilium_ct4_01234", "ct4"],
    ["cilium_ct4_7", "ct4"],
    ["cilium_ct_any6_00042", "ct_any6"],
    ["cilium_per_cluster_ct_tcp4_255", "per_cluster_ct_tcp4"],
    ["cilium_per_cluster_snat_v6_external_1", "per_cluster_snat_v6_external"],
    ["cilium_ct_any4_global", "ct_any4_global"],
    ["cilium_snat_v4_external", "snat_v4_external"],
    ["cilium_signals", "signals"],
    ["my_cilium_ct4_7", "my_cilium_ct4"]
  ])("%s is %s in metrics", (name, common) => {
    assert.strictEqual(MapName.common(name), common)
  })

  it.each(["/sys/fs/bpf", "/sys/fs/bpf/", "/sys/fs/bpf///"])("below %s have one path", (root) => {
    assert.strictEqual(MapName.pinPath(root, "cilium_ct4_global"), "/sys/fs/bpf/tc/globals/cilium_ct4_global")
  })

  it.each([
    "cilium_ct4_99999",
    "cilium_ct4_",
    "cilium_ct4_-1",
    "cilium_ct4_1e3",
    "cilium_per_cluster_ct_tcp4_0",
    "cilium_per_cluster_ct_tcp4_512",
    "cilium_per_cluster_ct_tcp4_007",
    "cilium_snat_v4_external_1",
    "cilium_ipcache",
    "ct4_global"
  ])("%s is none of ours", (name) => {
    assert.isUndefined(MapName.parse(name))
  })

  it.prop("no string crashes the reader", [Schema.String], ([name]) => {
    assert.isTrue(MapName.parse(name) === undefined || MapName.parse(name)?._tag !== undefined)
  })

  it("take a test prefix on outer maps, inner maps follow", () => {
    assert.strictEqual(MapName.clusterOuter(MapKind.globals[0], "test"), "test_cilium_per_cluster_ct_tcp4")
    assert.strictEqual(MapName.clusterInner(MapKind.globals[3], 128, "test"), "test_cilium_per_cluster_ct_any6_128")
    assert.strictEqual(MapName.clusterNatInner("ipv6", 3, "test"), "test_cilium_per_cluster_snat_v6_external_3")
  })

  it("of Cilium's API list are these", () => {
    assert.deepStrictEqual(
      [
        MapName.PREFIX,
        MapName.TCP4,
        MapName.TCP6,
        MapName.ANY4,
        MapName.ANY6,
        MapName.TCP4_GLOBAL,
        MapName.TCP6_GLOBAL,
        MapName.ANY4_GLOBAL,
        MapName.ANY6_GLOBAL
      ],
      [
        "cilium_ct",
        "cilium_ct4_",
        "cilium_ct6_",
        "cilium_ct_any4_",
        "cilium_ct_any6_",
        "cilium_ct4_global",
        "cilium_ct6_global",
        "cilium_ct_any4_global",
        "cilium_ct_any6_global"
      ]
    )
  })
})

describe("sizes", () => {
  it("of a kind: local fixed, global by configuration", () => {
    const all = (limits?: MapLimits.MapLimits) =>
      [...MapKind.locals, ...MapKind.globals].map((kind) => MapLimits.ctMaxEntries(kind, limits))
    assert.deepStrictEqual(all(), [64000, 64000, 64000, 64000, 524288, 262144, 524288, 262144])
    assert.deepStrictEqual(
      all({ ...MapLimits.defaults, ctTcp: 0x12345, ctAny: 0x67890 }).slice(4),
      [74565, 424080, 74565, 424080]
    )
  })

  it("pass or are refused in Cilium's words", () => {
    const check = (ctTcp: number, ctAny: number, nat: number) => MapLimits.check({ ctTcp, ctAny, nat })
    const nat = (ctTcp: number, ctAny: number, wanted: number) => Result.getOrThrow(check(ctTcp, ctAny, wanted)).nat
    assert.deepStrictEqual(
      [
        nat(20000, 18000, 2048),
        nat(2048, 4096, MapLimits.NAT_DEFAULT),
        nat(1024, 1026, MapLimits.NAT_DEFAULT),
        nat(2048, 4096, 6144),
        nat(1024, 1024, 1024),
        nat(MapLimits.MAX, MapLimits.MAX, MapLimits.MAX)
      ],
      [2048, 4096, 1366, 6144, 1024, 16777216]
    )
    assert.deepStrictEqual(
      [
        message(check(2048, 4096, 8192)),
        message(check(1023, 4096, 2048)),
        message(check(2048, Number.NaN, 2048)),
        message(check(2048, 2048.5, 2048)),
        message(check(2048, 4096, 6145)),
        message(check(1024, 1023, 2048)),
        message(check(2048, 16777217, 2048)),
        message(check(16777217, 2048, 2048)),
        message(check(2048, 4096, 1000)),
        message(check(16777216, 16777216, 16777217))
      ],
      [
        "specified NAT tables size 8192 must not exceed maximum CT table size 6144",
        "specified CT tables values 1023/4096 must exceed minimum 1024",
        "specified CT tables values 2048/NaN and NAT table size 2048 must be whole numbers",
        "specified CT tables values 2048/2048.5 and NAT table size 2048 must be whole numbers",
        "specified NAT tables size 6145 must not exceed maximum CT table size 6144",
        "specified CT tables values 1024/1023 must exceed minimum 1024",
        "specified CT tables values 2048/16777217 must not exceed maximum 16777216",
        "specified CT tables values 16777217/2048 must not exceed maximum 16777216",
        "specified NAT table size 1000 must exceed minimum 1024",
        "specified NAT tables size 16777217 must not exceed maximum 16777216"
      ]
    )
  })

  it("from a share of memory stay between floor and ceiling", () => {
    assert.deepStrictEqual(MapLimits.dynamic({ memoryBytes: 2 ** 30, ratio: 0.0025 }), {
      ctTcp: 131072,
      ctAny: 65536,
      nat: 131072
    })
    assert.deepStrictEqual(MapLimits.dynamic({ memoryBytes: 2 ** 46, ratio: 1 }), {
      ctTcp: MapLimits.MAX,
      ctAny: MapLimits.MAX,
      nat: MapLimits.MAX
    })
    const everything = 94 * (524288 + 262144 + 524288)
    assert.deepStrictEqual(MapLimits.dynamic({ memoryBytes: everything * 2, ratio: 0.5 }), MapLimits.defaults)
    assert.deepStrictEqual(MapLimits.dynamic({ memoryBytes: everything * 2, ratio: 0.5, otherBytes: everything }), {
      ctTcp: 262144,
      ctAny: 131072,
      nat: 262144
    })
  })

  it.each(Object.entries(Vectors.vectors.startingChunkSize))(
    "%s entries start with batches of %i",
    (maxEntries, batch) => {
      assert.strictEqual(MapLimits.startingBatchSize(Number(maxEntries)), batch)
    }
  )

  it("under distributed LRU are multiples of the possible CPUs, as the kernel makes them", () => {
    const spec = MapSpec.ct(MapKind.globals[0], {
      limits: { ...MapLimits.defaults, ctTcp: 1001 },
      distributedLru: { possibleCpus: 2 }
    })
    assert.deepStrictEqual([spec.maxEntries, spec.flags], [1002, 2])
    assert.strictEqual(MapLimits.roundForDistributedLru(MapLimits.MAX, 3), 16777215)
  })
})

describe("blueprints", () => {
  it("say what every map must be", () => {
    assert.deepStrictEqual(MapSpec.ct(MapKind.locals[2]), {
      type: 9,
      keySize: 38,
      valueSize: 56,
      maxEntries: 64000,
      flags: 0
    })
    assert.deepStrictEqual(MapSpec.nat("ipv4"), { type: 9, keySize: 14, valueSize: 40, maxEntries: 524288, flags: 0 })
    assert.deepStrictEqual(MapSpec.nat("ipv6"), { type: 9, keySize: 38, valueSize: 56, maxEntries: 524288, flags: 0 })
    assert.deepStrictEqual(MapSpec.clusterOuter(MapKind.globals[1], 255), {
      type: 12,
      keySize: 4,
      valueSize: 4,
      maxEntries: 256,
      flags: 0,
      inner: { type: 9, keySize: 14, valueSize: 56, maxEntries: 262144, flags: 0 }
    })
    assert.strictEqual(MapSpec.clusterNatOuter("ipv6", 511).maxEntries, 512)
    assert.deepStrictEqual(MapSpec.signals(4), { type: 4, keySize: 4, valueSize: 4, maxEntries: 4, flags: 0 })
    assert.deepStrictEqual(MapSpec.natRetries, { type: 6, keySize: 4, valueSize: 4, maxEntries: 33, flags: 0 })
  })

  it("have the sizes that are configured", () => {
    const limits = { ctTcp: 2048, ctAny: 4096, nat: 5000 }
    assert.deepStrictEqual(
      [
        ...MapKind.globals.map((kind) => MapSpec.ct(kind, { limits })),
        MapSpec.nat("ipv4", { limits }),
        MapSpec.nat("ipv6", { limits }),
        MapSpec.clusterOuter(MapKind.globals[3], 255, { limits }).inner,
        MapSpec.clusterNatOuter("ipv4", 255, { limits }).inner
      ].map((spec) => spec?.maxEntries),
      [2048, 4096, 2048, 4096, 5000, 5000, 4096, 5000]
    )
  })

  it("number map types as the kernel does", () => {
    assert.deepStrictEqual(MapSpec.mapType, {
      hash: 1,
      array: 2,
      progArray: 3,
      perfEventArray: 4,
      percpuHash: 5,
      percpuArray: 6,
      lruHash: 9,
      lruPercpuHash: 10,
      lpmTrie: 11,
      arrayOfMaps: 12,
      hashOfMaps: 13
    })
    assert.deepStrictEqual([MapSpec.NO_PREALLOC, MapSpec.NO_COMMON_LRU], [1, 2])
  })

  it("list every difference of an existing map, and none of the same", () => {
    const wanted = MapSpec.nat("ipv4")
    assert.deepStrictEqual(MapSpec.differences(wanted, wanted), [])
    assert.deepStrictEqual(
      MapSpec.differences(wanted, { type: 1, keySize: 38, valueSize: 56, maxEntries: 5, flags: 1 }).map(
        ({ property }) => property
      ),
      ["type", "keySize", "valueSize", "maxEntries", "flags"]
    )
  })
})

describe("macros", () => {
  it("of the global maps with default sizes", () => {
    assert.strictEqual(
      BpfMacros.format(),
      `#define CT_MAP_TCP4 cilium_ct4_global
#define CT_MAP_ANY4 cilium_ct_any4_global
#define CT_MAP_TCP6 cilium_ct6_global
#define CT_MAP_ANY6 cilium_ct_any6_global
#define CT_MAP_SIZE_TCP 524288
#define CT_MAP_SIZE_ANY 262144
`
    )
  })

  it("have the sizes that are configured, except an endpoint's", () => {
    const limits = { ctTcp: 2048, ctAny: 4096, nat: 5000 }
    const sizes = (options: Parameters<typeof BpfMacros.format>[0]) => BpfMacros.format(options).split("\n").slice(4)
    assert.deepStrictEqual(sizes({ limits }), ["#define CT_MAP_SIZE_TCP 2048", "#define CT_MAP_SIZE_ANY 4096", ""])
    assert.deepStrictEqual(sizes({ limits, endpointId: 7 }), [
      "#define CT_MAP_SIZE_TCP 64000",
      "#define CT_MAP_SIZE_ANY 64000",
      ""
    ])
  })

  it("of an endpoint", () => {
    assert.strictEqual(
      BpfMacros.format({ endpointId: 1234 }),
      `#define CT_MAP_TCP4 cilium_ct4_01234
#define CT_MAP_ANY4 cilium_ct_any4_01234
#define CT_MAP_TCP6 cilium_ct6_01234
#define CT_MAP_ANY6 cilium_ct_any6_01234
#define CT_MAP_SIZE_TCP 64000
#define CT_MAP_SIZE_ANY 64000
`
    )
  })
})

describe("pairs", () => {
  const maps = MapKind.globals.map((kind) => ({ kind }))
  it("are picked by family, whatever the order", () => {
    for (const family of ["ipv4", "ipv6"] as const) {
      for (const list of [maps, maps.toReversed()]) {
        const pair = Result.getOrThrow(MapPair.select(list, family))
        assert.deepStrictEqual(
          [pair.family, pair.tcp.kind, pair.any.kind],
          [family, { family, transport: "tcp", scope: "global" }, { family, transport: "any", scope: "global" }]
        )
      }
    }
  })

  it("are an error where a map is missing or there are two candidates (G1)", () => {
    assert.include(message(MapPair.select(maps.slice(0, 2), "ipv6")), "there is no ipv6 TCP map")
    assert.include(message(MapPair.select(maps.slice(0, 3), "ipv6")), "there is no ipv6 non-TCP map")
    assert.include(
      message(MapPair.select([...maps, { kind: MapKind.locals[0] }], "ipv4")),
      "2 candidates for the ipv4 TCP map"
    )
  })
})

describe("protocols", () => {
  it("have the names of their release, others are numbers", () => {
    const names = (release: Release.Release) =>
      [0, 1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 112, 132, 255].map((n) => Protocol.name(n, release)).join(" ")
    assert.strictEqual(names("1.17"), "ANY ICMP 2 4 TCP UDP 41 47 50 51 ICMPv6 112 SCTP 255")
    assert.strictEqual(names("1.20"), "ANY ICMP IGMP IPIP TCP UDP IPv6 GRE ESP AH ICMPv6 VRRP SCTP 255")
  })

  it("parse in any case, and an unknown one is quoted as it was written", () => {
    assert.deepStrictEqual(
      ["tcp", "UDP", "IcmpV6", "all", "any", "None", "gre"].map((name) => Result.getOrThrow(Protocol.fromName(name))),
      [6, 17, 58, 0, 0, 0, 47]
    )
    assert.strictEqual(message(Protocol.fromName("TPC")), "unknown protocol 'TPC'")
    assert.strictEqual(message(Protocol.fromNumber(47, "1.17")), "unknown protocol 47")
    assert.strictEqual(Result.getOrThrow(Protocol.fromNumber(47, "1.20")), 47)
  })
})

describe("cluster ids", () => {
  it("are 1 up to the maximum, refused in Cilium's words", () => {
    assert.deepStrictEqual(
      [1, 255].map((id) => Result.isSuccess(ClusterId.check(id))),
      [true, true]
    )
    assert.deepStrictEqual(
      [
        message(ClusterId.check(0)),
        message(ClusterId.check(256)),
        message(ClusterId.check(512, 511)),
        message(ClusterId.check(1.5))
      ],
      [
        "ClusterID 0 is reserved",
        "ClusterID > 255 is not supported",
        "ClusterID > 511 is not supported",
        "ClusterID 1.5 is not a whole number from 1 to 255"
      ]
    )
    assert.isTrue(Result.isSuccess(ClusterId.check(511, 511)))
    assert.strictEqual(
      message(ClusterId.checkMax(300)),
      "--max-connected-clusters=300 is invalid; supported values are [255, 511]"
    )
    assert.strictEqual(Result.getOrThrow(ClusterId.checkMax(511)), 511)
  })
})
