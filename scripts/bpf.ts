/**
 * Compiles every `packages/<package>/bpf/<name>.bpf.c` to the object beside it, which is committed: nobody needs a
 * compiler to use ctmap. With `--check` it compiles to a temporary folder and says which committed objects differ.
 * Names select sources: `node scripts/bpf.ts compare_delete`.
 *
 * One compiler version, no include path and no absolute path: the same source gives the same bytes on every machine.
 * Debug information is stripped but for .BTF and .BTF.ext, which the kernel wants.
 */
import { spawnSync } from "node:child_process"
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { names, packages, root } from "./workspace.ts"

const CLANG = "clang-19"
const STRIP = "llvm-strip-19"
const FLAGS = [
  ["-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-std=gnu11"],
  ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"],
  ["-nostdinc", "-fno-ident", "-fdebug-compilation-dir=."]
].flat()

const isThere = (program: string): boolean => spawnSync(program, ["--version"]).status === 0

/** Runs a program; throws its output where it fails. */
const must = (program: string, args: ReadonlyArray<string>, cwd: string): void => {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: "utf8" })
  if (status !== 0)
    throw new Error(`${program} ${args.join(" ")}\n${error?.message ?? ""}${stdout ?? ""}${stderr ?? ""}`)
}

const compile = (folder: string, source: string, to: string): void => {
  // By its bare name, in its own folder: the name ends up in the object.
  must(CLANG, [...FLAGS, "-c", source, "-o", to], join(root, folder))
  must(STRIP, ["-g", to], join(root, folder))
}

const wanted = process.argv.slice(2).filter((word) => !word.startsWith("-"))

const sources = packages.flatMap(({ folder }) =>
  names(`${folder}/bpf`)
    .filter((name) => name.endsWith(".bpf.c") && (wanted.length === 0 || wanted.includes(name.slice(0, -6))))
    .map((source) => ({ folder: `${folder}/bpf`, source, object: source.replace(/\.c$/, ".o") }))
)

const check = process.argv.includes("--check")

if (![CLANG, STRIP].every(isThere)) {
  if (process.env["CI"] === "true" && process.getuid?.() === 0) {
    must("apt-get", ["update"], root)
    must("apt-get", ["install", "-y", "--no-install-recommends", "clang-19", "llvm-19"], root)
  } else if (check) {
    console.log(
      `NOT CHECKED: whether ${sources.length} committed BPF objects fit their sources needs ${CLANG} and ${STRIP}`
    )
    process.exit(0)
  } else {
    console.error(`${CLANG} and ${STRIP} are needed: Debian and Ubuntu \`apt-get install clang-19 llvm-19\``)
    process.exit(1)
  }
}

const folder = mkdtempSync(join(tmpdir(), "ctmap-bpf-"))
try {
  for (const { folder: home, source, object } of sources) {
    const built = join(folder, object)
    const committed = join(root, home, object)
    compile(home, source, built)
    if (!check) {
      copyFileSync(built, committed)
      console.log(`${home}/${object}`)
    } else if (!existsSync(committed) || !readFileSync(committed).equals(readFileSync(built))) {
      console.log(`${home}/${object} does not fit ${source}: node scripts/bpf.ts`)
      process.exitCode = 1
    }
  }
} finally {
  rmSync(folder, { recursive: true })
}
