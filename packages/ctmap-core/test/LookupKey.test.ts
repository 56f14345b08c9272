import { assert, describe, it } from "@effect/vitest"
import { CtKey } from "ctmap-core"
import * as LookupKey from "ctmap-core/LookupKey"
import { Vectors } from "ctmap-testing"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const tcp = (source: string | CtKey.End, destination: string | CtKey.End) =>
  LookupKey.make({ source, destination, protocol: 6 })
const failure = (result: Result.Result<unknown, LookupKey.LookupKeyError>) => Result.getOrThrow(Result.flip(result))
const hex = (result: Result.Result<CtKey.CtKey, LookupKey.LookupKeyError>) =>
  Vectors.toHex(CtKey.toBytes(Result.getOrThrow(result)))

describe("keys", () => {
  it("puts the source into daddr:sport and the destination into saddr:dport", () => {
    assert.strictEqual(hex(tcp("10.0.0.1:34520", "1.1.1.1:80")), "0a00000101010101005086d80600")
  })

  it("sets the IN flag for ingress, in IPv6 as in IPv4", () => {
    const flow = { source: "[fd00::1]:40000", destination: "[2001:db8::5]:53", protocol: 17, ingress: true }
    assert.strictEqual(
      hex(LookupKey.make(flow)),
      "fd00000000000000000000000000000120010db800000000000000000000000500359c401101"
    )
  })

  it("finds an IPv4-mapped address in the IPv6 maps", () => {
    const key = Result.getOrThrow(tcp("[::ffff:1.2.3.4]:1", "[::ffff:5.6.7.8]:2"))
    assert.strictEqual(key.family, "ipv6")
    assert.strictEqual(hex(Result.succeed(key)).slice(0, 32), "00000000000000000000ffff01020304")
  })

  it("gives a local key its scope", () => {
    const flow = { source: "1.2.3.4:1", destination: "1.2.3.4:2", protocol: 17 }
    assert.strictEqual(Result.getOrThrow(LookupKey.make(flow, "local")).scope, "local")
  })

  it("accepts ports with leading zeros", () => {
    assert.strictEqual(Result.getOrThrow(tcp("1.2.3.4:00080", "1.2.3.4:0")).sport, 80)
  })

  it.prop("leads back to the ends it was made of", [Schema.toType(CtKey.CtKey4), CtKey.CtKey6], ([key4, key6]) => {
    for (const key of [key4, key6]) {
      const { source, destination } = CtKey.ends(key)
      const flow = { source, destination, protocol: key.nexthdr, ingress: (key.flags & 1) === 1 }
      const made = Result.getOrThrow(LookupKey.make(flow))
      const text = ({ address, port }: CtKey.End) => `${NetAddress.formatUrlHost(address)}:${port}`
      assert.deepStrictEqual(CtKey.ends(made), { source, destination })
      assert.strictEqual(
        hex(LookupKey.make({ ...flow, source: text(source), destination: text(destination) })),
        hex(Result.succeed(made))
      )
    }
  })
})

describe("what is refused", () => {
  const why = (text: string) => {
    const error = failure(LookupKey.parseEnd("source", text))
    assert.strictEqual(error._tag, "InvalidEnd")
    assert.isTrue(error.message.startsWith(`invalid source address '${text}': `))
    return error.message.slice(`invalid source address '${text}': `.length)
  }

  it.each([
    ["", "not an ip:port"],
    ["1.2.3.4", "not an ip:port"],
    ["1.2.3.4:", "no port"],
    [":80", "no IP"],
    [":", "no IP"],
    ["[]:80", `ParseAddr(""): expected exactly four decimal octets`],
    ["[::1:80", "missing ]"],
    ["[:80", "missing ]"],
    ["1.2.3.4:99999", `invalid port "99999" parsing "1.2.3.4:99999"`],
    ["1.2.3.4:+1", `invalid port "+1" parsing "1.2.3.4:+1"`],
    ["1.2.3.4:1_0", `invalid port "1_0" parsing "1.2.3.4:1_0"`],
    ["[::1]", "missing ]"],
    ["[1.2.3.4]:80", `invalid ip:port "[1.2.3.4]:80", square brackets can only be used with IPv6 addresses`],
    ["::1:80", `invalid ip:port "::1:80", IPv6 addresses must be surrounded by square brackets`],
    ["01.2.3.4:80", `ParseAddr("01.2.3.4"): leading zeroes are not allowed`],
    ["[fe80::1%eth0]:80", `ParseAddr("fe80::1%eth0"): an address in a map has no zone, leave out what follows the %`]
  ])("%j", (text, expected) => {
    assert.strictEqual(why(text), expected)
  })

  it("names the end that is wrong, the source first", () => {
    assert.strictEqual(failure(tcp("a", "b")).message, "invalid source address 'a': not an ip:port")
    assert.strictEqual(failure(tcp("1.2.3.4:1", "b")).message, "invalid destination address 'b': not an ip:port")
  })

  it("ends of two families, instead of looking up a zero address (G14)", () => {
    assert.strictEqual(failure(tcp("10.0.0.1:1", "[fd00::1]:2"))._tag, "MixedFamilies")
    assert.strictEqual(failure(tcp("[::ffff:10.0.0.1]:1", "10.0.0.2:2"))._tag, "MixedFamilies")
  })

  it("numbers that do not fit", () => {
    const source = { address: NetAddress.ipv4Loopback, port: 65_536 }
    assert.strictEqual(
      failure(tcp(source, "1.2.3.4:1")).message,
      "invalid source address '127.0.0.1:65536': invalid port 65536, a port is between 0 and 65535"
    )
    const flow = { source: "1.2.3.4:1", destination: "1.2.3.4:2", protocol: 256 }
    assert.strictEqual(failure(LookupKey.make(flow))._tag, "InvalidProtocol")
  })
})
