/**
 * protocols/health.md and protocols/beat.md: who is alive.
 */
import {
  ask, bool, bytes, choice, decodeCbor, encodeCbor, nodeKey, open, peerIdOf, record, serve, sign, signed, text, time, u32,
  u64
} from './wire.js'

/** Longest piece of a speed test in bytes. */
export const MAX_PIECE = 1 << 20
/** Longest message in bytes: a piece with its head. */
export const MAX_MESSAGE = 1_049_600
/** @type {import('./wire.js').Protocol} */
export const PROTOCOL = {
  id: '/atlas/health/1',
  requestLimit: MAX_MESSAGE,
  answerLimit: MAX_MESSAGE,
  answerWithin: 10_000,
  streams: 32
}

/**
 * @typedef {object} Beat
 * @property {Uint8Array} node node key
 * @property {bigint} sequence grows with each beat, also across restarts
 * @property {bigint} timestamp milliseconds since the UNIX epoch, by the node's clock
 * @property {{cpu_millicores_booked: bigint, memory_bytes_booked: bigint, active_tasks: number}} load
 * @property {boolean} leaving the last beat of a node that stops in order
 */

/** @type {import('./wire.js').ObjectKind<Beat>} */
export const BEAT = {
  domain: 'atlas/beat/v1',
  limit: 1024,
  by: 'node',
  reader: record({
    node: nodeKey,
    sequence: u64,
    timestamp: time,
    load: record({ cpu_millicores_booked: u64, memory_bytes_booked: u64, active_tasks: u32 }),
    leaving: bool
  })
}

export const REQUEST = choice({
  Beat: signed,
  Probe: null,
  ProbeFor: record({ node: nodeKey }),
  Ping: record({ nonce: u64 }),
  Download: record({ bytes: u32 }),
  Upload: bytes()
})

export const ANSWER = choice({
  Noted: null,
  Refused: record({ reason: text }),
  Alive: record({ sequence: u64, watched: bool }),
  NotReached: null,
  Pong: record({ nonce: u64 }),
  Data: bytes(),
  Busy: null,
  Received: record({ bytes: u32 })
})

/** One node's part in `/atlas/health/1`: it beats, answers, and remembers whom it heard. */
export class Health {
  #libp2p
  #key
  /** The last own beat's, 0 before the first. */
  #sequence = 0n
  /** Peer ids of those to whom this node beats. @type {Set<string>} */
  #watchers = new Set()
  /** The last valid beat of each node, by peer id. @type {Map<string, Beat>} */
  heard = new Map()
  /** How many requests of each kind were answered. @type {Map<string, number>} */
  answered = new Map()
  /** Requests that got no answer, and why. @type {Error[]} */
  refused = []

  /**
   * @param {import('libp2p').Libp2p} libp2p
   * @param {import('@libp2p/interface').Ed25519PrivateKey} key
   */
  constructor (libp2p, key) {
    this.#libp2p = libp2p
    this.#key = key
  }

  async start () {
    const answer = (request, peer) => encodeCbor(this.#answer(decodeCbor(request, REQUEST, MAX_MESSAGE), peer))
    await serve(this.#libp2p, PROTOCOL, answer, error => this.refused.push(error))
  }

  /** Sends one request; gives the answer as `{is, ...}`. */
  async ask (peer, request) {
    return decodeCbor(await ask(this.#libp2p, peer, PROTOCOL, encodeCbor(request)), ANSWER, MAX_MESSAGE)
  }

  /** Beats to a watcher; gives its answer. */
  async beatTo (peer, { leaving = false } = {}) {
    this.#watchers.add(peer.toString())
    return this.ask(peer, { Beat: await this.beat({ leaving }) })
  }

  /** The next own beat, signed. */
  async beat ({ leaving = false } = {}) {
    const now = BigInt(Date.now())
    this.#sequence = now > this.#sequence ? now : this.#sequence + 1n
    const load = { cpu_millicores_booked: 0n, memory_bytes_booked: 0n, active_tasks: 0 }
    const beat = { node: this.#key.publicKey.raw, sequence: this.#sequence, timestamp: now, load, leaving }
    return sign(BEAT, beat, this.#key)
  }

  get sequence () {
    return this.#sequence
  }

  #answer (request, peer) {
    this.answered.set(request.is, (this.answered.get(request.is) ?? 0) + 1)
    switch (request.is) {
      case 'Beat': return this.#onBeat(request, peer)
      case 'Probe': return { Alive: { sequence: this.#sequence, watched: this.#watchers.has(peer.toString()) } }
      case 'ProbeFor': return 'NotReached'
      case 'Ping': return { Pong: { nonce: request.nonce } }
      case 'Download': return request.bytes > MAX_PIECE ? { Refused: { reason: 'more than 1 MiB' } } : { Data: new Uint8Array(request.bytes) }
      case 'Upload': return { Received: { bytes: request.content.length } }
    }
  }

  #onBeat (signed, peer) {
    let beat
    try {
      beat = open(BEAT, signed)
    } catch (error) {
      return { Refused: { reason: error.message } }
    }
    if (!peerIdOf(beat.node).equals(peer)) return { Refused: { reason: 'a beat counts only from the node itself' } }
    const known = this.heard.get(peer.toString())
    if (known === undefined || beat.sequence > known.sequence) this.heard.set(peer.toString(), beat)
    return 'Noted'
  }
}
