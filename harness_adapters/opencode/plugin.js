// OpenCode's plugin, once for each place: the place's model and tools, and what differs from session to session.

const { places, sessions, say, ask } = globalThis.bulkhead

const toldBy = (event) => {
  const { sessionID, error } = event.properties ?? {}
  if (event.type === "session.idle") return { session: sessionID, failure: null }
  if (event.type === "session.error") return { session: sessionID, failure: error?.data?.message ?? error?.name ?? "?" }
}

const execute = (name) => async (input, { sessionID, callID, abort }) => {
  const outcome = await ask("tool", { session: sessionID, call_id: callID, name, input }, abort)
  if (outcome.is_error) throw new Error(outcome.text)
  return outcome.text
}

const send = (origin) => (input, init) => {
  const session = sessions.get(new Headers(init.headers).get("x-session-id"))
  if (session === undefined) throw new Error("the session is closed")
  return fetch(String(input).replace(origin, session.base_url), { ...init, timeout: false })
}

export default async ({ directory }) => {
  const place = places.get(directory)
  if (place === undefined) throw new Error("nobody has opened this place")
  const schemas = new Map(place.tools.map((tool) => [tool.name, tool.input_schema]))
  return {
    config(config) {
      Object.assign(config, place.config)
      for (const provider of Object.values(config.provider)) provider.options.fetch = send(place.origin)
    },
    tool: Object.fromEntries(
      place.tools.map(({ name, description }) => [name, { description, args: {}, execute: execute(name) }]),
    ),
    async "tool.definition"({ toolID }, output) {
      if (schemas.has(toolID)) output.jsonSchema = schemas.get(toolID)
    },
    async "chat.params"({ sessionID }, output) {
      const session = sessions.get(sessionID)
      output.maxOutputTokens = session.max_tokens ?? undefined
      Object.assign(output.options, session.options)
    },
    async "experimental.chat.system.transform"({ sessionID }, output) {
      const { system } = sessions.get(sessionID)
      output.system.splice(0, Infinity, ...(system ? [system] : []))
    },
    async event({ event }) {
      const told = toldBy(event)
      if (told !== undefined) say({ method: "ended", params: told })
    },
  }
}
