import { defineConfig } from "vitest/config"

// Loaded with --config: vitest 5 has no workspace file of its own, this is the workspace's one configuration.
const conditions = ["ctmap-source"]

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    pool: "threads",
    include: ["packages/*/test/**/*.test.ts", "apps/*/test/**/*.test.ts", "test/**/*.test.ts"],
    coverage: { provider: "v8", include: ["packages/*/src/**/*.ts"], reporter: ["text-summary"] }
  }
})
