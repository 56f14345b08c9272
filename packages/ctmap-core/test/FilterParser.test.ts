import { assert, describe, it } from "@effect/vitest"
import * as Filter from "ctmap-core/Filter"
import * as FilterParser from "ctmap-core/FilterParser"
import * as Arbitrary from "effect/Arbitrary"
import * as IpNetwork from "effect/net/IpNetwork"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const tree = (text: string) => Result.getOrThrow(FilterParser.parse(text))
const failure = (text: string) => Result.getOrThrow(Result.flip(FilterParser.parse(text)))
const network = IpNetwork.fromStringUnsafe
const tcp: Filter.Term = { _tag: "Protocol", protocol: 6 }
const udp: Filter.Term = { _tag: "Protocol", protocol: 17 }
const icmp: Filter.Term = { _tag: "Protocol", protocol: 1 }
const { and, not, or } = Filter

describe("operators", () => {
  it.each<[string, Filter.Filter]>([
    ["tcp and udp or icmp", or(and(tcp, udp), icmp)],
    ["tcp or udp and icmp", or(tcp, and(udp, icmp))],
    ["(tcp or udp) and icmp", and(or(tcp, udp), icmp)],
    ["tcp and udp and icmp", and(and(tcp, udp), icmp)],
    ["tcp or udp or icmp", or(or(tcp, udp), icmp)],
    ["not tcp and udp", and(not(tcp), udp)],
    ["not (tcp and udp)", not(and(tcp, udp))],
    ["not not tcp", not(not(tcp))],
    ["!tcp&&!udp||icmp", or(and(not(tcp), not(udp)), icmp)],
    ["NOT Tcp AND\tUDP\nOr iCMP", or(and(not(tcp), udp), icmp)]
  ])("%j", (text, expected) => {
    assert.deepStrictEqual(tree(text), expected)
  })
})

describe("terms", () => {
  it.each<[string, Filter.Term]>([
    ["proto ipv6", { _tag: "Protocol", protocol: 41 }],
    ["ipv6", { _tag: "Family", family: "ipv6" }],
    ["src 10.1.2.3", { _tag: "Address", end: "src", networks: [network("10.1.2.3/32")] }],
    ["dst 10.1.2.3/9", { _tag: "Address", end: "dst", networks: [network("10.0.0.0/9")] }],
    ["host fd00::1", { _tag: "Address", end: "host", networks: [network("fd00::1/128")] }],
    [
      "xlate { 10.0.0.1 , fd00::/8 }",
      { _tag: "Address", end: "xlate", networks: [network("10.0.0.1/32"), network("fd00::/8")] }
    ],
    ["sport 80", { _tag: "Port", end: "sport", ranges: [{ from: 80, to: 80 }] }],
    ["dport 0-65535", { _tag: "Port", end: "dport", ranges: [{ from: 0, to: 65_535 }] }],
    [
      "port {80,8000-8100}",
      {
        _tag: "Port",
        end: "port",
        ranges: [
          { from: 80, to: 80 },
          { from: 8000, to: 8100 }
        ]
      }
    ],
    ["xport=1", { _tag: "Port", end: "xport", ranges: [{ from: 1, to: 1 }] }],
    ["natport<=1", { _tag: "PortCompare", end: "natport", op: "<=", port: 1 }],
    ["dir out", { _tag: "Direction", direction: "out" }],
    ["service", { _tag: "Direction", direction: "service" }],
    ["related", { _tag: "Related" }],
    ["flag DSRinternal", { _tag: "Flag", mask: 0x80 }],
    ["flag 0xFFFF", { _tag: "Flag", mask: 0xffff }],
    ["expired", { _tag: "Expired" }],
    ["alive", { _tag: "Alive" }],
    ["lifetime < 1h30m", { _tag: "Time", field: "lifetime", op: "<", millis: 5_400_000 }],
    ["lifetime<-1d", { _tag: "Time", field: "lifetime", op: "<", millis: -86_400_000 }],
    ["idle >= 500ms", { _tag: "Time", field: "idle", op: ">=", millis: 500 }],
    ["age != 90", { _tag: "Time", field: "age", op: "!=", millis: 90_000 }],
    ["packets > 10K", { _tag: "Integer", field: "packets", op: ">", value: 10_000n }],
    ["bytes = 2Gi", { _tag: "Integer", field: "bytes", op: "=", value: 2n << 30n }],
    ["identity 4294967295", { _tag: "Integer", field: "identity", op: "=", value: 0xffff_ffffn }],
    ["revnat > 7", { _tag: "Integer", field: "revnat", op: ">", value: 7n }],
    ["backend 18446744073709551615", { _tag: "Integer", field: "backend", op: "=", value: (1n << 64n) - 1n }],
    ["ifindex == 3", { _tag: "Integer", field: "ifindex", op: "=", value: 3n }],
    ["needs-ct", { _tag: "NeedsCt" }]
  ])("%s", (text, expected) => {
    assert.deepStrictEqual(tree(text), expected)
  })
})

