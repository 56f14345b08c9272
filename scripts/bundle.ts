/**
 * How programs are bundled: a start from one file and a few chunks, not from hundreds of modules. Runs in the folder of
 * the program.
 */
import { chmodSync, cpSync, globSync, rmSync } from "node:fs"
import { basename } from "node:path"
import type { RolldownOptions } from "rolldown"

const bpf = new URL("../packages/ctmap-kernel/bpf/", import.meta.url).pathname

/** `src/bin.ts` as `dist/NAME.js`, which can be executed. */
export const bundle = (name: string): RolldownOptions => ({
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
