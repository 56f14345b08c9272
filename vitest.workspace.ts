import { defineConfig } from "vitest/config"

// Loaded with --config: vitest 5 has no workspace file of its own, this is the workspace's one configuration.
const conditions = ["ctmap-source"]

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    pool: "threads",
    // Tests spawn programs and load others: on a busy machine that takes long, and a hang is one at any limit.
    testTimeout: 240_000,
    hookTimeout: 240_000,
    projects: [
      {
        extends: true,
        test: {
          name: "tests",
          setupFiles: ["scripts/property-seed.ts"],
          include: ["{packages,apps}/*/test/**/*.test.ts", "{bench,examples}/test/**/*.test.ts"]
        }
      },
      {
        // What scripts/doc-examples.ts makes of the documentation: many tiny files, so they share their workers.
        extends: true,
        test: { name: "examples", include: ["{,packages/*/}.examples/*.test.ts"], isolate: false }
      }
    ],
    coverage: { provider: "v8", include: ["packages/*/src/**/*.ts"], reporter: ["text-summary"] }
  }
})