describe("errors", () => {
  it.each<[text: string, column: number, problem: string]>([
    ["", 1, "a filter is empty, it needs at least one term such as tcp or dport 443"],
    ["  \t ", 5, "a filter is empty, it needs at least one term such as tcp or dport 443"],
    ["tpc", 1, 'unknown word "tpc", did you mean "tcp"?'],
    ["tcp and dst-port 443", 9, 'unknown word "dst-port", did you mean "dport"?'],
    ["tcp and source 10.0.0.1", 9, 'unknown word "source", did you mean "src"?'],
    ["in", 1, 'unknown word "in", did you mean "dir in"?'],
    ["xyzzy", 1, 'unknown word "xyzzy"'],
    ["tcp and", 8, "the filter ends where a term should follow"],
    ["not", 4, "the filter ends where a term should follow"],
    ["and tcp", 1, 'a term is missing before "and"'],
    ["tcp or or udp", 8, 'a term is missing before "or"'],
    ["()", 2, 'a term is missing before ")"'],
    ["tcp & udp", 5, '"&" cannot follow a complete term'],
    ["tcp udp", 5, '"udp" follows a complete term: join terms with "and" or "or"'],
    ["tcp nad udp", 5, '"nad" follows a complete term: join terms with "and" or "or", did you mean "and"?'],
    ["tcp)", 4, 'no "(" is open here'],
    ["(tcp or udp", 12, 'the "(" at column 1 is not closed'],
    ["(tcp udp)", 6, '"udp" follows a complete term: join terms with "and" or "or"'],
    ["> 5", 1, 'a comparison needs a field before it, found ">"'],
    ["{80}", 1, '"{" cannot start a term'],
    ["src", 4, '"src" needs an address, found the end of the filter'],
    ["src != 10.0.0.1", 5, 'addresses are not compared, write "src ADDRESS" or "not src ADDRESS"'],
    [
      "src 10.0.0.1:80",
      5,
      '"10.0.0.1:80" is not an address or network, write an address and a port as two terms: "src 10.0.0.1 and port 80"'
    ],
    [
      "src 10.0.0.0/33",
      5,
      '"10.0.0.0/33" is not an address or network: prefix length must be an integer from 0 through 32'
    ],
    ["src 10.0.0", 5, '"10.0.0" is not an address or network: expected exactly four decimal octets'],
    ["src {}", 6, "a set has at least one member"],
    ["src {10.0.0.1 10.0.0.2}", 15, 'members of a set are separated by commas, found "10.0.0.2"'],
    ["src {10.0.0.1,", 15, '"src" needs an address, found the end of the filter'],
    ["src {10.0.0.1", 14, 'the "{" at column 5 is not closed'],
    ["dport", 6, '"dport" needs a port, found the end of the filter'],
    ["dport 65536", 7, "port 65536 is above 65535"],
    ["dport 80-70000", 10, "port 70000 is above 65535"],
    ["dport 90-80", 7, "the range 90-80 is empty, write 80-90"],
    ["dport http", 7, '"http" is not a port or a range of ports'],
    ["dport 80,443", 9, "a list of values is written as a set: {80, 443}"],
    ["dport 80 - 90", 10, "a range is written without blanks: 8000-8100"],
    ["dport != {80}", 10, 'a set is not compared, write "dport {…}" or "not dport {…}"'],
    ["dport < 80-90", 9, '"80-90" is not a port'],
    ["dport > 70000", 9, "port 70000 is above 65535"],
    ["proto 256", 7, "protocol 256 is above 255"],
    ["proto tpc", 7, 'unknown protocol "tpc", did you mean "tcp"?'],
    ["dir up", 5, '"dir" needs a direction, found "up"'],
    ["flag SeenNonSin", 6, 'unknown flag "SeenNonSin", did you mean "SeenNonSyn"?'],
    ["flag 0x0", 6, "mask 0x0 is not 0x0001-0xffff"],
    ["flag 0x10000", 6, "mask 0x10000 is not 0x0001-0xffff"],
    ["lifetime 60s", 10, '"lifetime" needs a comparison before its value, found "60s"'],
    ["lifetime < 30m1h", 12, '"30m1h" is not a duration: whole numbers with the units d, h, m, s, ms, longest first'],
    ["lifetime < 1.5h", 12, '"1.5h" is not a duration: whole numbers with the units d, h, m, s, ms, longest first'],
    ["lifetime < -", 12, '"-" is not a duration: whole numbers with the units d, h, m, s, ms, longest first'],
    ["idle > 9007199254740992ms", 8, '"9007199254740992ms" is too long a time'],
    ["packets 5", 9, '"packets" needs a comparison before its value, found "5"'],
    ["packets > 5Ti", 11, '"5Ti" is not a whole number with an optional suffix k, M, G, Ki, Mi or Gi'],
    [
      "bytes > 18446744073709551616",
      9,
      '18446744073709551616 is above 18446744073709551615, the largest that "bytes" can be'
    ],
    ["identity 1k", 10, '"1k" is not a whole number'],
    ["identity 4294967296", 10, '4294967296 is above 4294967295, the largest that "identity" can be'],
    ["revnat > 65536", 10, '65536 is above 65535, the largest that "revnat" can be'],
    ["😀", 1, 'unknown word "😀"'],
    ["tcp and 😀😀 or", 9, 'unknown word "😀😀"'],
    ["src 😀 or xyzzy", 5, '"😀" is not an address or network: expected exactly four decimal octets']
  ])("%j", (text, column, problem) => {
    const error = failure(text)
    assert.deepStrictEqual([error.column, error.problem], [column, problem])
    assert.strictEqual(error.input, text)
  })

  it("says what is wrong, shows where, and lists what is allowed", () => {
    assert.strictEqual(
      failure("tcp and flag Finished or udp").message,
      [
        'column 14: unknown flag "Finished"',
        "  tcp and flag Finished or udp",
        "               ^",
        "expected: RxClosing, TxClosing, Nat64, LBLoopback, SeenNonSyn, NodePort, ProxyRedirect, DSRInternal,",
        "          FromL7LB, FromTunnel, a mask such as 0x0011"
      ].join("\n")
    )
  })

  it("lists every word where a term is due", () => {
    const { expected, found } = failure("tcp and foo")
    assert.strictEqual(found, "foo")
    assert.includeMembers([...expected], ["not", "(", "vrrp", "src", "dport", "needs-ct", "natport", "idle"])
  })

  it("counts characters, so the caret stands under the word after wide text and control characters", () => {
    const [, shown = "", caret = ""] = failure("\u001b[31m\ttcp and foo").message.split("\n")
    assert.strictEqual(shown, "  \uFFFD[31m tcp and foo")
    assert.strictEqual(caret.indexOf("^"), 3 - 1)
    const multiline = failure("tcp\nand foo").message.split("\n")
    assert.strictEqual(multiline[1], "  tcp and foo")
    assert.strictEqual(multiline[2], "          ^")
  })

  it("shows a window of a long filter", () => {
    const text = `${"tcp or ".repeat(2000)}foo${" or tcp".repeat(2000)}`
    const error = failure(text)
    assert.strictEqual(error.column, 14_001)
    const [, shown = "", caret = ""] = error.message.split("\n")
    assert.isBelow(shown.length, 110)
    assert.strictEqual(shown.slice(caret.indexOf("^")).slice(0, 3), "foo")
  })

  it("refuses to nest deeper than 200", () => {
    const nested = (depth: number) => `${"(".repeat(depth)}tcp${")".repeat(depth)}`
    assert.deepStrictEqual(tree(nested(200)), tcp)
    assert.strictEqual(failure(nested(201)).problem, "parentheses and negations are nested deeper than 200")
    assert.strictEqual(failure(nested(201)).column, 202)
    assert.strictEqual(failure(`${"not ".repeat(201)}tcp`).column, 805)
    assert.strictEqual(failure("(".repeat(60_000)).column, 202)
  })

  it("refuses more than 64 KiB", () => {
    assert.isTrue(Result.isSuccess(FilterParser.parse("tcp".padEnd(65_536))))
    assert.strictEqual(
      failure("tcp".padEnd(65_537)).problem,
      "a filter has at most 65536 characters, this one has 65537"
    )
  })

  it("numbers of thousands of digits are errors that stay short", () => {
    for (const prefix of ["dport ", "proto ", "packets > ", "identity ", "lifetime < ", "flag 0x1", "flag 1"]) {
      assert.isBelow(failure(prefix + "9".repeat(60_000)).problem.length, 200)
    }
  })

  it("is the message of a schema error", () => {
    assert.throws(() => Schema.decodeUnknownSync(FilterParser.FromString)("tcp and"), /the filter ends where/)
  })
})

