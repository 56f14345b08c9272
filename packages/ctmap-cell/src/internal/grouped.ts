/** `Map.groupBy`, which Node 20 does not have. */
export const grouped = <A>(items: ReadonlyArray<A>, nameOf: (item: A) => string): Map<string, Array<A>> => {
  const groups = new Map<string, Array<A>>()
  for (const item of items) {
    const name = nameOf(item)
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [item])
    else group.push(item)
  }
  return groups
}
