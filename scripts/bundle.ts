/**
 * How programs are bundled: a start from one file and a few chunks, not from hundreds of modules. Runs in the folder of
 * the program.
 */
import { chmodSync, cpSync, globSync, rmSync } from "node:fs"
import { basename, resolve } from "node:path"
import {
  type CodeSplittingGroup,
  type InputOptions,
  type OutputChunk,
  type OutputOptions,
  rolldown,
  type RolldownOptions
} from "rolldown"

const bpf = new URL("../packages/ctmap-kernel/bpf/", import.meta.url).pathname

/**
 * The same bundle with one chunk for what each of these modules needs at once, and no chunk before it has. It is loaded
 * together anyway, and finding, reading and linking a file takes a millisecond; left alone there are dozens of them. What
 * is needed is read off a bundle that is made without this: before unused code has gone, too much seems to be.
 */
export const together = async (
  options: ReturnType<typeof bundle>,
  entries: ReadonlyArray<string>
): Promise<RolldownOptions> => {
  const trial = await rolldown({ ...options, logLevel: "silent" })
  const { output } = await trial.generate({ ...options.output, sourcemap: false })
  await trial.close()
  const chunks = new Map(output.flatMap((each) => (each.type === "chunk" ? [[each.fileName, each] as const] : [])))
  /** What a chunk loads with it. */
  const modulesOf = (first: OutputChunk): ReadonlyArray<string> => {
    const files = new Set([first.fileName])
    for (const file of files) for (const imported of chunks.get(file)?.imports ?? []) files.add(imported)
    return [...files].flatMap((file) => chunks.get(file)?.moduleIds ?? [])
  }
  // What the program itself needs stays apart: it turns on the cache of compiled code for the rest.
  const taken = new Set([...chunks.values()].filter(({ isEntry }) => isEntry).flatMap(modulesOf))
  const groups = entries.map((entry, i): CodeSplittingGroup => {
    const first = chunks.values().find(({ facadeModuleId }) => facadeModuleId === resolve(entry))
    if (first === undefined) throw new Error(`${entry} is no module that is loaded on its own`)
    const modules = new Set(modulesOf(first).filter((id) => !taken.has(id)))
    for (const id of modules) taken.add(id)
    return {
      name: basename(entry, ".ts"),
      test: (id) => modules.has(id),
      priority: entries.length - i,
      includeDependenciesRecursively: false
    }
  })
  return { ...options, output: { ...options.output, codeSplitting: { groups } } }
}

/** `src/bin.ts` as `dist/NAME.js`, which can be executed. */
export const bundle = (name: string): InputOptions & { readonly output: OutputOptions } => ({
  input: { [name]: "src/bin.ts" },
  platform: "node",
  // Native code cannot be bundled: koffi is a dependency at run time.
  external: ["koffi"],
  // Sources, so that a build needs no other build before it.
  resolve: { conditionNames: ["ctmap-source", "import", "node", "default"] },
  plugins: [
    {
      // `import` of a builtin makes Node read every property of it, and those of node:fs load its streams: 3 ms.
      name: "lean-builtins",
      resolveId: (id) => (/^node:(fs|os|path)$/.test(id) ? `\0lean:${id}` : undefined),
      load: (id) =>
        id.startsWith("\0lean:")
          ? { code: `module.exports = process.getBuiltinModule(${JSON.stringify(id.slice(6))})`, moduleType: "js" }
          : undefined
    },
    {
      name: "bpf-objects",
      // Modules of ctmap-kernel look for their BPF objects beside `src`; here they lie beside the program.
      transform: (code, id) =>
        id.includes("/ctmap-kernel/") && code.includes("../bpf/")
          ? { code: code.replaceAll(/(\.\.\/)+bpf\//g, "./bpf/"), map: null }
          : undefined,
      buildStart: () => {
        for (const file of globSync("dist/**/*.{js,js.map}")) rmSync(file)
        for (const file of globSync(`${bpf}*.bpf.o`)) cpSync(file, `dist/bpf/${basename(file)}`)
      },
      writeBundle: () => chmodSync(`dist/${name}.js`, 0o755)
    }
  ],
  output: {
    dir: "dist",
    format: "esm",
    sourcemap: true,
    // Half of the text is documentation, and reading it is a tenth of the start. Names stay as they are.
    minify: { compress: false, mangle: false, codegen: true },
    chunkFileNames: "[name]-[hash].js",
    banner: (chunk) => (chunk.isEntry ? "#!/usr/bin/env node" : "")
  }
})
