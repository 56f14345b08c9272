/** What is in `deploy/`: checked by those who read it, systemd and the schema of Kubernetes, and against the agent. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Settings } from "ctmap-cell"
import { KernelClock } from "ctmap-kernel"
import * as Yaml from "effect/encoding/Yaml"
import { DaemonSet, type IDaemonSet } from "kubernetes-models/apps/v1"
import { type IServiceAccount, ServiceAccount } from "kubernetes-models/v1"
import { hive } from "../src/Agent.ts"

const root = fileURLToPath(new URL("../../..", import.meta.url))
const read = (path: string): string => readFileSync(join(root, "deploy", path), "utf8")

/** A directory for as long as it is used. */
const within = <A>(parent: string, use: (directory: string) => A): A => {
  const directory = mkdtempSync(join(parent, "ctmap-deploy-"))
  try {
    return use(directory)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const variables = new Set(Settings.definitions(hive).map(({ variable }) => variable))

const areSettings = (text: string): void => {
  const named = [...text.matchAll(/\bCTMAP_[A-Z0-9_]+/g)].map(([name]) => name)
  assert.deepStrictEqual(
    named.filter((name) => !variables.has(name)),
    []
  )
}

describe("deploy/kubernetes", () => {
  const documents = read("kubernetes/ctmap-agent.yaml")
    .split(/^---$/m)
    .map((text) => Yaml.parse(text) as { readonly kind: string })
  const of = (kind: string) => documents.find((document) => document.kind === kind)
  const daemonSet = of("DaemonSet") as IDaemonSet
  const account = of("ServiceAccount") as IServiceAccount
  const pod = daemonSet.spec!.template.spec!
  const [container] = pod.containers

  it("has values that the schema of Kubernetes allows", () => {
    assert.deepStrictEqual(
      documents.map(({ kind }) => kind),
      ["ServiceAccount", "DaemonSet"]
    )
    new ServiceAccount(account).validate()
    new DaemonSet(daemonSet).validate()
  })

  it("has no field that Kubernetes does not know: those are dropped without a word", () => {
    const literal = (kind: string) => JSON.stringify(of(kind))
    const compile = (accounts: string, daemons: string) =>
      within(fileURLToPath(new URL("..", import.meta.url)), (directory) => {
        const text = `
          import type { IDaemonSet } from "kubernetes-models/apps/v1"
          import type { IServiceAccount } from "kubernetes-models/v1"
          export const accounts: IServiceAccount = ${accounts}
          export const daemons: IDaemonSet = ${daemons}`
        writeFileSync(join(directory, "manifest.ts"), text)
        const flags = [
          "--ignoreConfig",
          "--noEmit",
          "--strict",
          "--skipLibCheck",
          "--module",
          "nodenext",
          "--target",
          "es2024"
        ]
        return spawnSync("tsc", [...flags, "manifest.ts"], { cwd: directory, encoding: "utf8" })
      })
    const { status, stdout } = compile(literal("ServiceAccount"), literal("DaemonSet"))
    assert.strictEqual(status, 0, stdout)
    // The check itself: a misspelt field is found.
    const wrong = compile(literal("ServiceAccount"), literal("DaemonSet").replace('"hostPath"', '"hostpath"'))
    assert.notStrictEqual(wrong.status, 0)
    assert.include(wrong.stdout, "hostpath")
  })

  it("asks for CAP_BPF and CAP_PERFMON and nothing else, and can pin nothing", () => {
    assert.deepStrictEqual(container!.securityContext, {
      runAsUser: 0,
      runAsGroup: 0,
      privileged: false,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"], add: ["BPF", "PERFMON"] },
      seccompProfile: { type: "RuntimeDefault" }
    })
    const bpffs = container!.volumeMounts!.find(({ name }) => name === "bpffs")
    assert.deepInclude(bpffs, { mountPath: "/sys/fs/bpf", mountPropagation: "HostToContainer", readOnly: true })
    assert.isFalse(pod.automountServiceAccountToken)
    for (const shared of [pod.hostNetwork, pod.hostPID, pod.hostIPC]) assert.isUndefined(shared)
  })

  it("lets the agent read which clock the datapath counts with, where Cilium says so, and change nothing there", () => {
    const state = container!.volumeMounts!.find(({ mountPath }) => mountPath === dirname(KernelClock.RUNTIME_CONFIG))
    assert.isTrue(state?.readOnly)
    const volume = pod.volumes!.find(({ name }) => name === state?.name)
    assert.strictEqual(volume?.hostPath?.path, dirname(KernelClock.RUNTIME_CONFIG))
  })

  it("selects its own pods, mounts what it names, and sets what the agent knows", () => {
    const { selector, template } = daemonSet.spec!
    assert.deepStrictEqual(template.metadata?.labels, selector.matchLabels)
    assert.strictEqual(pod.serviceAccountName, account.metadata?.name)
    assert.sameMembers(
      container!.volumeMounts!.map(({ name }) => name),
      pod.volumes!.map(({ name }) => name)
    )
    const [port] = container!.ports!
    const listens = container!.env!.find(({ name }) => name === "CTMAP_PROMETHEUS_SERVE_ADDR")
    assert.strictEqual(listens?.value, `:${port!.containerPort}`)
    assert.strictEqual(template.metadata?.annotations?.["prometheus.io/port"], String(port!.containerPort))
    for (const probe of [container!.startupProbe, container!.readinessProbe, container!.livenessProbe]) {
      assert.deepStrictEqual(probe?.httpGet, { path: "/metrics", port: port!.name! })
    }
    areSettings(read("kubernetes/ctmap-agent.yaml"))
  })
})

/** Points: 0 is locked up, 10 is wide open. What is left is named in the README. */
const EXPOSURE = 2.5

describe("deploy/systemd", () => {
  const unit = read("systemd/ctmap-agent.service")
  const dropIns = ["signals.conf", "clusters.conf"]
  const hasSystemd = existsSync("/usr/bin/systemd-analyze") || existsSync("/bin/systemd-analyze")
  if (!hasSystemd) process.stderr.write("skipped: what systemd says of its unit: systemd-analyze is not installed\n")

  /** Where the unit names the program, one that is there; a drop-in is appended, as its lists add up. */
  const analyze = (verb: ReadonlyArray<string>, added = "") =>
    within(tmpdir(), (directory) => {
      const path = join(directory, "ctmap-agent.service")
      const [head = "", install = ""] = unit.split("[Install]")
      writeFileSync(
        path,
        `${head.replace(/^ExecStart=.*$/m, `ExecStart=${process.execPath}`)}${added}[Install]${install}`
      )
      return spawnSync("systemd-analyze", [...verb, path], { encoding: "utf8" })
    })

  for (const dropIn of [undefined, ...dropIns]) {
    const added = dropIn === undefined ? "" : `${read(`systemd/${dropIn}`)}\n`
    it.skipIf(!hasSystemd)(`${dropIn ?? "the unit"} is one that systemd reads without a complaint`, () => {
      const { status, stderr, stdout } = analyze(["verify", "--man=no"], added)
      assert.deepStrictEqual([status, stderr, stdout], [0, "", ""])
    })
  }

  it.skipIf(!hasSystemd)(`exposes no more than ${EXPOSURE} of 10 by systemd's own measure`, () => {
    const { stdout } = analyze(["security", "--offline=true", "--no-pager"])
    const [, exposure] = /Overall exposure level for .*: ([\d.]+)/.exec(stdout) ?? []
    assert.isAtMost(Number(exposure), EXPOSURE, stdout)
  })

  it("sets nothing that is known to break the agent", () => {
    for (const trap of ["MemoryDenyWriteExecute", "PrivateUsers", "PrivateBPF", "ProcSubset", "DynamicUser"]) {
      assert.notMatch(unit, new RegExp(`^${trap}=`, "m"))
    }
  })

  it("grants what it bounds, and sets what the agent knows", () => {
    for (const file of ["ctmap-agent.service", ...dropIns]) {
      const text = read(`systemd/${file}`)
      const of = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(text)?.[1]
      assert.isDefined(of("AmbientCapabilities"))
      assert.strictEqual(of("AmbientCapabilities"), of("CapabilityBoundingSet"))
      areSettings(text)
    }
    const [, user] = /^User=(.*)$/m.exec(unit) ?? []
    assert.match(read("systemd/sysusers.conf"), new RegExp(`^u ${user} `, "m"))
  })
})
