import { assert, describe, it } from "@effect/vitest"
import * as Filter from "ctmap-core/Filter"
import * as FilterParser from "ctmap-core/FilterParser"
import * as FilterPrinter from "ctmap-core/FilterPrinter"
import * as Equal from "effect/Equal"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const canonical = (text: string) => FilterPrinter.print(Result.getOrThrow(FilterParser.parse(text)))

describe("canonical text", () => {
  it.each([
    ["TCP", "tcp"],
    ["proto TCP", "tcp"],
    ["proto 6", "tcp"],
    ["proto 0", "proto any"],
    ["proto all", "proto any"],
    ["proto 41", "proto ipv6"],
    ["proto 112", "vrrp"],
    ["proto 200", "proto 200"],
    ["IPv6", "ipv6"],
    ["src 10.1.2.3/8", "src 10.0.0.0/8"],
    ["src 10.1.2.3/32", "src 10.1.2.3"],
    ["dst 2001:DB8:0:0::1/128", "dst 2001:db8::1"],
    ["host ::ffff:10.0.0.1", "host ::ffff:10.0.0.1"],
    ["host {10.0.0.1,2001:db8::/32}", "host {10.0.0.1, 2001:db8::/32}"],
    ["host {10.0.0.1}", "host 10.0.0.1"],
    ["dport=443", "dport 443"],
    ["dport == 443", "dport 443"],
    ["dport 80-80", "dport 80"],
    ["dport {80,443,8000-8100}", "dport {80, 443, 8000-8100}"],
    ["sport>=1024", "sport >= 1024"],
    ["port != 53", "port != 53"],
    ["dir service", "service"],
    ["DIR IN", "dir in"],
    ["flag seennonsyn", "flag SeenNonSyn"],
    ["flag 0x10", "flag SeenNonSyn"],
    ["flag 0x0200", "flag 0x0200"],
    ["flag 0x11", "flag 0x0011"],
    ["lifetime<60", "lifetime < 1m"],
    ["lifetime < 60s", "lifetime < 1m"],
    ["idle > 90m", "idle > 1h30m"],
    ["age >= 1500ms", "age >= 1s500ms"],
    ["lifetime < -5m", "lifetime < -5m"],
    ["lifetime = 0", "lifetime = 0s"],
    ["lifetime > -0s", "lifetime > 0s"],
    ["lifetime < 9007199254740991ms", "lifetime < 104249991d8h59m991ms"],
    ["packets > 10k", "packets > 10000"],
    ["bytes <= 4Mi", "bytes <= 4194304"],
    ["bytes > 18446744073709551615", "bytes > 18446744073709551615"],
    ["identity = 1001", "identity 1001"],
    ["identity != 1001", "identity != 1001"],
    ["needs-ct and xlate 192.0.2.1 and xport 32768-60999", "needs-ct and xlate 192.0.2.1 and xport 32768-60999"],
    ["!tcp", "not tcp"],
    ["! ! tcp", "not not tcp"],
    ["(((tcp)))", "tcp"],
    ["tcp && udp || icmp", "tcp and udp or icmp"],
    ["tcp and (udp or icmp)", "tcp and (udp or icmp)"],
    ["(tcp and udp) and icmp", "tcp and udp and icmp"],
    ["tcp and (udp and icmp)", "tcp and (udp and icmp)"],
    ["tcp or (udp or icmp)", "tcp or (udp or icmp)"],
    ["tcp or (udp and icmp)", "tcp or udp and icmp"],
    ["not (tcp and udp)", "not (tcp and udp)"],
    ["not tcp and udp", "not tcp and udp"]
  ])("%s prints as %s", (text, expected) => {
    assert.strictEqual(canonical(text), expected)
    assert.strictEqual(canonical(expected), expected)
  })
})

describe("round trip", () => {
  it.prop(
    "parsing the printed text gives the tree that was printed",
    [Filter.Filter],
    ([filter]) => {
      const parsed = Result.getOrThrow(FilterParser.parse(FilterPrinter.print(filter)))
      assert.deepStrictEqual(parsed, filter)
      assert.isTrue(Equal.equals(parsed, filter))
    },
    { arbitrary: { runs: 5000 } }
  )

  it.prop(
    "every single term survives",
    [Filter.Term],
    ([term]) => {
      assert.deepStrictEqual(Result.getOrThrow(FilterParser.parse(FilterPrinter.print(term))), term)
    },
    { arbitrary: { runs: 5000 } }
  )

  it.prop("the schema of text decodes what it encodes", [Filter.Filter], ([filter]) => {
    const text = Schema.encodeSync(FilterParser.FromString)(filter)
    assert.deepStrictEqual(Schema.decodeUnknownSync(FilterParser.FromString)(text), filter)
  })

  it("what the parser makes is a value of the schema", () => {
    const text = "tcp and (dport {80, 443} or not src 10.0.0.0/8) and packets > 1k or lifetime < -5m"
    assert.isTrue(Schema.is(Filter.Filter)(Result.getOrThrow(FilterParser.parse(text))))
  })

  it("a chain of thousands of terms prints as it was written", () => {
    const text = Array.from({ length: 5000 }, () => "tcp").join(" or ")
    assert.strictEqual(canonical(text), text)
  })

  it("a tree deeper than any stack prints", () => {
    let filter: Filter.Filter = Filter.expired
    for (let i = 0; i < 100_000; i++) filter = Filter.not(filter)
    assert.strictEqual(FilterPrinter.print(filter), `${"not ".repeat(100_000)}expired`)
  })
})
