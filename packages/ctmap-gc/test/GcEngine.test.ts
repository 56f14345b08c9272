import { engineCases } from "./engineCases.ts"
import * as Stage from "./stage.ts"

for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) engineCases(Stage.memory, engine)
