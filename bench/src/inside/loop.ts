/**
 * Inside the process that a soak watches, by `node --import`: how late its event loop is, and its memory. Reports a line
 * of JSON a second to fd 3. `SOAK_GC_SECONDS` is how often what is garbage is taken away, so that what is left can be told.
 */
import { openSync, readSync, writeSync } from "node:fs"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void
const gcEvery = Number(process.env["SOAK_GC_SECONDS"]) * 1000
if (!(gcEvery > 0)) throw new Error("SOAK_GC_SECONDS: a number above 0")

const schedstat = openSync("/proc/thread-self/schedstat", "r")
const text = Buffer.alloc(96)
/** Milliseconds for which this thread was ready to run, and another one had the CPU. */
const waited = (): number => {
  const [, nanoseconds = "0"] = text.toString("latin1", 0, readSync(schedstat, text, 0, text.length, 0)).split(" ")
  return Number(nanoseconds) / 1e6
}

let startedAt = Date.now()
let gaps: Array<number> = []
let waits: Array<readonly [at: number, hundredths: number]> = []
let last = performance.now()
let lastWait = waited()
let [nextReport, nextGc] = [last + 1000, last + gcEvery]

const hundredths = (millis: number): number => Math.round(millis * 100)

const report = (live: number | undefined): void => {
  const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage()
  const [startedAtMillis, gapsOf, waitsOf] = [startedAt, gaps, waits]
  const line = { startedAtMillis, gaps: gapsOf, waits: waitsOf, rss, heapUsed, external, arrayBuffers, live }
  gaps = []
  waits = []
  writeSync(3, `${JSON.stringify(line)}\n`)
}

const turn = (): void => {
  const now = performance.now()
  const wait = waited()
  if (wait - lastWait >= 0.05) waits.push([gaps.length, hundredths(wait - lastWait)])
  gaps.push(hundredths(now - last))
  last = now
  lastWait = wait
  if (now >= nextReport) {
    nextReport += 1000
    let live: number | undefined
    if (now >= nextGc) {
      nextGc += gcEvery
      collect()
      live = process.memoryUsage().heapUsed
    }
    report(live)
    // What this cost is not the process' own.
    startedAt = Date.now()
    last = performance.now()
    lastWait = waited()
  }
  setTimeout(turn, 1).unref()
}
setTimeout(turn, 1).unref()
