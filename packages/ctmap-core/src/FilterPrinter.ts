/**
 * From {@link Filter} to its canonical text: lower case, words for signs, the fewest parentheses.
 *
 * @since 0.1.0
 */
import * as IpNetwork from "effect/net/IpNetwork"
import * as NetAddress from "effect/net/NetAddress"
import * as CtEntryFlags from "./CtEntryFlags.ts"
import type { Filter, PortRange, Term } from "./Filter.ts"
import { bareProtocols, durationUnits, integerFields } from "./internal/filterWords.ts"
import * as Protocol from "./Protocol.ts"

/**
 * The canonical text of a filter.
 *
 * **Details**
 *
 * Parsing the text gives a tree equal to `filter`, as long as it is within the parser's limits of depth and length.
 * Total and without recursion: a tree of any depth prints.
 *
 * **Example** (Parentheses only where they matter)
 *
 * ```ts
 * import { Filter, FilterPrinter } from "ctmap-core"
 *
 * const { alive, expired, related } = Filter
 * FilterPrinter.print(Filter.or(Filter.and(alive, related), expired)) // => "alive and related or expired"
 * FilterPrinter.print(Filter.and(alive, Filter.or(related, expired))) // => "alive and (related or expired)"
 * ```
 *
 * @since 0.1.0
 */
export const print = (filter: Filter): string => {
  let text = ""
  // The last item is printed next, so parts are pushed from right to left.
  const todo: Array<Filter | string> = [filter]
  for (let item = todo.pop(); item !== undefined; item = todo.pop()) {
    if (typeof item === "string") text += item
    else if (item._tag === "And") {
      push(todo, item.right, item.right._tag === "And" || item.right._tag === "Or")
      todo.push(" and ")
      push(todo, item.left, item.left._tag === "Or")
    } else if (item._tag === "Or") {
      push(todo, item.right, item.right._tag === "Or")
      todo.push(" or ")
      push(todo, item.left, false)
    } else if (item._tag === "Not") {
      push(todo, item.filter, item.filter._tag === "And" || item.filter._tag === "Or")
      todo.push("not ")
    } else text += printTerm(item)
  }
  return text
}

const push = (todo: Array<Filter | string>, filter: Filter, grouped: boolean): void => {
  if (grouped) todo.push(")", filter, "(")
  else todo.push(filter)
}

/**
 * The canonical text of one term.
 *
 * @since 0.1.0
 */
export const printTerm = (term: Term): string => {
  switch (term._tag) {
    case "Protocol":
      return protocol(term.protocol)
    case "Family":
      return term.family
    case "Address":
      return `${term.end} ${oneOrSet(term.networks.map(network))}`
    case "Port":
      return `${term.end} ${oneOrSet(term.ranges.map(range))}`
    case "PortCompare":
      return `${term.end} ${term.op} ${term.port}`
    case "Direction":
      return term.direction === "service" ? "service" : `dir ${term.direction}`
    case "Related":
      return "related"
    case "Flag":
      return `flag ${CtEntryFlags.named.find(({ bit }) => bit === term.mask)?.name ?? hex(term.mask)}`
    case "Expired":
      return "expired"
    case "Alive":
      return "alive"
    case "Time":
      return `${term.field} ${term.op} ${duration(term.millis)}`
    case "Integer":
      return term.op === "=" && integerFields[term.field].kind === "id"
        ? `${term.field} ${term.value}`
        : `${term.field} ${term.op} ${term.value}`
    case "NeedsCt":
      return "needs-ct"
  }
}

const protocol = (number: number): string => {
  const name = Protocol.name(number, "1.20").toLowerCase()
  return bareProtocols.includes(name) ? name : `proto ${name}`
}

const oneOrSet = (items: ReadonlyArray<string>): string => (items.length === 1 ? items.join() : `{${items.join(", ")}}`)

const network = (value: IpNetwork.IpNetwork): string =>
  value.prefixLength === NetAddress.width(value.address) ? NetAddress.formatIp(value.address) : IpNetwork.format(value)

const range = ({ from, to }: PortRange): string => (from === to ? `${from}` : `${from}-${to}`)

const hex = (mask: number): string => `0x${mask.toString(16).padStart(4, "0")}`

const duration = (millis: number): string => {
  let rest = Math.abs(millis)
  let text = ""
  for (const [name, size] of durationUnits) {
    const whole = Math.floor(rest / size)
    if (whole > 0) text += `${whole}${name}`
    rest -= whole * size
  }
  return text === "" ? "0s" : millis < 0 ? `-${text}` : text
}
