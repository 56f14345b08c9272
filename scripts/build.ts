/**
 * Compiles every package that goes to npm into its `dist`, and takes out of there what has no source any more: a
 * deleted module must not be published.
 */
import { spawnSync } from "node:child_process"
import { existsSync, globSync, rmSync } from "node:fs"
import { join } from "node:path"
import { publishable, root, run } from "./workspace.ts"

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
  .map(({ folder }) => {
    const { status, stdout, stderr } = spawnSync("pnpm", ["--silent", "run", "build"], {
      cwd: join(root, folder),
      encoding: "utf8"
    })
    if (status !== 0) console.error(stdout + stderr)
    return status ?? 1
  })

process.exitCode = [compiled, ...bundled].find((code) => code !== 0) ?? 0
