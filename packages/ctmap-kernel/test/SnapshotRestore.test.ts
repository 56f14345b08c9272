/** Restoring onto tables that hold entries, and may be in use. */
import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { BpfMemory, type Snapshot as Types } from "ctmap-kernel"
import * as Snapshot from "ctmap-kernel/Snapshot"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { bytesOf, ctValue, limits, linesOf, piecesOf, temporary } from "./snapshotCases.ts"
import { CT4, everything, keyOf, line, lines, path, pinned, restore, run } from "./snapshotMemory.ts"

const ANY4 = "cilium_ct_any4_global"

/** What the table must hold: entry by entry, the lifetime of each. */
const table = (entries: ReadonlyArray<readonly [i: number, lifetime: number]>): ReadonlyArray<string> =>
  linesOf(entries.map(([i, lifetime]) => line(i, CT4, lifetime)).join(""))

describe("a merge into a table in use", () => {
  it.effect("takes an LRU to the point where it may evict, and not one entry further", () =>
    run(
      Effect.gen(function* () {
        // 1024 entries, less 128 for each of two CPUs.
        yield* pinned(1024)
        yield* restore(lines(700))
        const before = yield* everything
        // 650 to 699 are there and need no room.
        const error = yield* Effect.flip(restore(lines(50 + 69, 650)))
        assert.strictEqual(error._tag, "NoRoom")
        assert.strictEqual(
          error.message,
          `map ${CT4} at ${path(CT4)} holds 700 of 1024 entries and takes 68 more before it may evict, 69 are to come ` +
            `(1025 entries would do); nothing was changed: make pinned CT maps larger (ctmap upgrade --migrate ` +
            `--bpf-ct-global-tcp-max N --bpf-ct-global-any-max N), or replace what they hold (--replace), or accept ` +
            `that entries are evicted (--allow-eviction)`
        )
        assert.strictEqual(yield* everything, before)
        const [restored] = yield* restore(lines(50 + 68, 650))
        assert.deepStrictEqual([restored?.kept, restored?.evicted, restored?.now], [50, 0, 768])
      })
    )
  )

  it.effect("refuses for all maps at once, before one of them is written to or made", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(1024)
        yield* restore(lines(700))
        const control = yield* BpfMemory.Control
        const error = yield* Effect.flip(restore(line(1, ANY4) + lines(100, 700)))
        assert.strictEqual(error._tag === "NoRoom" && error.maps.length, 1)
        assert.deepStrictEqual(control.pins(), [path(CT4)])
        assert.strictEqual(control.map(path(CT4))?.size(), 700)
      })
    )
  )

  it.effect("refuses what a hash that is no LRU has no room for, whatever is accepted", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(100, { type: MapSpec.mapType.hash })
        yield* restore(lines(60))
        const error = yield* Effect.flip(restore(lines(41, 60), { failOnEviction: false }))
        assert.strictEqual(error._tag, "NoRoom")
        assert.include(
          error.message,
          "holds 60 of 100 entries and takes 40 more, 41 are to come (101 entries would do)"
        )
        assert.notInclude(error.message, "--allow-eviction")
        assert.strictEqual((yield* restore(lines(40, 60)))[0]?.now, 100)
      })
    )
  )

  it.effect("evicts where that is accepted, and says how many", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(1024)
        yield* restore(lines(700))
        const [restored] = yield* restore(lines(400, 700), { failOnEviction: false })
        assert.deepStrictEqual([restored?.now, restored?.evicted], [1024, 76])
      })
    )
  )

  it.effect("keeps what is there, or overwrites it where that is wanted", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        yield* restore(line(1, CT4, 900) + line(2, CT4, 900))
        const snapshot = line(2, CT4, 100) + line(3, CT4, 100)
        const [kept] = yield* restore(snapshot)
        assert.deepStrictEqual([kept?.entries, kept?.kept, kept?.overwritten, kept?.now], [2, 1, 0, 3])
        const merged = yield* everything
        assert.deepStrictEqual(
          linesOf(merged),
          table([
            [1, 900],
            [2, 900],
            [3, 100]
          ])
        )
        const [written] = yield* restore(snapshot, { overwrite: true })
        assert.deepStrictEqual([written?.entries, written?.kept, written?.overwritten, written?.now], [2, 0, 2, 3])
        assert.deepStrictEqual(
          linesOf(yield* everything),
          table([
            [1, 900],
            [2, 100],
            [3, 100]
          ])
        )
      })
    )
  )

  it.effect("keeps an entry that the datapath inserts between the look and the write", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        const control = yield* BpfMemory.Control
        control.onCall((call) => {
          if (call === "update") control.map(path(CT4))?.update(keyOf(2), ctValue(900))
        })
        const [restored] = yield* restore(line(2, CT4, 100))
        assert.deepStrictEqual([restored?.entries, restored?.kept], [1, 1])
        assert.deepStrictEqual(linesOf(yield* everything), table([[2, 900]]))
      })
    )
  )
})

