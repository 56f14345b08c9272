// One key, as `bpftool map dump` shows it: what connection is it?
import { CtKey } from "ctmap-core"
import * as Hex from "effect/encoding/Hex"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"

const bytes = Result.getOrThrow(Hex.decode("0a6000010a000163c35001bb0604"))
const key = Result.getOrThrow(CtKey.fromBytes("ipv4", bytes))
const { source, destination } = CtKey.ends(key)

console.log(`Cilium prints:  ${key.dump({ reverse: true })}`)
console.log(`source:         ${NetAddress.formatIp(source.address)} port ${source.port}`)
console.log(`destination:    ${NetAddress.formatIp(destination.address)} port ${destination.port}`)
