/**
 * What Effect's command lines ask for of the platform: nothing, as long as no flag is a path that must exist.
 *
 * The real services cost a fifth of the start. The commands that read files or ask questions load them and provide them
 * to themselves; parsing and help never look for one, and whatever does dies with the name of the service.
 *
 * @since 0.1.0
 */
import type * as Command from "effect/cli/Command"
import * as Context from "effect/Context"

/** Stands for the platform where it is not used. @since 0.1.0 */
export const unused: Context.Context<Command.Environment> = Context.empty() as Context.Context<Command.Environment>