describe("replacing what a table in use holds", () => {
  it.effect("never lacks an entry that is in both, and leaves what the datapath inserts meanwhile", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        yield* restore(lines(2000))
        const control = yield* BpfMemory.Control
        const map = control.map(path(CT4))!
        let inserted = false
        const off = control.onCall((call) => {
          for (let i = 1000; i < 2000; i += 100) assert.isDefined(map.lookup(keyOf(i)), `entry ${i}, before ${call}`)
          if (call !== "updateBatch" || map.size() !== 1000 || inserted) return
          inserted = true
          map.update(keyOf(5000), ctValue(5000))
        })
        const [restored] = yield* restore(Array.from({ length: 1500 }, (_, i) => line(1000 + i, CT4, 7)).join(""), {
          replace: true
        })
        off()
        assert.deepStrictEqual(
          [restored?.entries, restored?.cleared, restored?.overwritten, restored?.now],
          [1500, 1000, 1000, 1501]
        )
        const wanted = Array.from({ length: 1500 }, (_, i) => [1000 + i, 7] as const)
        assert.deepStrictEqual(linesOf(yield* everything), table([...wanted, [5000, 5000]]))
      })
    )
  )

  it.effect("needs room for the snapshot only", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(1024)
        yield* restore(lines(760))
        assert.strictEqual((yield* restore(lines(768, 10_000), { replace: true }))[0]?.now, 768)
        const error = yield* Effect.flip(restore(lines(769), { replace: true }))
        assert.include(error.message, "holds 0 of 1024 entries and takes 768 more before it may evict, 769 are to come")
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(768, 10_000)))
      })
    )
  )

  const whole = lines(2000, 100)
  it.effect.each([
    ["a malformed line at the end", piecesOf(`${whole}${CT4}\tzz\t00\n`), /line 2001 of the snapshot has 2 hex digits/],
    ["a last line that is cut", piecesOf(whole.slice(0, -20)), /line 2000 of the snapshot is cut short/],
    ["a map of no known name at the end", piecesOf(`${whole}cilium_lb4\t00\t00\n`), /names "cilium_lb4"/],
    [
      "gzip that is cut in the middle",
      Snapshot.decompressed("x.gz", bytesOf(gzipSync(whole).subarray(0, 5000))),
      /x\.gz is no complete gzip file/
    ],
    ["no gzip at all", Snapshot.decompressed("x.gz", piecesOf(whole)), /must not be named \.gz/],
    ["gzip under another name", bytesOf(gzipSync(whole)), /line 1 of the snapshot is compressed: name the file \.gz/]
  ] as const)("is not begun for a text with %s", ([, text, says]) =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        yield* restore(lines(300))
        const error = yield* Effect.flip(Snapshot.restore(text, { ...limits, replace: true }))
        assert.strictEqual(error._tag, "SnapshotError")
        assert.match(error.message, says)
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(300)))
      })
    )
  )

  it.effect("is not begun with a text that is another when it is read again", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        yield* restore(lines(300))
        for (const second of [lines(1500, 100), lines(2000, 100) + line(1, ANY4)]) {
          let runs = 0
          const text = Stream.suspend(() => piecesOf(runs++ === 0 ? whole : second))
          const error = yield* Effect.flip(Snapshot.restore(text, { ...limits, replace: true }))
          assert.include(error.message, "the snapshot changed while it was read")
          assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(300)))
        }
      })
    )
  )

  it.effect("is told ahead what it comes to", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(1024)
        yield* restore(lines(300))
        const text = piecesOf(lines(100, 250) + line(1, ANY4))
        const about = { map: CT4, path: path(CT4), isPinned: true, entries: 100, there: 300 }
        const made = { map: ANY4, path: path(ANY4), isPinned: false, entries: 1, there: 0, coming: 1, room: 4096 }
        assert.deepStrictEqual(yield* Snapshot.plan(text, limits), [{ ...about, coming: 50, room: 468 }, made])
        assert.deepStrictEqual(yield* Snapshot.plan(text, { ...limits, replace: true }), [
          { ...about, coming: 100, room: 768 },
          made
        ])
      })
    )
  )
})

