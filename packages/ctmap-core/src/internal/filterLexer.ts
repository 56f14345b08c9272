/** Words and signs of a filter text, and the one way in which reading them fails. */
import { FilterSyntaxError } from "../Filter.ts"
import { columnOf } from "./filterMessage.ts"

export interface Token {
  readonly kind: "word" | "sign" | "end"
  /** As written; empty at the end. */
  readonly text: string
  /** As written, in lower case: keywords are compared in this form. */
  readonly lower: string
  /** Offset into the text, in UTF-16 units. */
  readonly at: number
}

export interface Failure {
  readonly problem: string
  readonly expected: ReadonlyArray<string>
  /** Where inside the token. Default 0. */
  readonly offset?: number
}

/** A place in the tokens of one text. */
export class Cursor {
  readonly input: string
  readonly #tokens: ReadonlyArray<Token>
  #index = 0

  constructor(input: string) {
    this.input = input
    this.#tokens = tokens(input)
  }

  get token(): Token {
    return this.#tokens[this.#index] ?? end(this.input)
  }

  /** The current token; the cursor moves on. */
  take(): Token {
    const token = this.token
    this.#index++
    return token
  }

  /** Moves on if the current token is one of these keywords or signs. */
  accept(...texts: ReadonlyArray<string>): boolean {
    const { kind, lower } = this.token
    if (kind === "end" || !texts.includes(lower)) return false
    this.#index++
    return true
  }

  /** 1 is the first character of the text. */
  column(token: Token): number {
    return columnOf(this.input, token.at)
  }

  /** Throws: {@link FilterSyntaxError} at a token, by default the current one. */
  fail(failure: Failure, token: Token = this.token): never {
    throw new FilterSyntaxError({
      input: this.input,
      column: columnOf(this.input, token.at + (failure.offset ?? 0)),
      problem: failure.problem,
      found: token.text,
      expected: failure.expected
    })
  }
}

/** How an error calls a token: quoted and cut, or the end. */
export const called = (token: Token): string => (token.kind === "end" ? "the end of the filter" : quote(token.text))

export const quote = (text: string): string => {
  const characters = Array.from(text)
  const cut = characters.length > 40 ? `${characters.slice(0, 40).join("")}…` : text
  return `"${cut.replace(/\p{C}/gu, "\uFFFD")}"`
}

const signOrWord = /(&&|\|\||<=|>=|==|!=|[<>=!(){},&|])|[^\s<>=!(){},&|]+/gu

const tokens = (input: string): Array<Token> => {
  const found: Array<Token> = []
  for (const match of input.matchAll(signOrWord)) {
    const [text, sign] = match
    found.push({ kind: sign === undefined ? "word" : "sign", text, lower: text.toLowerCase(), at: match.index })
  }
  found.push(end(input))
  return found
}

const end = (input: string): Token => ({ kind: "end", text: "", lower: "", at: input.length })
