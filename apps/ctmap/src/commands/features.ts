/**
 * `ctmap features`: what this kernel can do for ctmap, as far as this process may try.
 *
 * @since 0.1.0
 */
import * as Features from "ctmap-kernel/Features"
import * as Effect from "effect/Effect"
import * as Kernel from "../Kernel.ts"
import * as Report from "../render/Report.ts"

const columns: ReadonlyArray<Report.Field> = [
  { key: "feature", title: "FEATURE" },
  { key: "answer", title: "HERE" },
  { key: "since", title: "SINCE LINUX" },
  { key: "use", title: "USED FOR" }
]

/** @since 0.1.0 */
export const features = (root: string, output: Report.Format) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const probes = yield* Features.Features
      const answers = yield* probes.all
      yield* Report.print(
        output,
        columns,
        answers.map(({ feature, answer }) => {
          const { since, use } = Features.features[feature]
          return { feature, answer: say(answer), since, use }
        })
      )
    }).pipe(Effect.provide(Features.layer))
  )

const say = (answer: Features.Answer): string => {
  switch (answer._tag) {
    case "Supported":
      return "yes"
    case "Missing":
      return `no (errno ${answer.errno})`
    case "NotPermitted":
      return "not permitted (needs CAP_BPF, some CAP_PERFMON or CAP_NET_ADMIN)"
  }
}
