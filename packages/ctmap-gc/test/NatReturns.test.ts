import { natReturns } from "./natReturns.ts"
import * as Stage from "./stage.ts"

for (const engine of ["program", "portable"] as const) natReturns(Stage.memory, engine)
