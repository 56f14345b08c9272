/**
 * Structures that libbpf and the kernel take and give about maps, pins and iterators.
 */
import type * as Bpf from "../Bpf.ts"

/** `sz` and the two fields that are used of `struct bpf_map_create_opts`, 48 bytes: see libbpf's bpf.h. */
export const createOptions = (flags: number, innerFd: number | undefined): Uint8Array => {
  const bytes = new Uint8Array(48)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, 48n, true)
  if (innerFd !== undefined) view.setInt32(24, innerFd, true)
  view.setUint32(28, flags, true)
  return bytes
}

/** The head of `struct bpf_map_info`. */
export const readInfo = (info: Uint8Array): Bpf.MapInfo => {
  const view = new DataView(info.buffer)
  const u32 = (at: number): number => view.getUint32(at, true)
  const name = info.subarray(24, 40)
  const end = name.indexOf(0)
  return {
    type: u32(0),
    id: u32(4),
    keySize: u32(8),
    valueSize: u32(12),
    maxEntries: u32(16),
    flags: u32(20),
    name: String.fromCharCode(...name.subarray(0, end < 0 ? name.length : end))
  }
}

/** `struct bpf_obj_get_opts`: its size, and the flags. */
export const openOptions = (flags: number): Uint8Array => {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, 16n, true)
  view.setUint32(8, flags, true)
  return bytes
}
