import { assert, describe, it } from "@effect/vitest"
import { Validator } from "@seriousme/openapi-schema-validator"
import { AgentApi, Problem, Request, Status } from "ctmap-api"
import type { Lifecycle } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as OpenApi from "effect/http-api/OpenApi"
import { readFileSync } from "node:fs"

const spec = OpenApi.fromApi(AgentApi.AgentApi)
const operations = Object.entries(spec.paths).flatMap(([path, item]) =>
  Object.entries(item).flatMap(([method, operation]) =>
    Array.isArray(operation) ? [] : [{ path, method, operation: operation as OpenApi.OpenAPISpecOperation }]
  )
)
const messageOf = (schema: Schema.Codec<unknown, unknown>, value: unknown): string => {
  const strict = { onExcessProperty: "error", errors: "all" } as const
  const result = Schema.decodeUnknownResult(schema, strict)(value)
  return Result.isFailure(result) ? result.failure.message : "accepted"
}

describe("the OpenAPI document", () => {
  it.effect("is valid by the JSON Schema of OpenAPI 3.1", () =>
    Effect.gen(function* () {
      const { errors, valid } = yield* Effect.promise(() => new Validator().validate(JSON.parse(JSON.stringify(spec))))
      assert.deepStrictEqual(errors ?? [], [])
      assert.isTrue(valid)
    })
  )

  it("is the one that is published", () => {
    const file = new URL("../docs/openapi.json", import.meta.url)
    assert.deepStrictEqual(JSON.parse(readFileSync(file, "utf8")), JSON.parse(JSON.stringify(spec)))
  })

  it("says of every operation what it is for, and of every query what it means", () => {
    assert.strictEqual(operations.length, 14)
    for (const { operation, path } of operations) {
      assert.isNotEmpty(operation.summary ?? "", path)
      assert.isNotEmpty(operation.description ?? "", path)
    }
    const entries = spec.paths["/v1/entries"]?.get
    const limit = entries?.parameters.find(({ name }) => name === "limit")
    assert.deepStrictEqual(limit, {
      name: "limit",
      in: "query",
      schema: { type: "integer", minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
      description: "The most entries to send.",
      required: false
    })
  })

  it("has problem documents for everything that is not a success", () => {
    for (const { operation, path } of operations) {
      for (const [status, response] of Object.entries(operation.responses)) {
        const types = Object.keys(response.content ?? {})
        assert.deepStrictEqual(types.includes("application/problem+json"), Number(status) >= 400, `${path} ${status}`)
      }
    }
  })

  it("has a token for those that need one, and for nobody else", () => {
    for (const { operation } of operations) assert.deepStrictEqual(operation.security, [{ bearer: [] }, {}])
  })
})

describe("problems", () => {
  it("are told apart by their type", () => {
    const problem = new Problem.NotFound({ detail: "no CT map is pinned there" })
    const encoded = Schema.encodeSync(Problem.Problem)(problem)
    assert.deepStrictEqual(encoded, {
      type: "urn:ctmap:problem:not-found",
      title: "Not found",
      status: 404,
      detail: "no CT map is pinned there"
    })
    const decoded = Schema.decodeUnknownSync(Problem.Problem)(encoded)
    assert.instanceOf(decoded, Problem.NotFound)
    assert.strictEqual(decoded.message, "no CT map is pinned there")
    const busy = Schema.decodeUnknownSync(Problem.Problem)({ type: "urn:ctmap:problem:busy", status: 503 })
    assert.strictEqual(busy._tag, "Busy")
    assert.strictEqual(busy.message, "Too many at once")
  })
})

describe("requests", () => {
  it("name no setting that is not there: a mistyped dryRun must not delete", () => {
    assert.include(messageOf(Request.Gc, { dryrun: true }), "dryrun")
    assert.include(messageOf(Request.Purge, { ip: ["10.0.0.1"], where: "tcp" }), "ip")
    assert.strictEqual(messageOf(Request.Gc, { dryRun: true }), "accepted")
    assert.strictEqual(messageOf(Request.Gc, {}), "accepted")
  })

  it("purge nothing unless they say what", () => {
    assert.include(messageOf(Request.Purge, {}), "would delete everything")
    assert.include(messageOf(Request.Purge, { dryRun: true }), "would delete everything")
    assert.notStrictEqual(messageOf(Request.Purge, { ips: [] }), "accepted")
    assert.strictEqual(messageOf(Request.Purge, { ips: ["10.0.0.1", "fd00::/64"], ports: ["80-90"] }), "accepted")
  })

  it("have filters that can be parsed, or say at which column not", () => {
    assert.strictEqual(messageOf(Request.Where, "tcp and dport 443"), "accepted")
    assert.include(messageOf(Request.Where, "tcp and"), "column 8")
    assert.notStrictEqual(messageOf(Request.Where, ""), "accepted")
  })

  it("have addresses, ports and protocols that are one word", () => {
    const wrong: ReadonlyArray<readonly [Schema.Codec<string>, ReadonlyArray<string>]> = [
      [Request.Host, ["", "10.0.0", "10.0.0.1 or tcp", "{10.0.0.1}", "10.0.0.0/33"]],
      [Request.Port, ["", "65536", "80 or tcp", "{80}", "-1"]],
      [Request.Protocol, ["", "256", "nonsense", "tcp or udp"]]
    ]
    for (const [schema, texts] of wrong) {
      for (const text of texts) assert.include(messageOf(schema, text), "Expected", text)
    }
    assert.strictEqual(messageOf(Request.Protocol, "132"), "accepted")
  })

  it("name owners as everything else does", () => {
    for (const owner of ["global", "endpoint 0", "endpoint 65535", "cluster 1", "cluster 511"]) {
      assert.strictEqual(messageOf(Request.Owner, owner), "accepted")
    }
    for (const owner of [
      "",
      "endpoint",
      "endpoint 07",
      "cluster 0",
      "cluster -1",
      "cluster 1 ",
      "Global",
      "global 1"
    ]) {
      assert.include(messageOf(Request.Owner, owner), "Expected global, endpoint N or cluster N")
    }
    assert.include(messageOf(Request.Owner, "endpoint 65536"), "Expected endpoint N with N of at most 65535")
    assert.include(messageOf(Request.Owner, "cluster 512"), "Expected cluster N with N of at most 511")
  })
})

describe("the status", () => {
  it("has room for every time that a hive keeps of a cell", () => {
    const times: Lifecycle.CellTimes = { cell: "gc", state: "started", startedAtMillis: 1, startMillis: 2 }
    const decoded: Lifecycle.CellTimes = Schema.decodeUnknownSync(Status.CellTimes)(times)
    assert.deepStrictEqual(decoded, times)
  })
})
