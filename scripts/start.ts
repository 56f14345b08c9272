/**
 * `npm start`: shows what there is so far, on the recorded Cilium tables.
 */
import { CtColumns, CtText, NatColumns, NatText, Protocol, Rows, TupleFlags } from "ctmap-core"
import { Recorded } from "ctmap-testing"

const release = "1.17"
/** When the tables were recorded, seconds of the datapath's clock. */
const now = 5461
const sample = 3

console.log(
  "ctmap on tables that Cilium recorded, in memory. The agent, which does this on live tables, is still to come; `npm run build` makes the command line that reads them."
)

for (const table of Recorded.tables("pods-ktime", "before").values()) {
  const options = { family: table.keySize === 14 ? "ipv4" : "ipv6", release } as const
  const rows = Rows.separate(table.keys, table.values, table)
  const title = `\n${table.map}: ${table.count} entries`
  if (table.map.includes("snat")) {
    const columns = new NatColumns.NatColumns(options).bind(rows)
    console.log(title)
    breakdown(table.count, (i) => [columns.nexthdr(i), columns.isReverse(i) ? "in" : "out"])
    const age = (created: bigint) => BigInt(now) - created
    print((i) => NatText.line(columns.key(i), columns.entry(i), { release, age }))
  } else {
    const columns = new CtColumns.CtColumns(options).bind(rows)
    let expired = 0
    for (let i = 0; i < table.count; i++) if (columns.lifetime(i) < now) expired++
    console.log(`${title}, ${expired} of them expired at ${now} s`)
    breakdown(table.count, (i) => [columns.nexthdr(i), TupleFlags.direction(columns.tupleFlags(i))])
    print((i) => CtText.line(columns.key(i), columns.entry(i)))
  }
}

function breakdown(count: number, of: (i: number) => readonly [protocol: number, direction: string]): void {
  const counts = new Map<string, number>()
  for (let i = 0; i < count; i++) {
    const [protocol, direction] = of(i)
    const label = `${Protocol.name(protocol, release)} ${direction}`
    counts.set(label, (counts.get(label) ?? 0) + 1)
  }
  const largestFirst = [...counts].toSorted(([, a], [, b]) => b - a)
  console.log(`  ${largestFirst.map(([label, n]) => `${label} ${n}`).join(", ")}`)
}

function print(line: (i: number) => string | undefined): void {
  for (let i = 0; i < sample; i++) process.stdout.write(`  ${line(i) ?? "\n"}`)
}
