/**
 * The agent: every cell it is made of. What a host runs, and what tests replace parts of.
 *
 * @since 0.1.0
 */
import { Hive } from "ctmap-cell"
import * as Api from "./cells/api.ts"
import * as Clock from "./cells/clock.ts"
import * as Cluster from "./cells/cluster.ts"
import * as Endpoints from "./cells/endpoints.ts"
import * as Gc from "./cells/gc.ts"
import * as Instance from "./cells/instance.ts"
import * as Kernel from "./cells/kernel.ts"
import * as Log from "./cells/log.ts"
import * as Maps from "./cells/maps.ts"
import * as Metrics from "./cells/metrics.ts"
import * as Presence from "./cells/presence.ts"
import * as Pressure from "./cells/pressure.ts"
import * as Privileges from "./cells/privileges.ts"
import * as Reload from "./cells/reload.ts"
import * as Schedule from "./cells/schedule.ts"
import * as Signals from "./cells/signals.ts"
import * as Sources from "./cells/sources.ts"
import * as Systemd from "./cells/systemd.ts"
import { Configuration } from "./Configuration.ts"
import { LogControl } from "./Logs.ts"

/** Named for its settings: `CTMAP_…`. @since 0.1.0 */
export const hive = Hive.make("ctmap", {
  given: [Configuration, LogControl],
  cells: [
    Reload.cell,
    Log.cell,
    Kernel.cell,
    Instance.cell,
    Privileges.cell,
    Clock.cell,
    Maps.cell,
    Endpoints.cell,
    Sources.cell,
    Cluster.cell,
    Signals.cell,
    Gc.cell,
    Presence.cell,
    Pressure.cell,
    Metrics.cell,
    Api.cell,
    Schedule.cell,
    // The last to start, and the first to stop.
    Systemd.cell
  ]
})
