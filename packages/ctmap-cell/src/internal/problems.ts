/** What is wrong with a graph, as sentences. */
import type { Cells } from "../Graph.ts"
import type { Problem } from "../HiveError.ts"
import { grouped } from "./grouped.ts"
import type { Linked, Links } from "./links.ts"
import { isField, isKebab, kebab } from "./naming.ts"
import { reserved } from "./reserved.ts"

export const findProblems = (cells: Cells, links: Links): ReadonlyArray<Problem> => [
  ...strangers(cells),
  ...ids(links),
  ...settings(links),
  ...services(cells, links),
  ...missing(cells, links),
  ...cycle(links)
]

const quoted = (words: ReadonlyArray<string>): string => words.map((word) => `"${word}"`).join(", ")

const repeated = <A>(items: ReadonlyArray<A>, nameOf: (item: A) => string): ReadonlyArray<[string, ReadonlyArray<A>]> =>
  [...grouped(items, nameOf)].filter(([, same]) => same.length > 1)

const strangers = ({ strangers: names = [] }: Cells): ReadonlyArray<Problem> =>
  names.map((name) => ({
    kind: "no-such-cell",
    cells: [name],
    message: `a stand-in was given for cell "${name}", which is not in this hive: replace a cell that is`
  }))

const ids = ({ nodes }: Links): ReadonlyArray<Problem> => [
  ...nodes
    .filter(({ cell }) => !isKebab(cell.id))
    .map(({ cell }): Problem => ({
      kind: "bad-id",
      cells: [cell.id],
      message: `the id "${cell.id}" is not kebab-case: lower-case letters and digits in words joined by single dashes, such as "disk-watch"`
    })),
  ...repeated(nodes, ({ cell }) => cell.id).map(([id, same]): Problem => ({
    kind: "duplicate-cell",
    cells: [id],
    message: `${same.length} cells have the id "${id}": ids are unique in a hive, nested cells included`
  }))
]

const settings = ({ nodes }: Links): ReadonlyArray<Problem> => {
  const all = nodes.flatMap(({ cell }) => Object.keys(cell.fields).map((field) => ({ id: cell.id, field })))
  return [
    ...all
      .filter(({ field }) => !isField(field))
      .map(({ id, field }): Problem => ({
        kind: "bad-setting",
        cells: [id],
        message: `the setting "${field}" of cell "${id}" is not camelCase, so it has no flag: letters and digits, the first a small letter`
      })),
    ...repeated(all, ({ field }) => kebab(field)).map(([name, same]): Problem => ({
      kind: "duplicate-setting",
      cells: same.map(({ id }) => id),
      message: `the cells ${quoted(same.map(({ id }) => id))} have the setting "${name}" each: rename one, or let one cell own it and provide it`
    }))
  ]
}

const services = ({ given }: Cells, { nodes, providers }: Links): ReadonlyArray<Problem> => {
  const problems: Array<Problem> = []
  for (const { cell, makes } of nodes) {
    if (cell.layer === undefined && makes.length > 0)
      problems.push({
        kind: "no-layer",
        cells: [cell.id],
        message: `cell "${cell.id}" says that it provides ${quoted(makes)}, but has no layer to make it, nor a nested cell`
      })
    for (const service of makes.filter((key) => reserved.has(key)))
      problems.push({
        kind: "reserved-service",
        cells: [cell.id],
        service,
        message: `cell "${cell.id}" provides "${service}", which every hive provides itself`
      })
  }
  for (const [scope, seen] of providers) {
    for (const [service, makers] of seen) {
      const makerIds = makers.map(({ cell }) => cell.id)
      const where = scope === undefined ? "" : ` within cell "${scope.cell.id}"`
      if (makers.length > 1)
        problems.push({
          kind: "duplicate-provider",
          cells: makerIds,
          service,
          message: `the service "${service}" is provided${where} by the cells ${quoted(makerIds)}: keep one of them, or make it private to the cell that uses it`
        })
      if (scope === undefined && given.some(({ key }) => key === service))
        problems.push({
          kind: "duplicate-provider",
          cells: makerIds,
          service,
          message: `the service "${service}" is given from outside and provided by cell ${quoted(makerIds)}: drop one of the two`
        })
    }
  }
  return problems
}

const missing = ({ given }: Cells, { nodes, providers }: Links): ReadonlyArray<Problem> => {
  const outside = new Set([...given.map(({ key }) => key), ...reserved])
  const hiddenIn = (service: string) => [...providers].find(([scope, seen]) => scope !== undefined && seen.has(service))
  return nodes.flatMap(({ cell, makes, needs }) =>
    needs
      .filter(({ service, from }) => from === undefined && !outside.has(service))
      .map(({ service }): Problem => {
        const hidden = hiddenIn(service)?.[0]?.cell.id
        const why = makes.includes(service)
          ? "which only the cell itself provides: provide it under another key, or privately around the cell that needs it"
          : hidden !== undefined
            ? `which is private to cell "${hidden}": make it public there, or nest the one cell in the other`
            : "which no cell provides: add one that does, or name it in `given`"
        const message = `cell "${cell.id}" needs the service "${service}", ${why}`
        return { kind: "missing-provider", cells: [cell.id], service, message }
      })
  )
}

/** One circle is reported; those who hang on it start once it is broken. */
const cycle = ({ nodes, order }: Links): ReadonlyArray<Problem> => {
  const started = new Set(order)
  const steps: Array<{ readonly node: Linked; readonly service: string }> = []
  for (let node = nodes.find((candidate) => !started.has(candidate)); node !== undefined;) {
    const back = steps.findIndex((step) => step.node === node)
    if (back >= 0) {
      const circle = steps.slice(back)
      const chain = circle.map((step) => `"${step.node.cell.id}" needs "${step.service}" of`).join(" ")
      const message = `cells need each other in a circle: ${chain} "${node.cell.id}"; give one of them what it needs some other way`
      return [{ kind: "cycle", cells: circle.map((step) => step.node.cell.id), message }]
    }
    const need: Linked["needs"][number] | undefined = node.needs.find(
      ({ from }) => from !== undefined && !started.has(from)
    )
    steps.push({ node, service: need?.service ?? "" })
    node = need?.from
  }
  return []
}
