/**
 * Before every test file: samples of property tests are the same in every run, so that what fails has to do with what was
 * changed. `CTMAP_SEED=random`, or a number, looks for what other samples bring to light.
 */
import * as Arbitrary from "effect/Arbitrary"

const seed = process.env["CTMAP_SEED"] ?? "1"
if (seed !== "random") Arbitrary.configureGlobal({ check: { seed }, sample: { seed } })
