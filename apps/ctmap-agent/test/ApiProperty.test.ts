/** Whatever is sent, the API answers as its document says, and goes on. */
import { assert, describe, it } from "@effect/vitest"
import { AgentApi } from "ctmap-api"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as OpenApi from "effect/http-api/OpenApi"
import * as Schema from "effect/Schema"
import { type Answer, ask, problemOf, serving, settled } from "./apiStage.ts"
import { makeKernel, restore } from "./stage.ts"

const spec = JSON.parse(JSON.stringify(OpenApi.fromApi(AgentApi.AgentApi))) as Spec

interface JsonSchema {
  readonly $ref?: string
  readonly type?: string
  readonly enum?: ReadonlyArray<unknown>
  readonly examples?: ReadonlyArray<unknown>
  readonly items?: JsonSchema
  readonly properties?: Readonly<Record<string, JsonSchema>>
}
interface Operation {
  readonly parameters: ReadonlyArray<{ readonly name: string; readonly schema: JsonSchema }>
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: JsonSchema }>> }
  readonly responses: Readonly<Record<string, unknown>>
}
interface Spec {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: Readonly<Record<string, JsonSchema>> }
}

const operations = Object.entries(spec.paths).flatMap(([path, item]) =>
  Object.entries(item)
    .filter(([, operation]) => "responses" in operation)
    .map(([method, operation]) => ({ path, method: method.toUpperCase(), operation }))
)

/** Numbers to decide by: the whole case follows from them, so that it can shrink. */
const Choices = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff }))).check(
  Schema.isMinLength(24),
  Schema.isMaxLength(24)
)
type Pick = (n: number) => number

const oddTexts = [
  "",
  "0",
  "-1",
  "1e9",
  "4294967296",
  "9007199254740993",
  "NaN",
  "null",
  "true",
  "tcp",
  "tcp and",
  "not not not",
  "(".repeat(300),
  "host {10.0.0.1, fd00::/8}",
  "10.0.0.1",
  "10.0.0.0/33",
  "fd00::1",
  "cluster 3",
  "endpoint 99999",
  "global",
  "cilium_ct4_global",
  "../../etc/passwd",
  "a\u0000b",
  "\u{1F525}",
  "%00",
  "x".repeat(2000),
  "lifetime < 60s",
  "expired"
]

const resolve = (schema: JsonSchema): JsonSchema =>
  schema.$ref === undefined ? schema : (spec.components.schemas[schema.$ref.split("/").at(-1) ?? ""] ?? {})

/** A value that is right, nearly right, or nothing of the kind. */
const valueOf = (given: JsonSchema, pick: Pick, depth = 0): unknown => {
  const schema = resolve(given)
  const odd: ReadonlyArray<unknown> = [null, true, -1, 1.5, "", [], {}, [[]], { a: 1 }, oddTexts[pick(oddTexts.length)]]
  if (pick(4) === 0 || depth > 3) return odd[pick(odd.length)]
  if (schema.enum !== undefined) return schema.enum[pick(schema.enum.length)]
  if (schema.examples !== undefined && pick(2) === 0) return schema.examples[pick(schema.examples.length)]
  switch (schema.type) {
    case "array":
      return Array.from({ length: pick(4) }, () => valueOf(schema.items ?? {}, pick, depth + 1))
    case "object": {
      const entries = Object.entries(schema.properties ?? {}).filter(() => pick(2) === 0)
      const extra: ReadonlyArray<readonly [string, unknown]> = pick(6) === 0 ? [["dryrun", true]] : []
      return Object.fromEntries([
        ...entries.map(([name, each]) => [name, valueOf(each, pick, depth + 1)] as const),
        ...extra
      ])
    }
    case "integer":
    case "number":
      return [0, 1, 7, 255, 256, 65_536, -1][pick(7)]
    case "boolean":
      return pick(2) === 0
    default:
      return oddTexts[pick(oddTexts.length)]
  }
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value))

const bodyOf = (operation: Operation, pick: Pick): string | undefined => {
  const schema = operation.requestBody?.content["application/json"]?.schema
  if (schema === undefined) return pick(4) === 0 ? "{}" : undefined
  const text = JSON.stringify(valueOf(schema, pick))
  const broken = [
    text.slice(0, -1),
    `${text}}`,
    "",
    "\u0000",
    "[".repeat(5000),
    '{"__proto__":{"dryRun":true}}',
    text.replaceAll('"', "'")
  ]
  return pick(5) === 0 ? broken[pick(broken.length)] : text
}

