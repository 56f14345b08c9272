/** The keys of what a hive itself provides. */
import { Health, Reporter } from "../Health.ts"
import { Jobs } from "../Job.ts"
import { Lifecycle } from "../Lifecycle.ts"
import { Settings } from "../Settings.ts"

export const reserved: ReadonlySet<string> = new Set(
  [Health, Reporter, Jobs, Lifecycle, Settings].map(({ key }) => key)
)
