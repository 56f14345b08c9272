/** How ids and settings are spelled: kebab-case, and what flags and variables make of it. */

const KEBAB = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/
const FIELD = /^[a-z][a-zA-Z0-9]*$/

export const isKebab = (text: string): boolean => KEBAB.test(text)
export const isField = (text: string): boolean => FIELD.test(text)

/** `maxAge` as `max-age`. */
export const kebab = (field: string): string => field.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** `max-age` as `MAX_AGE`. */
export const upperSnake = (text: string): string => text.replaceAll("-", "_").toUpperCase()

/** What somebody who wrote `word` may have meant: the nearest of the words, if it is near at all. */
export const nearest = (word: string, words: Iterable<string>): string | undefined => {
  let best: string | undefined
  let least = Math.max(2, Math.floor(word.length / 3)) + 1
  for (const candidate of words) {
    const distance = edits(word, candidate)
    if (distance < least) [best, least] = [candidate, distance]
  }
  return best
}

/** Letters to insert, drop or change. */
const edits = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
