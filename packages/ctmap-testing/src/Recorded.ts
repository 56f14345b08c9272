/**
 * Tables recorded from Cilium's own datapath, see `data/README.md`.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"

/** A recorded set. @since 0.1.0 */
export type SetName = "pods-ktime" | "nat-orphans-ktime" | "pods-jiffies"

/** Every set. @since 0.1.0 */
export const setNames: ReadonlyArray<SetName> = ["pods-ktime", "nat-orphans-ktime", "pods-jiffies"]

/** What was recorded of a set; `after-gc` and `after-purge` do not exist for `pods-jiffies`. @since 0.1.0 */
export type Moment = "before" | "after-gc" | "after-purge"

/** The entries of one map, keys and values concatenated without gaps: what a batch read would hand out. @since 0.1.0 */
export interface Table {
  readonly map: string
  readonly keySize: number
  readonly valueSize: number
  readonly count: number
  readonly keys: Uint8Array<ArrayBuffer>
  readonly values: Uint8Array<ArrayBuffer>
}

/** Path of a data file. @since 0.1.0 */
export const path = (set: SetName, file: `${Moment}.tsv.gz` | "list.txt.gz"): URL =>
  new URL(`../data/${set}/${file}`, import.meta.url)

/** The tables of a set at a moment, by map name. @since 0.1.0 */
export const tables = (set: SetName, moment: Moment): ReadonlyMap<string, Table> => {
  const rows = new Map<string, Array<readonly [key: string, value: string]>>()
  for (const line of unzip(path(set, `${moment}.tsv.gz`)).split("\n")) {
    if (line === "") continue
    const [map = "", key = "", value = ""] = line.split("\t")
    const entries = rows.get(map)
    if (entries === undefined) rows.set(map, [[key, value]])
    else entries.push([key, value])
  }
  return new Map([...rows].map(([map, entries]) => [map, table(map, entries)]))
}

/**
 * The lines that Cilium's `ct list` printed for a set, newlines included, per map: tcp4, any4, tcp6, any6.
 *
 * The listing runs on from map to map; it has a line for every entry of `before`, which says where a map's lines end.
 *
 * @since 0.1.0
 */
export const listings = (set: SetName): ReadonlyMap<string, ReadonlyArray<string>> => {
  const lines = unzip(path(set, "list.txt.gz"))
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => `${line}\n`)
  const counts = tables(set, "before")
  const sections = new Map<string, ReadonlyArray<string>>()
  let from = 0
  for (const map of ["cilium_ct4_global", "cilium_ct_any4_global", "cilium_ct6_global", "cilium_ct_any6_global"]) {
    const to = from + (counts.get(map)?.count ?? 0)
    sections.set(map, lines.slice(from, to))
    from = to
  }
  if (from !== lines.length) throw new Error(`the listing of ${set} has ${lines.length} lines for ${from} entries`)
  return sections
}

const unzip = (url: URL): string => gunzipSync(readFileSync(url)).toString("latin1")

const table = (map: string, entries: ReadonlyArray<readonly [key: string, value: string]>): Table => {
  const keys = Buffer.from(entries.map(([key]) => key).join(""), "hex")
  const values = Buffer.from(entries.map(([, value]) => value).join(""), "hex")
  return {
    map,
    keySize: keys.length / entries.length,
    valueSize: values.length / entries.length,
    count: entries.length,
    keys: Uint8Array.from(keys),
    values: Uint8Array.from(values)
  }
}
