/**
 * `ctmap macros`: the header that tells the datapath the names and sizes of its CT maps.
 *
 * @since 0.1.0
 */
import * as BpfMacros from "ctmap-core/BpfMacros"
import * as MapLimits from "ctmap-core/MapLimits"
import * as Effect from "effect/Effect"
import type { Sizes } from "../Options.ts"
import * as Output from "../Output.ts"

/** @since 0.1.0 */
export interface MacrosOptions extends Sizes {
  readonly endpoint: number | undefined
}

/** @since 0.1.0 */
export const macros = ({ endpoint, ...sizes }: MacrosOptions) =>
  Effect.flatMap(Effect.fromResult(MapLimits.check(sizes)), (limits) =>
    Output.write(BpfMacros.format({ limits, ...(endpoint === undefined ? {} : { endpointId: endpoint }) }))
  )
