/** What each term of a filter means for the bytes of a CT table and of a NAT table. */
import * as CtEntry from "../CtEntry.ts"
import type { Address, Integer, Port, PortCompare, Term, Time } from "../Filter.ts"
import { FilterUnsupported } from "../Filter.ts"
import type { FilterContext } from "../FilterPredicate.ts"
import { printTerm } from "../FilterPrinter.ts"
import * as NatEntry from "../NatEntry.ts"
import * as Tuple from "../Tuple.ts"
import * as TupleFlags from "../TupleFlags.ts"
import * as Match from "./filterMatch.ts"
import { inNetworks } from "./filterNetworks.ts"
import { intervalOf, inUnits, type Interval, portTest, within } from "./filterNumbers.ts"

export interface TermCompiler {
  /** Throws {@link FilterUnsupported}. */
  readonly compile: (term: Term) => Match.Node
  readonly fail: (term: string, problem: string) => never
}

const U16_MAX = 0xffffn
const U32_MAX = 0xffff_ffffn
const U64_MAX = (1n << 64n) - 1n

const sharedTerms = "protocols, ipv4, ipv6, src, dst, host, sport, dport, port, dir, service, related"
const natTerms = `NAT tables know ${sharedTerms}, xlate, xport, age, needs-ct`
const ctTerms =
  `CT tables know ${sharedTerms}, flag, expired, alive, lifetime, idle, packets, bytes, identity, revnat, backend, ` +
  "ifindex (1.17), natport (1.20)"

const failFor =
  (table: "ct" | "nat") =>
  (term: string, problem: string): never => {
    throw new FilterUnsupported({ term, table, problem })
  }

export const ctTerm = (context: FilterContext): TermCompiler => {
  const fail = failFor("ct")
  const tuple = Tuple.shape(context.family)
  const ends = ctPlaces(tuple)
  const natOnly = (term: Term): never => fail(printTerm(term), `only NAT entries have it; ${ctTerms}`)
  const compile = (term: Term): Match.Node => {
    switch (term._tag) {
      case "Protocol":
      case "Family":
      case "Related":
        return shared(term, tuple)
      case "Address":
        return term.end === "xlate" ? natOnly(term) : addressInKey(term, tuple, ends)
      case "Port":
      case "PortCompare":
        if (term.end === "xport") return natOnly(term)
        if (term.end !== "natport") return portInKey(term, tuple, ends)
        if (context.release === "1.20") return portInValue(term, CtEntry.offset.natPort)
        return fail(printTerm(term), "entries of release 1.17 have no NAT port, only those of 1.20")
      case "Direction": {
        const { SERVICE, IN } = TupleFlags
        if (term.direction === "service") return Match.keyByte(tuple.flags, SERVICE, SERVICE)
        return Match.keyByte(tuple.flags, SERVICE | IN, term.direction === "in" ? IN : 0)
      }
      case "Flag":
        return Match.valueBits16(CtEntry.offset.flags, term.mask)
      case "Expired":
      case "Alive": {
        const instant = now(term, context, fail)
        const expired = lifetimeIn(intervalOf("<", instant, instant))
        return term._tag === "Expired" ? expired : Match.negate(expired)
      }
      case "Time":
        return term.field === "age" ? natOnly(term) : ctTime(term, context, fail)
      case "Integer":
        return ctInteger(term, tuple, context, fail)
      case "NeedsCt":
        return natOnly(term)
    }
  }
  return { compile, fail }
}

export const natTerm = (context: FilterContext): TermCompiler => {
  const fail = failFor("nat")
  const tuple = Tuple.shape(context.family)
  const nat = NatEntry.shape(context.family)
  const ends = natPlaces(tuple)
  const ctOnly = (term: Term): never => fail(printTerm(term), `only CT entries have it; ${natTerms}`)
  const compile = (term: Term): Match.Node => {
    switch (term._tag) {
      case "Protocol":
      case "Family":
      case "Related":
        return shared(term, tuple)
      case "Address":
        if (term.end !== "xlate") return addressInKey(term, tuple, ends)
        return whenTest(inNetworks(context.family, term.networks), (test) => Match.inValue(nat.address, test))
      case "Port":
      case "PortCompare":
        if (term.end === "natport") return ctOnly(term)
        return term.end === "xport" ? portInValue(term, nat.port) : portInKey(term, tuple, ends)
      case "Direction": {
        const { SERVICE, IN } = TupleFlags
        if (term.direction === "service") return Match.keyByte(tuple.flags, SERVICE, SERVICE)
        return Match.keyByte(tuple.flags, IN, term.direction === "in" ? IN : 0)
      }
      case "Time": {
        if (term.field !== "age") return ctOnly(term)
        const created = before(now(term, context, fail), spanOf(term, context, fail))
        return within(created, U64_MAX, (from, to) => Match.valueU64(nat.created, from, to))
      }
      case "NeedsCt":
        return Match.valueU64(nat.needsCt, 1n, U64_MAX)
      case "Flag":
      case "Expired":
      case "Alive":
      case "Integer":
        return ctOnly(term)
    }
  }
  return { compile, fail }
}

const shared = (term: Extract<Term, { readonly _tag: "Protocol" | "Family" | "Related" }>, tuple: Tuple.Shape) => {
  switch (term._tag) {
    case "Protocol":
      return Match.keyByte(tuple.nexthdr, 0xff, term.protocol)
    case "Family":
      return term.family === tuple.family
    case "Related":
      return Match.keyByte(tuple.flags, TupleFlags.RELATED, TupleFlags.RELATED)
  }
}