describe("fuzz", () => {
  const holds = (text: string) => {
    const parsed = FilterParser.parse(text)
    if (Result.isSuccess(parsed)) return
    const { failure: error } = parsed
    assert.instanceOf(error, Filter.FilterSyntaxError)
    assert.isAtLeast(error.column, 1)
    assert.isAtMost(error.column, Array.from(text).length + 1)
    assert.isAtLeast(error.message.split("\n").length, 3)
  }

  it.prop("any string parses or is a syntax error", [Schema.String], ([text]) => holds(text), {
    arbitrary: { runs: 3000 }
  })

  const pieces = (
    "tcp udp proto ipv4 ipv6 src dst host xlate sport dport port xport natport dir in out service related flag expired " +
    "alive lifetime idle age packets bytes identity revnat backend ifindex needs-ct and or not && || ! ( ) { } , < <= > " +
    ">= = == != & | - 80 80-90 90-80 70000 10.0.0.1 10.0.0.0/8 fd00::/8 ::1/129 60s 1h30m -5m 10k 4Mi 0x10 SeenNonSyn " +
    "6 any \u0000 \ud800 😀"
  ).split(" ")
  const soup = Arbitrary.map(Arbitrary.array(Arbitrary.schema(Schema.Literals([...pieces, " "]))), (words) =>
    words.join(words.length % 2 === 0 ? " " : "")
  )

  it.prop("any soup of tokens parses or is a syntax error", [soup], ([text]) => holds(text), {
    arbitrary: { runs: 5000 }
  })

  it.prop(
    "a filter with one character lost or doubled parses or is a syntax error",
    [Schema.Natural],
    ([seed]) => {
      const text =
        "not (tcp and dport {80, 443}) or src 10.0.0.0/8 and lifetime < 1h30m && flag 0x0011 or packets > 4Mi"
      const at = seed % text.length
      holds(text.slice(0, at) + text.slice(at + 1))
      holds(text.slice(0, at) + text.charAt(at) + text.slice(at))
      holds(text.slice(0, at))
    },
    { arbitrary: { runs: 500 } }
  )
})

describe("a filter in a schema", () => {
  it("is a filter in every part, or an error, however deep it is", () => {
    const encode = Schema.encodeUnknownResult(FilterParser.FromString)
    for (const bogus of [
      { _tag: "Bogus" },
      { _tag: "Not" },
      Filter.not({ _tag: "Protocol" } as Filter.Filter),
      null,
      6
    ]) {
      assert.isTrue(Result.isFailure(encode(bogus)), JSON.stringify(bogus))
    }
    const chain = Array.from({ length: 9000 }, () => "tcp").join(" or ")
    const decoded = Result.getOrThrow(Schema.decodeUnknownResult(FilterParser.FromString)(chain))
    assert.isTrue(Filter.isFilter(decoded))
    assert.strictEqual(Result.getOrThrow(encode(decoded)), chain)
  })
})
