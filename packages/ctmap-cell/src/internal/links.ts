/** Cells made into a graph: who sees whose services, and what follows for the order. */
import type * as Cell from "../Cell.ts"
import { publicKeys } from "../Cell.ts"
import type { Cells } from "../Graph.ts"

export interface Linked {
  readonly cell: Cell.Any
  readonly parent: Linked | undefined
  /** Keys that the layer of the cell makes. */
  readonly makes: ReadonlyArray<string>
  needs: ReadonlyArray<{ readonly service: string; readonly from: Linked | undefined }>
}

/** Where a service is seen: within a cell, or everywhere (`undefined`). */
type Scope = Linked | undefined

export interface Links {
  /** Pre-order. */
  readonly nodes: ReadonlyArray<Linked>
  /** Who makes a service that is seen in a scope; more than one is a mistake. */
  readonly providers: ReadonlyMap<Scope, ReadonlyMap<string, ReadonlyArray<Linked>>>
  readonly order: ReadonlyArray<Linked>
}

export const links = ({ cells }: Pick<Cells, "cells">): Links => {
  const nodes = cells.flatMap((cell) => flatten(cell, undefined))
  const providers = new Map<Scope, Map<string, Array<Linked>>>()
  for (const node of nodes) {
    for (const service of node.makes) {
      const scope = scopeOf(node, service)
      const seen = providers.get(scope) ?? new Map<string, Array<Linked>>()
      providers.set(scope, seen.set(service, [...(seen.get(service) ?? []), node]))
    }
  }
  const providerOf = (node: Linked, service: string): Linked | undefined => {
    for (let scope: Scope = node; ; scope = scope.parent) {
      const found = providers
        .get(scope)
        ?.get(service)
        ?.find((other) => other !== node)
      if (found !== undefined || scope === undefined) return found
    }
  }
  for (const node of nodes) {
    const services = [...new Set(node.cell.needs.map(({ key }) => key))]
    node.needs = services.map((service) => ({ service, from: providerOf(node, service) }))
  }
  return { nodes, providers, order: orderOf(nodes) }
}

const flatten = (cell: Cell.Any, parent: Linked | undefined): ReadonlyArray<Linked> => {
  const nested = new Set(cell.cells.flatMap(publicKeys).map(({ key }) => key))
  const keys = [...cell.provides, ...cell.private].map(({ key }) => key)
  const node: Linked = { cell, parent, makes: [...new Set(keys)].filter((key) => !nested.has(key)), needs: [] }
  return [node, ...cell.cells.flatMap((inner) => flatten(inner, node))]
}

/** The innermost cell around that keeps the service to itself. */
const scopeOf = (node: Linked, service: string): Scope => {
  let scope: Scope = node
  while (scope !== undefined && !scope.cell.private.some(({ key }) => key === service)) scope = scope.parent
  return scope
}

/** Of all cells whose needs have started, the first declared is next. */
const orderOf = (nodes: ReadonlyArray<Linked>): ReadonlyArray<Linked> => {
  const order: Array<Linked> = []
  const started = new Set<Linked>()
  const canStart = (node: Linked) =>
    !started.has(node) && node.needs.every(({ from }) => from === undefined || started.has(from))
  for (let next = nodes.find(canStart); next !== undefined; next = nodes.find(canStart)) {
    order.push(next)
    started.add(next)
  }
  return order
}
