/**
 * Which release wrote a table, judged by what is in it.
 *
 * The two layouts of a CT value have the same size, so the kernel cannot tell them apart, and printing one as the other
 * shows a port as an interface number. What a pass acts on (key, lifetime, flags) stands at the same place in both, so
 * a table without evidence is safe to collect; one with contradicting evidence is of neither layout, and read only.
 *
 * @since 0.1.0
 */
import { CtEntry, MapSpec, NatEntry, Tuple } from "ctmap-core"
import type { CtColumns, Family, Release } from "ctmap-core"

/**
 * What is known of a table's layout.
 *
 * @since 0.1.0
 */
export type Verdict =
  | {
      readonly _tag: "Known"
      readonly release: Release.Release
      /** Entries that could only be of this release. */
      readonly evidence: number
    }
  | {
      /** No entry tells the releases apart: `release` is what it is read as. */
      readonly _tag: "Assumed"
      readonly release: Release.Release
    }
  | {
      /** Not a layout ctmap knows: entries may be counted and copied, not interpreted, and never deleted. */
      readonly _tag: "Unknown"
      readonly why: string
    }

/** The release to read a table with, or `undefined` where it must not be interpreted. @since 0.1.0 */
export const releaseOf = (verdict: Verdict): Release.Release | undefined =>
  verdict._tag === "Unknown" ? undefined : verdict.release

/** How many entries speak for which release. @since 0.1.0 */
export interface Evidence {
  readonly v117: number
  readonly v120: number
}

/**
 * What a batch of CT entries says.
 *
 * **Details**
 *
 * Only entries that are not of a service can tell. 1.17 keeps bytes 0..15 zero in them and may have an interface
 * number at 40; 1.20 has the NAT address and the NAT port there, both or neither. So something in the first 16 bytes
 * speaks for 1.20, and something at 40 without it for 1.17.
 *
 * @since 0.1.0
 */
export const evidence = (columns: CtColumns.CtColumns): Evidence => {
  let v117 = 0
  let v120 = 0
  for (let row = 0; row < columns.count; row++) {
    if (columns.isService(row)) continue
    const at = columns.valueAt(row)
    const union =
      columns.values.getUint32(at) |
      columns.values.getUint32(at + 4) |
      columns.values.getUint32(at + CtEntry.offset.backendId) |
      columns.values.getUint32(at + CtEntry.offset.backendId + 4)
    if (union !== 0) v120++
    else if (columns.natPort(row) !== 0) v117++
  }
  return { v117, v120 }
}

/**
 * The verdict on a CT table from the evidence in a sample.
 *
 * **Example** (Agreement, silence, contradiction)
 *
 * ```ts
 * import { Layout } from "ctmap-kernel"
 *
 * Layout.judge({ v117: 12, v120: 0 }, "1.20") // => { _tag: "Known", release: "1.17", evidence: 12 }
 * Layout.judge({ v117: 0, v120: 0 }, "1.20") // => { _tag: "Assumed", release: "1.20" }
 * Layout.judge({ v117: 3, v120: 4 }, "1.17")._tag // => "Unknown"
 * ```
 *
 * @since 0.1.0
 */
export const judge = ({ v117, v120 }: Evidence, assumed: Release.Release): Verdict =>
  v117 > 0 && v120 > 0
    ? {
        _tag: "Unknown",
        why: `${v117} entries can only be of Cilium 1.17 and ${v120} only of 1.20: the table is of neither layout`
      }
    : v117 > 0
      ? { _tag: "Known", release: "1.17", evidence: v117 }
      : v120 > 0
        ? { _tag: "Known", release: "1.20", evidence: v120 }
        : { _tag: "Assumed", release: assumed }

/**
 * Whether sizes and type are those of a CT map of the family; why not, otherwise.
 *
 * @since 0.1.0
 */
export const ctMismatch = (found: MapSpec.Properties, family: Family.Family): string | undefined =>
  mismatch(found, Tuple.shape(family).size, CtEntry.SIZE)

/** As {@link ctMismatch} for a NAT map. @since 0.1.0 */
export const natMismatch = (found: MapSpec.Properties, family: Family.Family): string | undefined =>
  mismatch(found, Tuple.shape(family).size, NatEntry.shape(family).size)

const mismatch = (found: MapSpec.Properties, keySize: number, valueSize: number): string | undefined => {
  if (found.type !== MapSpec.mapType.lruHash && found.type !== MapSpec.mapType.hash) {
    return `it is a map of type ${found.type}, not a hash`
  }
  return found.keySize === keySize && found.valueSize === valueSize
    ? undefined
    : `keys are ${found.keySize} bytes and values ${found.valueSize}, where ${keySize} and ${valueSize} are known`
}
