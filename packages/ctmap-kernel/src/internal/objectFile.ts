/**
 * The committed BPF objects, read once per process.
 */
import { readFileSync } from "node:fs"
import { BpfError, KernelUnavailable } from "../BpfError.ts"

const files = new Map<string, Uint8Array>()

/** The ELF file of an object, by the name of its source. */
export const objectFile = (name: string): Uint8Array | BpfError => {
  const known = files.get(name)
  if (known !== undefined) return known
  try {
    // Two levels below the package's root from `src` and from `dist` alike.
    const elf = readFileSync(new URL(`../../bpf/${name}.bpf.o`, import.meta.url))
    files.set(name, elf)
    return elf
  } catch (cause) {
    const why = `its BPF object cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`
    return new BpfError({ operation: "load program", errno: 0, reason: new KernelUnavailable({ why }) })
  }
}