interface Places {
  readonly src: Match.Place
  readonly dst: Match.Place
  readonly sport: Match.Place
  readonly dport: Match.Place
}

const ctPlaces = (tuple: Tuple.Shape): Places => {
  const flow = Tuple.ctEnds(tuple, TupleFlags.OUT)
  const service = Tuple.ctEnds(tuple, TupleFlags.SERVICE)
  const place = (end: keyof Tuple.Ends): Match.Place => ({ at: flow[end], atService: service[end], flags: tuple.flags })
  return {
    src: place("sourceAddress"),
    dst: place("destinationAddress"),
    sport: place("sourcePort"),
    dport: place("destinationPort")
  }
}

const natPlaces = (tuple: Tuple.Shape): Places => {
  const place = (at: number): Match.Place => ({ at, atService: at, flags: tuple.flags })
  return {
    src: place(tuple.saddr),
    dst: place(tuple.daddr),
    sport: place(tuple.sport),
    dport: place(tuple.dport)
  }
}

const whenTest = (test: Match.Test | boolean, match: (test: Match.Test) => Match.Match): Match.Node =>
  typeof test === "boolean" ? test : match(test)

const addressInKey = (term: Address, tuple: Tuple.Shape, places: Places): Match.Node =>
  whenTest(inNetworks(tuple.family, term.networks), (test) =>
    term.end === "src" || term.end === "dst"
      ? Match.inKey(places[term.end], test)
      : Match.inEither(tuple.daddr, tuple.saddr, test)
  )

const portInKey = (term: Port | PortCompare, tuple: Tuple.Shape, places: Places): Match.Node =>
  asPort(term, (test) =>
    term.end === "sport" || term.end === "dport"
      ? Match.inKey(places[term.end], test)
      : Match.inEither(tuple.dport, tuple.sport, test)
  )

const portInValue = (term: Port | PortCompare, offset: number): Match.Node =>
  asPort(term, (test) => Match.inValue(offset, test))

const asPort = (term: Port | PortCompare, match: (test: Match.Test) => Match.Match): Match.Node => {
  const node = whenTest(portTest(term), match)
  return term._tag === "PortCompare" && term.op === "!=" ? Match.negate(node) : node
}

type Fail = TermCompiler["fail"]

const now = (term: Term, context: FilterContext, fail: Fail): bigint => {
  if (context.now === undefined) {
    return fail(printTerm(term), "it needs the clock of the datapath, and none was given (`now`, in clock units)")
  }
  return Number.isInteger(context.now) && context.now >= 0 && context.now <= 0xffff_ffff
    ? BigInt(context.now)
    : fail(printTerm(term), `the clock reads ${context.now}, which is not an unsigned 32-bit number`)
}

/** The span of time of a term as an interval of whole clock units. */
const spanOf = (term: Time, context: FilterContext, fail: Fail): Interval => {
  const { secondsPerUnit } = context
  if (secondsPerUnit === undefined) {
    const problem = "it needs the unit of the datapath's clock, and none was given (`secondsPerUnit`)"
    return fail(printTerm(term), `${problem}: 1 where it counts seconds, 256 / hertz where it counts jiffies`)
  }
  const units = inUnits(term.millis, secondsPerUnit)
  return units === undefined
    ? fail(printTerm(term), `a clock unit of ${secondsPerUnit} seconds is not a span of time`)
    : intervalOf(term.op, ...units)
}

/** The instants that lie a span before another. */
const before = (instant: bigint, { from, to, negated }: Interval): Interval => ({
  from: instant - to,
  to: instant - from,
  negated
})

const lifetimeIn = (interval: Interval): Match.Node =>
  within(interval, U32_MAX, (from, to) => Match.valueU32(CtEntry.offset.lifetime, Number(from), Number(to)))

const ctTime = (term: Time, context: FilterContext, fail: Fail): Match.Node => {
  const at = now(term, context, fail)
  const span = spanOf(term, context, fail)
  if (term.field === "lifetime") {
    return lifetimeIn({ from: at + span.from, to: at + span.to, negated: span.negated })
  }
  const { lastTxReport, lastRxReport } = CtEntry.offset
  return within(before(at, span), U32_MAX, (from, to) =>
    Match.valueGreaterU32(lastTxReport, lastRxReport, Number(from), Number(to))
  )
}

const ctInteger = (term: Integer, tuple: Tuple.Shape, context: FilterContext, fail: Fail): Match.Node => {
  const { offset } = CtEntry
  const interval = intervalOf(term.op, term.value, term.value)
  const u16 = (at: number, littleEndian: boolean) =>
    within(interval, U16_MAX, (from, to) => Match.valueU16(at, littleEndian, Number(from), Number(to)))
  const u64 = (at: number) => within(interval, U64_MAX, (from, to) => Match.valueU64(at, from, to))
  switch (term.field) {
    case "packets":
      return u64(offset.packets)
    case "bytes":
      return u64(offset.bytes)
    case "identity":
      return within(interval, U32_MAX, (from, to) => Match.valueU32(offset.sourceSecurityId, Number(from), Number(to)))
    case "revnat":
      return u16(offset.revNat, false)
    case "backend": {
      if (context.release === "1.17") return u64(offset.backendId)
      return Match.every([Match.keyByte(tuple.flags, TupleFlags.SERVICE, TupleFlags.SERVICE), u64(offset.backendId)])
    }
    case "ifindex":
      if (context.release === "1.17") return u16(offset.ifindex, true)
      return fail(printTerm(term), "entries of release 1.20 have no interface index, only those of 1.17")
  }
}
