/**
 * Turns the `ts` fences of the documentation into tests, so that no example can go stale.
 *
 * Fences come from the JSDoc of every module and from README.md and docs/*.md of the packages and of the root. A module
 * becomes one test file in the `.examples` folder of its package, a fence one test. What a line claims is asserted:
 *
 *     expression // => value            const name = expression
 *                                       // => value, here of `name`; goes on in lines that start with two spaces
 */
import { rmSync } from "node:fs"
import { basename, join } from "node:path"
import { parseAst } from "vitest/node"
import { filesOf, names, packages, read, root, write } from "./workspace.ts"

interface Fence {
  readonly title: string
  readonly where: string
  readonly code: string
}

interface Import {
  readonly local: string
  readonly text: string
}

/** The little of an ESTree node that is needed here. */
interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly source: { readonly value: string }
  readonly specifiers: ReadonlyArray<Node>
  readonly declaration?: Node | null
  readonly importKind?: "type" | "value"
  readonly imported: { readonly name: string }
  readonly local: { readonly name: string }
  readonly declarations: ReadonlyArray<{ readonly id: { readonly type: string; readonly name: string } }>
}

const fencesOf = (file: string): ReadonlyArray<Fence> => {
  const isCode = file.endsWith(".ts")
  const prefix = isCode ? /^\s*\* ?/ : /^/
  const heading = isCode ? /^\*\*Example\*\* \((.*)\)/ : /^#+ (.*)/
  const fences: Array<Fence> = []
  let title = "Example"
  let open: { readonly line: number; readonly code: Array<string> } | undefined
  for (const [index, raw] of read(file).split("\n").entries()) {
    const line = raw.replace(prefix, "")
    if (open === undefined) {
      title = heading.exec(line)?.[1] ?? title
      if (line.trimEnd() === "```ts" && (line !== raw || !isCode)) open = { line: index + 1, code: [] }
    } else if (line.trimEnd() === "```") {
      fences.push({ title, where: `${file}:${open.line}`, code: open.code.join("\n") })
      open = undefined
    } else open.code.push(line)
  }
  return fences
}

const importsOf = (node: Node): ReadonlyArray<Import> => {
  const from = JSON.stringify(node.source.value)
  if (node.specifiers.length === 0) return [{ local: from, text: `import ${from}` }]
  return node.specifiers.map((specifier) => {
    const local = specifier.local.name
    const type = node.importKind === "type" || specifier.importKind === "type" ? "type " : ""
    const binding =
      specifier.type === "ImportNamespaceSpecifier"
        ? `* as ${local}`
        : specifier.type === "ImportDefaultSpecifier"
          ? local
          : `{ ${specifier.imported.name === local ? local : `${specifier.imported.name} as ${local}`} }`
    return { local, text: `import ${type}${binding} from ${from}` }
  })
}

const statementsBelow = (node: unknown): ReadonlyArray<Node> => {
  if (typeof node !== "object" || node === null) return []
  const below = Object.values(node).flatMap(statementsBelow)
  const type = (node as Partial<Node>).type
  return type === "ExpressionStatement" || type === "VariableDeclaration" ? [node as Node, ...below] : below
}

const claim = /^[ \t]*(?:\n[ \t]*)?\/\/ => (.*(?:\n[ \t]*\/\/ {2,}\S.*)*)/

