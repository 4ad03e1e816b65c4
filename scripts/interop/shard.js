/**
 * protocols/shard.md: blocks by CID. Numbers are big-endian, and nothing here is CBOR.
 */
import { CID } from 'multiformats/cid'
import { MAX_CID, WireError, ask, serve } from './wire.js'
import { readDag } from './unixfs.js'

/** CIDs of one Get. */
export const MAX_GET = 4
/** CIDs of one Have. */
export const MAX_HAVE = 64
/** Longest block in bytes. */
export const MAX_BLOCK = 2 << 20
/** Most bytes of blocks in one answer. */
export const MAX_BLOCKS = 4 << 20
/** @type {import('./wire.js').Protocol} */
export const PROTOCOL = {
  id: '/atlas/shard/1',
  requestLimit: 6_728,
  answerLimit: 4_194_326,
  answerWithin: 45_000,
  streams: 48
}

const STATES = ['missing', 'present', 'omitted']
const REASONS = ['busy', 'no room', 'banned']

/**
 * @typedef {{is: 'get', budget: number, cids: CID[]} | {is: 'have', cids: CID[]} | {is: 'hold', size: bigint, cid: CID}
 *   | {is: 'held', cid: CID}} Request `budget` and `size` in bytes
 * @typedef {{state: 'missing' | 'present' | 'omitted', block: Uint8Array}} Found
 * @typedef {{is: 'blocks', found: Found[]} | {is: 'have', has: boolean[]} | {is: 'accepted'}
 *   | {is: 'refused', reason: string} | {is: 'noted'}} Answer
 */

// --- bytes ----------------------------------------------------------------------------------------------------------

/** Reads a message from its front; every length is checked before it is used. */
class Cursor {
  #bytes
  #at = 0

