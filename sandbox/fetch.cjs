// Makes fetch() of older Node versions use HTTPS_PROXY; newer ones do so by themselves (NODE_USE_ENV_PROXY).
'use strict'

const DISPATCHER = Symbol.for('undici.globalDispatcher.1')
const proxy = new URL(process.env.HTTPS_PROXY || 'http://127.0.0.1:3128')
const direct = new Set((process.env.NO_PROXY || '').split(','))

function knowsProxies () {
  const [major, minor] = process.versions.node.split('.').map(Number)
  return major >= 24 || (major === 22 && minor >= 21)
}

function tunnel (target, callback) {
  const authority = `${target.hostname}:${target.port || 443}`
  const asking = require('node:http').request({
    host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: authority, headers: { host: authority }, agent: false
  })
  asking.once('connect', (answer, socket) => secure(target, answer, socket, callback))
  asking.once('error', callback)
  asking.end()
}

function secure (target, answer, socket, callback) {
  if (answer.statusCode !== 200) {
    socket.destroy()
    callback(new Error(`proxy: ${answer.statusMessage}`))
    return
  }
  const servername = target.servername || target.hostname
  const secured = require('node:tls').connect({ socket, servername, ALPNProtocols: ['http/1.1'] })
  secured.once('secureConnect', () => {
    secured.removeListener('error', callback)
    callback(null, secured)
  })
  secured.once('error', callback)
}

function withHost (headers, host) {
  return Array.isArray(headers) ? [...headers, 'host', host] : { ...headers, host }
}

function install () {
  void globalThis.Response // loads undici, which then has its dispatcher in place
  const plain = globalThis[DISPATCHER]
  const Agent = plain.constructor
  class Proxied extends Agent {
    dispatch (options, handler) {
      const { protocol, hostname, host, origin } = new URL(options.origin)
      if (direct.has(hostname.replace(/^\[|\]$/g, ''))) return plain.dispatch(options, handler)
      if (protocol === 'https:') return super.dispatch(options, handler)
      const asked = { ...options, origin: proxy.origin, path: origin + options.path, headers: withHost(options.headers, host) }
      return plain.dispatch(asked, handler)
    }
  }
  globalThis[DISPATCHER] = new Proxied({ connect: tunnel })
}

if (!knowsProxies() && typeof globalThis.fetch === 'function') {
  const original = globalThis.fetch
  let installed = false
  globalThis.fetch = function fetch (...parameters) {
    if (!installed) {
      installed = true
      install()
    }
    return original.apply(this, parameters)
  }
}
