// A dry run of the collector's decision, and the NAT entries that would go with one of the entries.
import { CtColumns, GcFilter, NatDerivation, NatKey, Rows } from "ctmap-core"
import { Recorded } from "ctmap-testing"
import * as Result from "effect/Result"

const table = Recorded.tables("pods-ktime", "before").get("cilium_ct_any4_global")!
const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
columns.bind(Rows.separate(table.keys, table.values, table))

const decide = GcFilter.compile({ expiredBefore: 5462 }, "ipv4")
const verdicts = Array.from({ length: columns.count }, (_, row) => decide(columns, row))
console.log(`${verdicts.filter((verdict) => verdict === "expired").length} of ${columns.count} would go`)

const row = verdicts.findIndex(
  (verdict, i) => verdict === "expired" && NatDerivation.cleanUp(columns.tupleFlags(i), columns.flags(i)) === "mapping"
)
const natKey = new Uint8Array(columns.tuple.size)
NatDerivation.natOutOfCt(columns.tuple, columns.keyBytes(row), natKey)
console.log(`deleted: ${columns.key(row).dump({ reverse: true })}`)
console.log(`mapping: ${Result.getOrThrow(NatKey.fromBytes("ipv4", natKey)).dump({ reverse: false })}`)
