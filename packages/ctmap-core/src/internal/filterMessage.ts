/** The text of a syntax error: a sentence, the input with a caret under the column, and what is allowed there. */

const WINDOW = 96
const LINE = 100

/** Characters before an offset of the text, plus one: positions count characters, not UTF-16 units. */
export const columnOf = (input: string, offset: number): number => {
  let column = 1
  for (const character of input.slice(0, offset)) column += character.length > 0 ? 1 : 0
  return column
}

export const pointAt = (error: {
  readonly input: string
  readonly column: number
  readonly problem: string
  readonly expected: ReadonlyArray<string>
}): string => {
  const characters = Array.from(error.input, printable)
  const at = error.column - 1
  const start = characters.length <= WINDOW ? 0 : Math.max(0, Math.min(at - WINDOW / 2, characters.length - WINDOW))
  const before = start > 0 ? "…" : ""
  const after = start + WINDOW < characters.length ? "…" : ""
  const shown = characters.slice(start, start + WINDOW).join("")
  const lines = [
    `column ${error.column}: ${error.problem}`,
    `  ${before}${shown}${after}`,
    `  ${" ".repeat(before.length + at - start)}^`
  ]
  if (error.expected.length > 0) lines.push(...wrapped(error.expected))
  return lines.join("\n")
}

/** One cell for one character, and nothing that a terminal would obey. */
const printable = (character: string): string =>
  /^\s$/u.test(character) ? " " : /^\p{C}$/u.test(character) ? "\uFFFD" : character

const wrapped = (words: ReadonlyArray<string>): Array<string> => {
  const lines: Array<string> = []
  let line = "expected:"
  for (const [i, word] of words.entries()) {
    const item = i < words.length - 1 ? `${word},` : word
    if (line.length + 1 + item.length > LINE) {
      lines.push(line)
      line = " ".repeat("expected:".length)
    }
    line += ` ${item}`
  }
  lines.push(line)
  return lines
}
