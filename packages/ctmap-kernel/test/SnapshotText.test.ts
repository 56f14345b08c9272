import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { gunzipSync, gzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { BpfMemory } from "ctmap-kernel"
import * as Snapshot from "ctmap-kernel/Snapshot"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { bytesOf, limits, linesOf, piecesOf, recordedText, temporary, textOf, openAll } from "./snapshotCases.ts"
import { CT4, path, run, restore, line, lines, pinned, everything } from "./snapshotMemory.ts"

describe("reading", () => {
  it.effect("takes the text in pieces of any size", () =>
    run(
      Effect.gen(function* () {
        const text = recordedText("nat-orphans-ktime").split("\n").slice(0, 60).join("\n")
        const whole = yield* Snapshot.inspect(piecesOf(text))
        for (const size of [1, 2, 3, 100, 161, 162, 163, 5000]) {
          assert.deepStrictEqual(yield* Snapshot.inspect(piecesOf(text, size)), whole)
        }
        yield* Snapshot.restore(piecesOf(text, 7), limits)
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(`${text}\n`))
      })
    )
  )

  it.effect("keeps no piece of the text that its source may fill again", () =>
    run(
      Effect.gen(function* () {
        const piece = new Uint8Array(100)
        const reused = Stream.map(Stream.rechunk(piecesOf(lines(50), 100), 1), (bytes) => {
          piece.set(bytes)
          return piece.subarray(0, bytes.byteLength)
        })
        yield* Snapshot.restore(reused, limits)
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(50)))
      })
    )
  )

  it.effect("takes maps in any order, line by line", () =>
    run(
      Effect.gen(function* () {
        const text = recordedText("nat-orphans-ktime")
          .split("\n")
          .filter((_, i) => i % 7 === 0 && i > 0)
        const shuffled = text.map((each, i) => text[(i * 97) % text.length] ?? each)
        const unique = [...new Set(shuffled)]
        yield* restore(`${unique.join("\n")}\n`)
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(`${unique.join("\n")}\n`))
      })
    )
  )

  it.effect("accepts capital digits, empty lines and a last line without its newline", () =>
    run(
      Effect.gen(function* () {
        const capital = line(0xabc).replace(/\t(.*)/, (tail) => tail.toUpperCase())
        yield* restore(`\n${capital}\n${line(1)}${line(2).trimEnd()}`)
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(line(0xabc) + line(1) + line(2)))
      })
    )
  )

  it.effect("finds nothing in an empty text", () =>
    run(Effect.map(restore(""), (restored) => assert.deepStrictEqual(restored, [])))
  )

  const [, key = "", value = ""] = line(0).trimEnd().split("\t")
  it.effect.each([
    [`${lines(3)}some_map\t${key}\t${value}\n`, `line 4 of the snapshot names "some_map", which is no CT or NAT map`],
    [line(0, "cilium_signals"), `line 1 of the snapshot names "cilium_signals", which is no CT or NAT map of Cilium`],
    [line(0, "cilium_per_cluster_ct_tcp4"), `line 1 of the snapshot names "cilium_per_cluster_ct_tcp4", which is no`],
    [`${lines(2)}${line(0, "cilium_ct6_global")}`, "line 3 of the snapshot has 28 hex digits as the key of cilium_ct6"],
    [
      `${lines(1500)}${CT4}\t${key}\t${value.slice(1)}\n`,
      "line 1501 of the snapshot has 111 hex digits as the value of"
    ],
    [
      `${CT4}\t${key}\t${value}\r\n`,
      "line 1 of the snapshot has 113 hex digits as the value of cilium_ct4_global, where 112"
    ],
    [`${CT4}\t${key.replace("0", "g")}\t${value}\n`, `line 1 of the snapshot has "g" in the key of cilium_ct4_global`],
    [
      `${line(0)}\n\n${CT4} ${key}\n`,
      "line 4 of the snapshot has 1 fields where three are expected, map name, key and value"
    ],
    [`${CT4}\t${key}\t${value}\t\n`, "line 1 of the snapshot has 4 fields where three are expected"],
    ["x".repeat(10_000), "line 1 of the snapshot is longer than a line of a snapshot can be"],
    [lines(5).slice(0, -2), "line 5 of the snapshot is cut short: the end of the text is missing"],
    [lines(5).slice(0, -115), "line 5 of the snapshot is cut short"],
    [lines(5).slice(0, -150), "line 5 of the snapshot is cut short"]
  ] as const)("refuses a damaged text: %#", ([text, expected]) =>
    run(
      Effect.gen(function* () {
        for (const size of [50, 70_000]) {
          for (const attempt of [
            Snapshot.inspect(piecesOf(text, size)),
            Snapshot.restore(piecesOf(text, size), limits)
          ]) {
            const error = yield* Effect.flip(attempt)
            assert.strictEqual(error._tag, "SnapshotError")
            assert.isTrue(error.message.startsWith(expected), error.message)
          }
        }
        // What the restore had made is gone again.
        assert.deepStrictEqual((yield* BpfMemory.Control).pins(), [])
      })
    )
  )

  it.effect("hands on what the text's own stream fails with", () =>
    run(
      Effect.gen(function* () {
        const text = Stream.concat(piecesOf(lines(10)), Stream.fail("torn"))
        assert.strictEqual(yield* Effect.flip(Snapshot.restore(text, limits)), "torn")
        assert.strictEqual(yield* Effect.flip(Stream.runDrain(Snapshot.compressed("a.gz", text))), "torn")
        const zipped = Stream.concat(bytesOf(gzipSync(lines(1000)).subarray(0, 500)), Stream.fail("torn"))
        assert.strictEqual(yield* Effect.flip(Snapshot.inspect(Snapshot.decompressed("a.gz", zipped))), "torn")
      })
    )
  )
})

