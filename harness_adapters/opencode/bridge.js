// Runs inside OpenCode before OpenCode's own code, and carries what is said between it and us: JSON in lines.

import { mkdirSync, rmSync } from "node:fs"

const PORT = 4096
const password = crypto.randomUUID()
const authorization = "Basic " + btoa("opencode:" + password)
process.env.OPENCODE_SERVER_PASSWORD = password
delete process.env.BUN_INSPECT_PRELOAD

// Where the code is that decodes images: nowhere, so that each goes to the model as it came.
Object.defineProperty(globalThis, "__OPENCODE_PHOTON_WASM_PATH", { get: () => "/none", set: () => {} })

const places = new Map()
const sessions = new Map()
const waiting = new Map()
let asked = 0

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n")

const ask = (method, params, signal) =>
  new Promise((resolve, reject) => {
    const id = ++asked
    const stop = () => {
      waiting.delete(id)
      reject(new Error("the call was cancelled"))
    }
    if (signal?.aborted) return stop()
    signal?.addEventListener("abort", stop, { once: true })
    waiting.set(id, (result) => {
      signal?.removeEventListener("abort", stop)
      resolve(result)
    })
    say({ id, method, params })
  })

const methods = {
  async api({ verb, path, body }) {
    const response = await fetch(`http://127.0.0.1:${PORT}${path}`, {
      method: verb,
      headers: { authorization, "content-type": "application/json" },
      body: body === null ? undefined : JSON.stringify(body),
      timeout: false,
    })
    return { status: response.status, body: await response.text() }
  },
  async place({ directory, ...place }) {
    mkdirSync(directory, { recursive: true })
    places.set(directory, place)
    return {}
  },
  async leave({ directory }) {
    places.delete(directory)
    rmSync(directory, { recursive: true })
    return {}
  },
  async session({ id, ...session }) {
    sessions.set(id, session)
    return {}
  },
  async forget({ id }) {
    sessions.delete(id)
    return {}
  },
}

const heard = async ({ id, method, params, result }) => {
  if (method === undefined) {
    waiting.get(id)?.(result)
    waiting.delete(id)
    return
  }
  try {
    say({ id, result: await methods[method](params) })
  } catch (error) {
    say({ id, error: String(error?.message ?? error) })
  }
}

globalThis.bulkhead = { places, sessions, say, ask }

const decoder = new TextDecoder()
let pieces = []
process.stdin.on("data", (chunk) => {
  let from = 0
  for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
    const line = Buffer.concat([...pieces, chunk.subarray(from, end)])
    pieces = []
    from = end + 1
    heard(JSON.parse(decoder.decode(line)))
  }
  if (from < chunk.length) pieces.push(chunk.subarray(from))
})
process.stdin.on("end", () => process.exit(0))