describe("a restore that stops half-way", () => {
  const text = lines(150, 20) + line(1, ANY4)

  it.effect.each([
    ["a merge", {}],
    ["a replacement", { replace: true }]
  ] as const)("%s: whichever call fails, the error says exactly what the table holds now", ([, options]) =>
    Effect.gen(function* () {
      const before = lines(60)
      let stopped = 0
      let untouched = 0
      const attempt = (skip: number) =>
        run(
          Effect.gen(function* () {
            yield* Effect.scoped(pinned(4096))
            yield* restore(before)
            const control = yield* BpfMemory.Control
            const from = control.count()
            control.failNext("any", 5, { skip })
            const result = yield* Effect.result(restore(text, options))
            const wasHit = control.count() - from > skip
            control.clearFaults()
            if (result._tag === "Failure") {
              assert.match(result.failure.message, /errno 5/)
              assert.deepStrictEqual([control.openFds(), control.pins()], [[], [path(CT4)]])
              const now = linesOf(yield* everything)
              if (result.failure._tag === "RestoreStopped") {
                stopped++
                const [ct, any] = result.failure.maps
                const old = now.filter((each) => linesOf(before).includes(each) && !text.includes(each)).length
                assert.strictEqual(20 - old, ct?.cleared)
                if ("replace" in options) assert.isAtLeast(now.length, 40)
                else assert.strictEqual(now.length, 60 + (ct?.written ?? 0))
                assert.strictEqual(any?.written ?? 0, any?.created === true ? any.written : 0)
                assert.include(result.failure.message, "the restore stopped half-way: cilium_ct4_global at ")
                assert.match(result.failure.message, /cilium_ct_any4_global (was made for it and is gone again)/)
              } else {
                untouched++
                assert.deepStrictEqual(now, linesOf(before))
              }
            }
            return wasHit
          })
        )
      for (let skip = 0; yield* attempt(skip); skip += skip < 15 ? 1 : 19);
      assert.isAbove(stopped, 2)
      assert.isAbove(untouched, 2)
    })
  )

  it.effect("an interruption tells how far it came, and what was made is gone", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        const control = yield* BpfMemory.Control
        let heard: Types.RestoreStopped | undefined
        const onInterrupt = (stopped: Types.RestoreStopped) => Effect.sync(() => void (heard = stopped))
        const fiber = yield* Effect.forkChild(restore(line(1, ANY4) + lines(3000), { onInterrupt }))
        while ((control.map(path(CT4))?.size() ?? 0) < 1024) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        const written = control.map(path(CT4))?.size() ?? 0
        assert.isBelow(written, 3000)
        assert.strictEqual(
          heard?.message,
          `interrupted; the restore stopped half-way: ${ANY4} was made for it and is gone again; ${CT4} at ` +
            `${path(CT4)} has ${written} of 3000 entries written; give the same command again to complete it`
        )
        assert.deepStrictEqual(control.pins(), [path(CT4)])
      })
    )
  )
})

describe("what is read more than once", () => {
  /** Runs with temporary files in a directory of their own; afterwards it must be empty. */
  const inOwnDirectory = <A, E, R>(use: (directory: string) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const [directory, before] = [mkdtempSync(join(tmpdir(), "ctmap-spool-")), process.env["TMPDIR"]]
        process.env["TMPDIR"] = directory
        return { directory, before }
      }),
      ({ directory }) =>
        Effect.ensuring(
          use(directory),
          Effect.sync(() => assert.deepStrictEqual(readdirSync(directory), []))
        ),
      ({ directory, before }) =>
        Effect.sync(() => {
          if (before === undefined) delete process.env["TMPDIR"]
          else process.env["TMPDIR"] = before
          rmSync(directory, { recursive: true, force: true })
        })
    )

  it.effect("a text that comes once is spooled to a file without a name", () =>
    inOwnDirectory((directory) =>
      run(
        Effect.gen(function* () {
          let runs = 0
          const once = Stream.suspend(() => (runs++ === 0 ? piecesOf(lines(5000), 1000) : Stream.empty))
          const text = yield* Snapshot.spooled(once)
          assert.deepStrictEqual(readdirSync(directory), [])
          yield* Snapshot.restore(text, { limits: { ctTcp: 8192, ctAny: 1024, nat: 1024 } })
          assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(5000)))
        })
      )
    )
  )

  it.effect("an error of the text and an interruption leave no file", () =>
    inOwnDirectory(() =>
      run(
        Effect.gen(function* () {
          const error = yield* Effect.flip(
            Snapshot.spooled(Stream.concat(piecesOf(lines(5000)), Stream.fail("the pipe broke")))
          )
          assert.strictEqual(error, "the pipe broke")
          const reached = yield* Deferred.make<void>()
          const endless = Stream.concat(
            piecesOf(lines(5000)),
            Stream.unwrap(Effect.as(Deferred.succeed(reached, undefined), Stream.never))
          )
          const fiber = yield* Effect.forkChild(Snapshot.spooled(endless))
          yield* Deferred.await(reached)
          yield* Fiber.interrupt(fiber)
        })
      )
    )
  )

  it.effect("a directory that takes no file is named, with the way out", () =>
    inOwnDirectory((directory) =>
      run(
        Effect.gen(function* () {
          const missing = join(directory, "missing")
          process.env["TMPDIR"] = missing
          const error = yield* Effect.flip(Snapshot.spooled(piecesOf(lines(1))))
          assert.match(
            error.message,
            /^the snapshot cannot be kept in \S+missing while it is checked \(ENOENT: .*\); nothing was changed: .*TMPDIR$/
          )
        })
      )
    )
  )

  it.effect("a file that is written to after it was checked is refused", () =>
    run(
      Effect.gen(function* () {
        const file = `${yield* temporary}/table.tsv`
        writeFileSync(file, lines(10))
        const text = yield* Snapshot.fileText(file)
        yield* Snapshot.plan(text, limits)
        appendFileSync(file, line(10))
        const error = yield* Effect.flip(Snapshot.restore(text, limits))
        assert.include(error.message, "the snapshot changed while it was read")
      })
    )
  )
})