describe("files", () => {
  it.effect("are written whole or not at all, and an old one stays", () =>
    run(
      Effect.gen(function* () {
        const directory = yield* temporary
        const file = `${directory}/maps.tsv`
        yield* restore(lines(3000))
        const maps = yield* openAll
        assert.deepStrictEqual(yield* Snapshot.saveFile(file, maps), [{ map: CT4, entries: 3000 }])
        assert.deepStrictEqual(linesOf(readFileSync(file, "latin1")), linesOf(lines(3000)))
        const control = yield* BpfMemory.Control
        control.failNext("lookupBatch", 5, { skip: 1 })
        const error = yield* Effect.flip(Snapshot.saveFile(file, maps))
        assert.strictEqual(error._tag, "BpfError")
        assert.deepStrictEqual(readdirSync(directory), ["maps.tsv"])
        assert.deepStrictEqual(linesOf(readFileSync(file, "latin1")), linesOf(lines(3000)))
        const missing = yield* Effect.flip(Snapshot.saveFile(`${directory}/no/maps.tsv`, maps))
        assert.strictEqual(missing._tag, "PlatformError")
      })
    )
  )

  it.effect("that are damaged, or too large, are refused before anything is deleted", () =>
    run(
      Effect.gen(function* () {
        const directory = yield* temporary
        yield* pinned(1024)
        yield* restore(lines(10))
        const whole = gzipSync(lines(2000, 100))
        const files: Readonly<Record<string, string | Uint8Array>> = {
          "damaged.tsv": `${lines(900, 100)}oops\n`,
          "cut.tsv.gz": whole.subarray(0, whole.byteLength - 20),
          "no.tsv.gz": lines(3),
          "large.tsv.gz": whole
        }
        const errors: Array<string> = []
        for (const [name, bytes] of Object.entries(files)) {
          writeFileSync(`${directory}/${name}`, bytes)
          const error = yield* Effect.flip(Snapshot.restoreFile(`${directory}/${name}`, { replace: true }))
          errors.push(error.message.replaceAll(directory, ""))
        }
        assert.deepStrictEqual(errors, [
          "line 901 of the snapshot has 1 fields where three are expected, map name, key and value: a snapshot has one `map name<TAB>key hex<TAB>value hex` a line",
          "the snapshot /cut.tsv.gz is no complete gzip file (unexpected end of file): take it again from where it came from; a file that is not compressed must not be named .gz",
          "the snapshot /no.tsv.gz is no complete gzip file (incorrect header check): take it again from where it came from; a file that is not compressed must not be named .gz",
          `map ${CT4} at ${path(CT4)} holds 0 of 1024 entries and takes 768 more before it may evict, 2000 are to come (2256 entries would do); nothing was changed: make pinned CT maps larger (ctmap upgrade --migrate --bpf-ct-global-tcp-max N --bpf-ct-global-any-max N), or accept that entries are evicted (--allow-eviction)`
        ])
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(10)))
        const none = yield* Effect.flip(Snapshot.restoreFile(`${directory}/none`))
        assert.strictEqual(none._tag, "PlatformError")
      })
    )
  )

  it.effect("are compressed by their names, in pieces of any size", () =>
    Effect.gen(function* () {
      const text = lines(3000)
      for (const size of [1000, 100_000, 1_000_000]) {
        const zipped = Buffer.concat(yield* Stream.runCollect(Snapshot.compressed("a.gz", piecesOf(text, size))))
        assert.strictEqual(gunzipSync(zipped).toString("latin1"), text)
        assert.isBelow(zipped.byteLength, text.length / 4)
        assert.strictEqual(yield* textOf(Snapshot.decompressed("a.gz", bytesOf(zipped, size / 100))), text)
      }
      assert.strictEqual(yield* textOf(Snapshot.compressed("a.tsv", piecesOf(text))), text)
    })
  )
})