const caseOf = (choices: ReadonlyArray<number>) => {
  let at = 0
  const pick: Pick = (n) => choices[at++ % choices.length]! % n
  const { method, operation, path } = operations[pick(operations.length)]!
  const query = operation.parameters
    .filter(() => pick(2) === 0)
    .flatMap(({ name, schema }) => {
      const value = valueOf(schema, pick)
      const values = Array.isArray(value) && pick(3) > 0 ? value : [value]
      return values.map((each) => `${encodeURIComponent(name)}=${encodeURIComponent(textOf(each))}`)
    })
  if (pick(8) === 0) query.push("unheard-of=1")
  if (pick(12) === 0) query.push("where=%zz")
  // Streams of events have no end: they are asked for with a query that is refused.
  if (path === "/v1/events") query.push("reason=none")
  const body = method === "GET" ? undefined : bodyOf(operation, pick)
  const types = ["application/json", "text/plain", "application/json; charset=latin1", "multipart/form-data", ""]
  const headers: Record<string, string> =
    body !== undefined && pick(8) === 0 ? { "content-type": types[pick(types.length)]! } : {}
  return { method, operation, body, headers, path: query.length === 0 ? path : `${path}?${query.join("&")}` }
}

const complaint = (answer: Answer, { operation, path }: ReturnType<typeof caseOf>): string | undefined => {
  const { status, text } = answer
  if (!(String(status) in operation.responses)) return `${status} of ${path} is not documented: ${text.slice(0, 300)}`
  if (status === 500) return `${path}: ${text.slice(0, 300)}`
  if (status < 400) return undefined
  try {
    problemOf(answer)
    return undefined
  } catch (error) {
    return String(error)
  }
}

describe("whatever is asked", () => {
  it.live("has an answer that the document knows, refusals are problems, and the agent goes on", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { at, context } = yield* serving(twin)
      yield* settled(context, twin)
      const statuses = new Map<number, number>()
      const complaints: Array<string> = []
      const result = yield* Arbitrary.checkEffect(
        Arbitrary.schema(Choices),
        (choices) =>
          Effect.gen(function* () {
            const made = caseOf(choices)
            const { body, headers, method, path } = made
            const answer = yield* ask({ at, path, method, headers, ...(body === undefined ? {} : { body }) })
            statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
            const wrong = complaint(answer, made)
            if (wrong !== undefined) complaints.push(`${method} ${path} ${body ?? ""}: ${wrong}`)
            return wrong === undefined
          }),
        { runs: 1500, seed: 11 }
      )
      assert.strictEqual(result._tag, "Passed", complaints.at(-1))
      // Not everything was refused, nor everything taken.
      for (const status of [200, 400]) assert.isAbove(statuses.get(status) ?? 0, 100, JSON.stringify([...statuses]))
      assert.strictEqual((yield* ask({ at, path: "/v1/health" })).status, 200)
      assert.strictEqual((yield* ask({ at, path: "/readyz" })).text, "ready\n")
    })
  )

  it.live("the document is the one that is published", () =>
    Effect.gen(function* () {
      const { at } = yield* serving(makeKernel())
      const { text, type } = yield* ask({ at, path: "/v1/openapi.json" })
      assert.strictEqual(type, "application/json")
      assert.deepStrictEqual(JSON.parse(text), spec)
    })
  )

  it.live("by paths that nobody knows is 404, by other methods 405", () =>
    Effect.gen(function* () {
      const { at } = yield* serving(makeKernel())
      const Path = Schema.String.check(Schema.isMaxLength(40))
      const result = yield* Arbitrary.checkEffect(
        Arbitrary.schema(Schema.Tuple([Path, Schema.Literals(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])])),
        ([text, method]) =>
          Effect.gen(function* () {
            const path = `/${encodeURI(text.toWellFormed()).replaceAll("#", "")}`
            const answer = yield* ask({ at, path, method })
            problemOf(answer)
            return answer.status === 404
          }),
        { runs: 200, seed: 3 }
      )
      assert.strictEqual(result._tag, "Passed", Arbitrary.formatCheckFailure(result))
      const known = new Map(Object.entries(spec.paths).map(([path, item]) => [path, Object.keys(item)]))
      for (const [path, methods] of known) {
        for (const method of ["get", "post", "put", "patch", "delete", "options"]) {
          if (methods.includes(method)) continue
          const answer = yield* ask({ at, path, method: method.toUpperCase() })
          assert.strictEqual(answer.status, 405, `${method} ${path}`)
          assert.strictEqual(problemOf(answer).type, "urn:ctmap:problem:method-not-allowed")
        }
      }
    })
  )
})
