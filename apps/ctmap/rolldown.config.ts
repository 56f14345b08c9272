/** Bundles the program. */
import { bundle } from "../../scripts/bundle.ts"

export default bundle("ctmap")
