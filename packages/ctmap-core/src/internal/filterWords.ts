/** The words of the filter language: what they are, and which one a wrong word was probably meant to be. */

/** Protocols that need no `proto` before them. */
export const bareProtocols: ReadonlyArray<string> = [
  "tcp",
  "udp",
  "icmp",
  "icmpv6",
  "sctp",
  "igmp",
  "ipip",
  "gre",
  "esp",
  "ah",
  "vrrp"
]

export const comparisons = ["<", "<=", ">", ">=", "=", "!="] as const

/** Milliseconds of the units of a duration, longest first. */
export const durationUnits: ReadonlyArray<readonly [name: string, millis: number]> = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1000],
  ["ms", 1]
]

/** Factors of the suffixes of a count, in lower case. */
export const countSuffixes: ReadonlyMap<string, bigint> = new Map([
  ["k", 1000n],
  ["m", 1_000_000n],
  ["g", 1_000_000_000n],
  ["ki", 1n << 10n],
  ["mi", 1n << 20n],
  ["gi", 1n << 30n]
])

export interface IntegerField {
  readonly maximum: bigint
  /** Whether a number alone means equality, and whether counts take suffixes. */
  readonly kind: "count" | "id"
}

const U64_MAX = (1n << 64n) - 1n

export const integerFields = {
  packets: { maximum: U64_MAX, kind: "count" },
  bytes: { maximum: U64_MAX, kind: "count" },
  identity: { maximum: 0xffff_ffffn, kind: "id" },
  revnat: { maximum: 0xffffn, kind: "id" },
  backend: { maximum: U64_MAX, kind: "id" },
  ifindex: { maximum: 0xffffn, kind: "id" }
} as const satisfies Record<string, IntegerField>

/** Words of other tools, and what they are called here. */
const elsewhere: ReadonlyMap<string, string> = new Map([
  ["source", "src"],
  ["saddr", "src"],
  ["destination", "dst"],
  ["daddr", "dst"],
  ["address", "host"],
  ["addr", "host"],
  ["net", "host"],
  ["src-port", "sport"],
  ["srcport", "sport"],
  ["dst-port", "dport"],
  ["dstport", "dport"],
  ["protocol", "proto"],
  ["nexthdr", "proto"],
  ["portrange", "port"],
  ["icmp6", "icmpv6"],
  ["ip", "ipv4"],
  ["ip4", "ipv4"],
  ["inet", "ipv4"],
  ["ip6", "ipv6"],
  ["inet6", "ipv6"],
  ["in", "dir in"],
  ["ingress", "dir in"],
  ["out", "dir out"],
  ["egress", "dir out"],
  ["direction", "dir"],
  ["svc", "service"],
  ["flags", "flag"],
  ["ttl", "lifetime"],
  ["expires", "lifetime"],
  ["remaining", "lifetime"],
  ["timeout", "lifetime"],
  ["pkts", "packets"],
  ["id", "identity"],
  ["live", "alive"]
])

/** `, did you mean "…"?`, or nothing when no candidate is near. */
export const didYouMean = (word: string, candidates: ReadonlyArray<string>): string => {
  const lower = word.toLowerCase()
  const known = elsewhere.get(lower)
  const best =
    known !== undefined && candidates.includes(known.split(" ")[0] ?? "") ? known : nearest(lower, candidates)
  return best === undefined ? "" : `, did you mean "${best}"?`
}

const nearest = (word: string, candidates: ReadonlyArray<string>): string | undefined => {
  if (word.length < 2 || word.length > 20) return undefined
  let limit = word.length <= 4 ? 1 : 2
  let best: string | undefined
  for (const candidate of candidates) {
    const apart = distance(word, candidate.toLowerCase())
    if (apart > limit || (apart === limit && best !== undefined)) continue
    limit = apart
    best = candidate
  }
  return best
}

/** Letters to insert, drop, change or swap with their neighbour to make one word of the other. */
const distance = (a: string, b: string): number => {
  let older: ReadonlyArray<number> = []
  let previous: ReadonlyArray<number> = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const current = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let cost = Math.min(cell(previous, j) + 1, cell(current, j - 1) + 1, cell(previous, j - 1) + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, cell(older, j - 2) + 1)
      current.push(cost)
    }
    older = previous
    previous = current
  }
  return cell(previous, b.length)
}

const cell = (row: ReadonlyArray<number>, j: number): number => row[j] ?? Number.POSITIVE_INFINITY
