/**
 * Which ctmap-agent this is.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"

/** One level below the package, from `src` and from `dist`. @since 0.1.0 */
export const version: string = (
  JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }
).version
