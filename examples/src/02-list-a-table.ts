// A table as Cilium's command line lists it, through one reused buffer.
import { CtColumns, CtLineWriter, Rows } from "ctmap-core"
import { Recorded } from "ctmap-testing"

const table = Recorded.tables("pods-ktime", "after-gc").get("cilium_ct6_global")!
const columns = new CtColumns.CtColumns({ family: "ipv6", release: "1.17" })
columns.bind(Rows.separate(table.keys, table.values, table))

const writer = new CtLineWriter.CtLineWriter(columns)
const buffer = new Uint8Array(4096)
let lines = 0
for (let row = 0; row < columns.count;) {
  const first = row === 0
  row = writer.fill(buffer, { from: row })
  const text = new TextDecoder().decode(buffer.subarray(0, writer.end))
  lines += text.split("\n").length - 1
  if (first) console.log(text.split("\n").slice(0, 3).join("\n"))
}
console.log(`... ${lines} lines in all`)
