/**
 * Compiles every package that goes to npm into its `dist`, and takes out of there what has no source any more: a
 * deleted module must not be published.
 */
import { existsSync, globSync, rmSync } from "node:fs"
import { join } from "node:path"
import { publishable, root, run, runIn } from "./workspace.ts"

for (const { folder } of publishable) {
  for (const file of globSync(`${folder}/dist/**/*.{js,d.ts,js.map,d.ts.map}`, { cwd: root })) {
    const source = file.replace("/dist/", "/src/").replace(/(\.d\.ts|\.js)(\.map)?$/, ".ts")
    if (!existsSync(join(root, source))) rmSync(join(root, file))
  }
}

const compiled = run("tsc", "-b", ...publishable.map(({ folder }) => `${folder}/tsconfig.src.json`))

// Programs start from a bundle; it comes after the clean-up above, which knows only modules with a source.
const bundled = publishable
  .filter(({ folder }) => existsSync(join(root, folder, "rolldown.config.ts")))
  .map(({ folder }) => runIn(folder, "pnpm", "--silent", "run", "build", "--logLevel", "silent"))

process.exitCode = [compiled, ...bundled].find((code) => code !== 0) ?? 0
