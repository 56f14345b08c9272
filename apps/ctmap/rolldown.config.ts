/** Bundles the program. */
import { bundle, together } from "../../scripts/bundle.ts"

export default await together(bundle("ctmap"), ["src/run.ts", "src/commands/count.ts"])
