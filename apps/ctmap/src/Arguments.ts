/**
 * What the command line says in a way of its own, brought into the way of Effect's parser.
 *
 * @since 0.1.0
 */

/**
 * `--agent SOCKET` as `--agent=SOCKET`, where the next word can only be a place: it has a slash, or begins with `unix:`.
 *
 * **Details**
 *
 * The parser gives a value that may be absent no next word, for that could be a command: `ctmap --agent status`. No
 * command that goes by an agent takes a file, so nothing else is meant by such a word.
 *
 * @since 0.1.0
 */
export const joinAgent = (args: ReadonlyArray<string>): ReadonlyArray<string> => {
  const joined: Array<string> = []
  for (let i = 0; i < args.length; i++) {
    const word = args[i]!
    if (word === "--") return [...joined, ...args.slice(i)]
    const next = args[i + 1]
    if (word === "--agent" && next !== undefined && isPlace(next)) {
      joined.push(`--agent=${next}`)
      i++
    } else {
      joined.push(word)
    }
  }
  return joined
}

const isPlace = (word: string): boolean => !word.startsWith("-") && (word.includes("/") || word.startsWith("unix:"))
