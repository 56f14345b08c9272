// Which connections to one service are still alive? The same filter works on every command.
import { CtColumns, CtText, FilterParser, FilterPredicate, Rows } from "ctmap-core"
import { Recorded } from "ctmap-testing"
import * as Result from "effect/Result"

const table = Recorded.tables("pods-ktime", "before").get("cilium_ct4_global")!
const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
columns.bind(Rows.separate(table.keys, table.values, table))

const filter = Result.getOrThrow(FilterParser.parse("service and dport 30080-30081 and lifetime > 5s"))
const matches = Result.getOrThrow(
  FilterPredicate.compileCt(filter, { family: "ipv4", release: "1.17", now: 5461, secondsPerUnit: 1 })
)
const rows = new Uint32Array(columns.count)
const found = FilterPredicate.select(matches, columns, rows)

console.log(`${found} of ${columns.count} entries`)
for (const row of rows.subarray(0, Math.min(found, 2))) console.log(CtText.keyDump(columns.key(row), { reverse: true }))

// A mistake points at its place.
console.log(Result.getOrThrow(Result.flip(FilterParser.parse("tcp and dprot 80"))).message)
