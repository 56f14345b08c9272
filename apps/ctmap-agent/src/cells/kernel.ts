/**
 * The kernel, and where its pins are: what every other cell reaches maps through.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { Bpf, LibBpf, MapIterator, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

/** What cells that look at pins need. @since 0.1.0 */
export const keys = [Bpf.Bpf, Pins.BpfFsRoot] as const

/** @since 0.1.0 */
export const cell = Cell.make("kernel", {
  description: "the door to the kernel, and the bpffs below which maps are pinned",
  config: Schema.Struct({
    bpffsRoot: Schema.NonEmptyString.annotate({ description: "the directory that contains tc/globals" }).pipe(
      Schema.withDecodingDefaultKey(Effect.succeed("/sys/fs/bpf"))
    )
  }),
  provides: [Bpf.Bpf, Pins.BpfFsRoot, MapIterator.MapIterator],
  layer: ({ bpffsRoot }) =>
    MapIterator.layer.pipe(Layer.provideMerge(LibBpf.layer), Layer.merge(Layer.succeed(Pins.BpfFsRoot, bpffsRoot)))
})
