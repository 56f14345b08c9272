/** A reader of Prometheus' text format 0.0.4 that takes nothing but what the format allows. */

export interface Sample {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

export interface Family {
  readonly type: string
  readonly samples: Array<Sample>
}

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
const sample = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`)
const types = new Set(["counter", "gauge", "histogram", "summary", "untyped"])

const inOrder = (labels: ReadonlyMap<string, string>) => [...labels].toSorted(([a], [b]) => (a < b ? -1 : 1))

/** Throws where a line is wrong. Families by name. */
export const parseExposition = (text: string): ReadonlyMap<string, Family> => {
  const families = new Map<string, Family>()
  const seen = new Set<string>()
  const helped = new Set<string>()
  let current: string | undefined
  if (text !== "" && !text.endsWith("\n")) throw new Error("the last line has no end")
  for (const line of text.split("\n").slice(0, -1)) {
    const fail = (why: string): never => {
      throw new Error(`${why}: ${line}`)
    }
    const comment = new RegExp(`^# (HELP|TYPE) (${NAME}) (.*)$`).exec(line)
    if (comment !== null) {
      const [, kind, name = "", rest = ""] = comment
      if (families.has(name)) fail("a comment after the samples of its family, or a second type")
      if (kind === "HELP") {
        if (helped.has(name)) fail("a second help")
        helped.add(name)
        continue
      }
      if (!types.has(rest)) fail("no such type")
      families.set(name, { type: rest, samples: [] })
      current = name
      continue
    }
    const match = sample.exec(line)
    if (match === null) return fail("not a sample")
    const [, name = "", inner, number = ""] = match
    const family = current === undefined ? undefined : families.get(current)
    if (family === undefined || current === undefined) return fail("a sample without a family")
    const suffix = name.slice(current.length)
    const allowed =
      family.type === "histogram"
        ? ["_bucket", "_sum", "_count"]
        : family.type === "summary"
          ? ["", "_sum", "_count"]
          : [""]
    if (!name.startsWith(current) || !allowed.includes(suffix)) fail("a sample of another family")
    const labels = inner === undefined ? new Map<string, string>() : labelsOf(inner, fail)
    const key = `${name} ${JSON.stringify(inOrder(labels))}`
    if (seen.has(key)) fail("the same sample twice")
    seen.add(key)
    family.samples.push({ name, labels, value: valueOf(number, fail) })
  }
  for (const [name, family] of families) if (family.type === "histogram") checkHistogram(name, family)
  return families
}

const valueOf = (text: string, fail: (why: string) => never): number => {
  if (text === "+Inf") return Number.POSITIVE_INFINITY
  if (text === "-Inf") return Number.NEGATIVE_INFINITY
  if (text === "NaN") return Number.NaN
  return /^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/.test(text) ? Number(text) : fail("not a number")
}

const labelsOf = (inner: string, fail: (why: string) => never): ReadonlyMap<string, string> => {
  const labels = new Map<string, string>()
  const label = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\n"])*)"(,|$)/y
  while (label.lastIndex < inner.length) {
    const match = label.exec(inner)
    if (match === null) return fail("not a label")
    const [, name = "", value = ""] = match
    if (labels.has(name)) fail("the same label twice")
    labels.set(name, value)
  }
  return labels
}

/** Buckets grow, end with +Inf, and that is the count. */
const checkHistogram = (name: string, { samples }: Family): void => {
  const series = Map.groupBy(samples, ({ labels }) =>
    JSON.stringify(inOrder(labels).filter(([label]) => label !== "le"))
  )
  for (const [labels, members] of series) {
    const buckets = members.filter((each) => each.name === `${name}_bucket`)
    const count = members.find((each) => each.name === `${name}_count`)?.value
    const values = buckets.map(({ value }) => value)
    const isRising = values.every((value, i) => i === 0 || value >= values[i - 1]!)
    if (!isRising || buckets.at(-1)?.labels.get("le") !== "+Inf" || values.at(-1) !== count) {
      throw new Error(`the buckets of ${name} ${labels} do not add up`)
    }
    if (!members.some((each) => each.name === `${name}_sum`)) throw new Error(`${name} ${labels} has no sum`)
  }
}
