// One JSON object a line: for jq, for logs, for anything that is not a person.
import { CtColumns, CtJson, CtTime, Rows } from "ctmap-core"
import { Recorded } from "ctmap-testing"

const table = Recorded.tables("pods-jiffies", "before").get("cilium_ct4_global")!
const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
columns.bind(Rows.separate(table.keys, table.values, table))

// This table was written under the jiffies clock: 256 ticks of 1/250 s are one unit.
const clock = { source: CtTime.jiffies(250), now: columns.lifetime(0) - 10 }
console.log(JSON.stringify(CtJson.ctRecord(columns, 0, { map: table.map, clock })))