  constructor (bytes) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  take (length) {
    if (length > this.#bytes.length - this.#at) throw new WireError('the message ends too soon')
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  u8 () { return this.take(1).readUInt8() }
  u32 () { return this.take(4).readUInt32BE() }
  u64 () { return this.take(8).readBigUInt64BE() }

  cid () {
    const length = this.u8()
    if (length > MAX_CID) throw new WireError(`a CID has at most ${MAX_CID} bytes`)
    try {
      return CID.decode(this.take(length))
    } catch (error) {
      throw new WireError(`no CID: ${error.message}`)
    }
  }

  /** A count from 1 to `most`, and so many of what `read` reads. */
  many (most, read) {
    const count = this.u8()
    if (count < 1 || count > most) throw new WireError(`1 to ${most}, not ${count}`)
    return Array.from({ length: count }, read)
  }

  /** A byte that is the place of a word in a list. */
  word (words) {
    return words[this.u8()] ?? reject('a byte that is none of the known')
  }

  end () {
    if (this.#at !== this.#bytes.length) throw new WireError('bytes after the end of the message')
  }
}

/** @returns {never} */
function reject (what) {
  throw new WireError(what)
}

function number (bytes, value) {
  const raw = Buffer.alloc(8)
  raw.writeBigUInt64BE(BigInt(value))
  return raw.subarray(8 - bytes)
}

const encodeCid = cid => Buffer.concat([number(1, cid.bytes.length), cid.bytes])
const encodeCids = cids => Buffer.concat([number(1, cids.length), ...cids.map(encodeCid)])

/**
 * @param {Request} request
 * @returns {Buffer}
 */
export function encodeRequest (request) {
  switch (request.is) {
    case 'get': return Buffer.concat([number(1, 1), number(4, request.budget), encodeCids(request.cids)])
    case 'have': return Buffer.concat([number(1, 2), encodeCids(request.cids)])
    case 'hold': return Buffer.concat([number(1, 3), number(8, request.size), encodeCid(request.cid)])
    case 'held': return Buffer.concat([number(1, 4), encodeCid(request.cid)])
  }
}

/**
 * @param {Uint8Array} bytes
 * @returns {Request}
 */
export function decodeRequest (bytes) {
  const from = new Cursor(bytes)
  const request = readRequest(from)
  from.end()
  return request
}

function readRequest (from) {
  const kind = from.u8()
  switch (kind) {
    case 1: return { is: 'get', budget: from.u32(), cids: from.many(MAX_GET, () => from.cid()) }
    case 2: return { is: 'have', cids: from.many(MAX_HAVE, () => from.cid()) }
    case 3: return { is: 'hold', size: from.u64(), cid: from.cid() }
    case 4: return { is: 'held', cid: from.cid() }
    default: reject(`unknown request ${kind}`)
  }
}

/**
 * @param {Answer} answer
 * @returns {Buffer}
 */
export function encodeAnswer (answer) {
  switch (answer.is) {
    case 'blocks': {
      const head = ({ state, block }) => Buffer.concat([number(1, STATES.indexOf(state)), number(4, block.length)])
      const { found } = answer
      return Buffer.concat([number(1, 1), number(1, found.length), ...found.map(head), ...found.map(({ block }) => block)])
    }
    case 'have': return Buffer.from([2, answer.has.length, ...answer.has.map(Number)])
    case 'accepted': return Buffer.of(3)
    case 'refused': return Buffer.of(4, REASONS.indexOf(answer.reason))
    case 'noted': return Buffer.of(5)
  }
}

/**
 * @param {Uint8Array} bytes
 * @returns {Answer}
 */
export function decodeAnswer (bytes) {
  const from = new Cursor(bytes)
  const answer = readAnswer(from)
  from.end()
  return answer
}

function readAnswer (from) {
  const kind = from.u8()
  switch (kind) {
    case 1: return { is: 'blocks', found: readFound(from) }
    case 2: return { is: 'have', has: from.many(MAX_HAVE, () => from.word([false, true])) }
    case 3: return { is: 'accepted' }
    case 4: return { is: 'refused', reason: from.word(REASONS) }
    case 5: return { is: 'noted' }
    default: reject(`unknown answer ${kind}`)
  }
}

function readFound (from) {
  const heads = from.many(MAX_GET, () => ({ state: from.word(STATES), length: from.u32() }))
  const total = heads.reduce((sum, head) => sum + head.length, 0)
  if (total > MAX_BLOCKS) throw new WireError(`${total} bytes of blocks, over ${MAX_BLOCKS}`)
  return heads.map(({ state, length }) => {
    if (length > MAX_BLOCK) throw new WireError(`a block of ${length} bytes, over ${MAX_BLOCK}`)
    if (state !== 'present' && length !== 0) throw new WireError(`a block that is ${state} has bytes`)
    return { state, block: from.take(length) }
  })
}

// --- the two sides --------------------------------------------------------------------------------------------------

/** One node's part in `/atlas/shard/1`: it has some blocks, gives them, and asks others. */
export class Shards {
  #libp2p
  /** What this node has, by the text of the CID. @type {Map<string, Uint8Array>} */
  blocks = new Map()
  /** How often each block was given, by the text of its CID. @type {Map<string, number>} */
  given = new Map()
  /** CIDs that were asked for, here or not. @type {Set<string>} */
  asked = new Set()
  /** Roots of which others said that they hold them now: the text of the CID, and who. @type {Map<string, string>} */
  held = new Map()
  /** Requests that got no answer, and why. @type {Error[]} */
  refused = []

  /** @param {import('libp2p').Libp2p} libp2p */
  constructor (libp2p) {
    this.#libp2p = libp2p
  }

  async start () {
    const answer = (request, peer) => encodeAnswer(this.#answer(decodeRequest(request), peer))
    await serve(this.#libp2p, PROTOCOL, answer, error => this.refused.push(error))
  }

  /**
   * @param {import('@libp2p/interface').PeerId} peer
   * @param {Request} request
   * @returns {Promise<Answer>}
   */
  async ask (peer, request) {
    return decodeAnswer(await ask(this.#libp2p, peer, PROTOCOL, encodeRequest(request)))
  }

  /** Asks, and takes one kind of answer alone. */
  async #askFor (is, peer, request) {
    const answer = await this.ask(peer, request)
    if (answer.is !== is) throw new Error(`the peer answered: ${answer.reason ?? answer.is}`)
    return answer
  }

  /** Whether a peer has every block of a list. */
  async hasAll (peer, cids) {
    for (let start = 0; start < cids.length; start += MAX_HAVE) {
      const { has } = await this.#askFor('have', peer, { is: 'have', cids: cids.slice(start, start + MAX_HAVE) })
      if (!has.every(Boolean)) return false
    }
    return true
  }

  /**
   * Fetches a whole DAG from one peer. What comes is checked by {@link readDag}.
   *
   * @param {import('@libp2p/interface').PeerId} peer
   * @param {CID} root
   */
  fetch (peer, root) {
    return readDag(root, cids => this.#fetchBlocks(peer, cids))
  }

  /** Blocks of CIDs in order. At least the first of a request comes, so that each request brings it forward. */
  async #fetchBlocks (peer, cids) {
    const blocks = []
    while (blocks.length < cids.length) {
      const asked = cids.slice(blocks.length, blocks.length + MAX_GET)
      const { found } = await this.#askFor('blocks', peer, { is: 'get', budget: MAX_BLOCKS, cids: asked })
      if (found.length !== asked.length) throw new WireError('one state for each CID is needed')
      const absent = found.findIndex(({ state }) => state !== 'present')
      const got = found.slice(0, absent === -1 ? undefined : absent)
      if (got.length === 0) throw new Error(`${asked[0]}: ${found[0].state} at the peer`)
      blocks.push(...got.map(({ block }) => block))
    }
    return blocks
  }

  /** @param {Request} request */
  #answer (request, peer) {
    for (const cid of request.cids ?? []) this.asked.add(cid.toString())
    switch (request.is) {
      case 'get': return { is: 'blocks', found: this.#give(request) }
      case 'have': return { is: 'have', has: request.cids.map(cid => this.blocks.has(cid.toString())) }
      case 'hold': return { is: 'refused', reason: 'no room' }
      case 'held': this.held.set(request.cid.toString(), peer.toString()); return { is: 'noted' }
    }
  }

  #give ({ budget, cids }) {
    let left = Math.min(budget, MAX_BLOCKS)
    return cids.map((cid, index) => {
      const name = cid.toString()
      const block = this.blocks.get(name)
      if (block === undefined || (index > 0 && block.length > left)) {
        return { state: block === undefined ? 'missing' : 'omitted', block: new Uint8Array() }
      }
      left -= block.length
      this.given.set(name, (this.given.get(name) ?? 0) + 1)
      return { state: 'present', block }
    })
  }
}