/** The body of a test: the code without its imports, its claims turned into assertions. */
const bodyOf = (code: string, program: ReadonlyArray<Node>): string => {
  const edits: Array<{ readonly start: number; readonly end: number; readonly text: string }> = []
  let claims = 0
  for (const { type, start, end, declaration } of program) {
    if (type === "ImportDeclaration") edits.push({ start, end, text: "" })
    // What a module exports is a plain declaration in a test.
    if (type === "ExportNamedDeclaration" && declaration) edits.push({ start, end: declaration.start, text: "" })
  }
  for (const statement of program.flatMap(statementsBelow)) {
    const match = claim.exec(code.slice(statement.end))
    if (match === null) continue
    const value = (match[1] ?? "").replace(/\n[ \t]*\/\//g, "\n").replace(/;$/, "")
    const rest = { start: statement.end, end: statement.end + match[0].length }
    const id = statement.type === "VariableDeclaration" ? statement.declarations[0]?.id : undefined
    if (id === undefined) {
      edits.push({ start: statement.start, end: statement.start, text: "Vitest.assert.deepStrictEqual(" })
      edits.push({ ...rest, text: `, ${value})` })
    } else if (id.type === "Identifier") {
      edits.push({ ...rest, text: `\nVitest.assert.deepStrictEqual(${id.name}, ${value})` })
    } else continue
    claims += 1
  }
  if (claims !== code.split("// =>").length - 1) throw new Error("a `// =>` does not follow an expression or a `const`")
  return edits
    .toSorted((a, b) => b.start - a.start)
    .reduce((text, edit) => text.slice(0, edit.start) + edit.text + text.slice(edit.end), code)
    .trim()
}

/** One or more test files for the fences of a module: fences that import different things by one name stay apart. */
const testFiles = (fences: ReadonlyArray<Fence>): ReadonlyArray<string> => {
  const files: Array<{ readonly imports: Map<string, string>; readonly tests: Array<string> }> = []
  for (const fence of fences) {
    try {
      const program = parseAst(fence.code, { lang: "ts" }).body as unknown as ReadonlyArray<Node>
      const imports = program.filter(({ type }) => type === "ImportDeclaration").flatMap(importsOf)
      const fits = (taken: ReadonlyMap<string, string>) =>
        imports.every(({ local, text }) => (taken.get(local) ?? text) === text)
      let file = files.find((candidate) => fits(candidate.imports))
      if (file === undefined) files.push((file = { imports: new Map(), tests: [] }))
      for (const { local, text } of imports) file.imports.set(local, text)
      const body = bodyOf(fence.code, program).replace(/^(?=.)/gm, "  ")
      const name = JSON.stringify(`${fence.title} (${fence.where})`)
      file.tests.push(`// ${fence.where}\nVitest.it(${name}, async () => {\n${body}\n})\n`)
    } catch (error) {
      console.error(`${fence.where}: ${error instanceof Error ? error.message : String(error)}`)
      process.exitCode = 1
    }
  }
  return files.map(({ imports, tests }) =>
    [
      `// Generated by scripts/doc-examples.ts\nimport * as Vitest from "vitest"\n${[...imports.values()].join("\n")}\n`,
      ...tests
    ].join("\n")
  )
}

const generate = (folder: string, sources: ReadonlyArray<string>): void => {
  const examples = folder === "" ? ".examples" : `${folder}/.examples`
  const fresh = new Set<string>()
  for (const source of sources) {
    const name = source.slice(folder === "" ? 0 : folder.length + 1).replace(/^src\//, "")
    const stem = name.replace(/\.(ts|md)$/, "").replaceAll("/", ".")
    for (const [index, text] of testFiles(fencesOf(source)).entries()) {
      const file = `${examples}/${stem}${index === 0 ? "" : `.${index + 1}`}.test.ts`
      write(file, text)
      fresh.add(basename(file))
    }
  }
  for (const name of names(examples)) if (!fresh.has(name)) rmSync(join(root, examples, name))
}

const documents = (folder: string): ReadonlyArray<string> =>
  [`${folder}README.md`, ...names(`${folder}docs`).map((name) => `${folder}docs/${name}`)].filter(
    (file) => file.endsWith(".md") && names(folder).length > 0 && existing.has(file)
  )

const existing = new Set(filesOf())

generate("", documents(""))
for (const { folder } of packages) {
  const modules = [...existing].filter((file) => file.startsWith(`${folder}/src/`) && file.endsWith(".ts"))
  generate(folder, [...modules, ...documents(`${folder}/`)])
}
