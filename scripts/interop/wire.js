/**
 * protocols/encoding.md: CBOR with limits, identifiers, signed objects, and frames over a libp2p stream.
 *
 * A page's table becomes a {@link Reader}: a function that takes a decoded CBOR value and gives it back checked, or says
 * which field is wrong. What a page does not name is ignored, as protocols/README.md asks.
 */
import { createHash } from 'node:crypto'
import { publicKeyFromRaw } from '@libp2p/crypto/keys'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { byteStream } from '@libp2p/utils'
import { ed25519 } from '@noble/curves/ed25519.js'
import { decode, encode } from 'cborg'
import { CID } from 'multiformats/cid'

/** Deepest nesting of a CBOR value that a reader takes. */
export const MAX_DEPTH = 32
/** Longest binary CID in bytes (protocols/shard.md). */
export const MAX_CID = 104
/** Bytes of a frame's length. */
const LENGTH = 4

/** Bytes that are not what a page says. */
export class WireError extends Error {
  name = 'WireError'
}

/** The other side ended a stream without an answer: "can't do that", or "that was no request". */
export class NoAnswer extends Error {
  name = 'NoAnswer'
}

/**
 * @template T
 * @typedef {(value: unknown, at: string) => T} Reader takes a decoded value and the place where it stands
 */

/**
 * @typedef {object} Signed
 * @property {Uint8Array} body the CBOR encoding of the object, exactly as it was signed
 * @property {Uint8Array} signer node key, 32 bytes
 * @property {Uint8Array} signature 64 bytes, over `domain ‖ 00 ‖ body`
 */

/**
 * @template T
 * @typedef {object} ObjectKind what a page says of a signed object
 * @property {string} domain
 * @property {number} limit longest body in bytes
 * @property {Reader<T>} reader
 * @property {keyof T & string} by the field that must be the signer
 */

/**
 * @typedef {object} Protocol what a page says of a protocol
 * @property {string} id
 * @property {number} requestLimit longest request in bytes
 * @property {number} answerLimit longest answer in bytes
 * @property {number} answerWithin longest time until the answer, in milliseconds
 * @property {number} streams that one connection may have open at once
 */

// --- readers --------------------------------------------------------------------------------------------------------

/** @returns {never} */
function refuse (at, what) {
  throw new WireError(`${at}: ${what}`)
}

/** @returns {Reader<bigint>} */
function unsigned (bits) {
  const end = 1n << BigInt(bits)
  return (value, at) => {
    const whole = typeof value === 'bigint' || Number.isSafeInteger(value)
    return whole && value >= 0 && value < end ? BigInt(value) : refuse(at, `not an unsigned integer of ${bits} bits`)
  }
}

export const u64 = unsigned(64)
/** Milliseconds since the UNIX epoch. */
export const time = u64

/** @type {Reader<number>} */
export const u32 = (value, at) => Number(unsigned(32)(value, at))

/** @type {Reader<boolean>} */
export const bool = (value, at) => typeof value === 'boolean' ? value : refuse(at, 'neither true nor false')

/** @type {Reader<string>} */
export const text = (value, at) => typeof value === 'string' ? value : refuse(at, 'not a text')

/** @returns {Reader<Uint8Array>} any number of bytes, or exactly `length` */
export const bytes = length => (value, at) => {
  if (!(value instanceof Uint8Array)) refuse(at, 'not a byte string')
  return length === undefined || value.length === length ? value : refuse(at, `not ${length} bytes`)
}

export const nodeKey = bytes(32)
export const digest = bytes(32)
export const jobId = bytes(32)
export const taskId = bytes(36)

/** @type {Reader<CID>} */
export const cid = (value, at) => {
  const raw = bytes()(value, at)
  if (raw.length > MAX_CID) refuse(at, `a CID has at most ${MAX_CID} bytes`)
  try {
    return CID.decode(raw)
  } catch (error) {
    refuse(at, `no CID: ${error.message}`)
  }
}

/** @returns {Reader<string>} one of the words that a page lists; any other refuses the whole object */
export const word = (...words) => (value, at) => words.includes(value) ? value : refuse(at, `none of ${words.join(', ')}`)

/** Absent means `null`. */
export const optional = of => (value, at) => value === undefined || value === null ? null : of(value, at)

export const list = of => (value, at) => {
  if (!Array.isArray(value)) refuse(at, 'not a list')
  return value.map((entry, index) => of(entry, `${at}[${index}]`))
}

/** A map with text keys in any order, of which the fields are taken and the rest is ignored. */
export const record = fields => (value, at) => {
  if (!(value instanceof Map)) refuse(at, 'not a record')
  const field = ([name, of]) => [name, of(value.get(name), `${at}.${name}`)]
  return Object.fromEntries(Object.entries(fields).map(field))
}

/**
 * A choice: the text of a variant without content, or a map of one entry. Read as `{is: name, ...}` with the variant's
 * fields, or `{is: name, content}` where the content has no name.
 *
 * @param {Record<string, Reader<any> | null>} variants null for a variant without content
 */
export const choice = variants => (value, at) => {
  const [name, content] = value instanceof Map && value.size === 1 ? value.entries().next().value : [value, null]
  const known = typeof name === 'string' && Object.hasOwn(variants, name)
  if (!known || (variants[name] === null) !== (content === null)) refuse(at, 'none of the variants')
  if (variants[name] === null) return { is: name }
  const read = variants[name](content, `${at}.${name}`)
  return read.constructor === Object ? { is: name, ...read } : { is: name, content: read }
}

// --- CBOR -----------------------------------------------------------------------------------------------------------

/**
 * The CBOR of a value: fields in the order in which they stand, integers in the shortest form.
 *
 * @returns {Uint8Array}
 */
export function encodeCbor (value) {
  return encode(value, { mapSorter: undefined })
}

/**
 * Decodes one value that fills `raw`.
 *
 * @template T
 * @param {Uint8Array} raw
 * @param {Reader<T>} reader
 * @param {number} limit in bytes
 * @returns {T}
 */
export function decodeCbor (raw, reader, limit) {
  if (raw.length > limit) throw new WireError(`${raw.length} bytes are more than the ${limit} allowed`)
  let value
  try {
    // A value that is nested without end overflows the stack, which is an error like any other here.
    value = decode(raw, { useMaps: true, rejectDuplicateMapKeys: true })
  } catch (error) {
    throw new WireError(`not CBOR: ${error.message}`)
  }
  if (depth(value) > MAX_DEPTH) throw new WireError(`nested deeper than ${MAX_DEPTH}`)
  return reader(value, 'message')
}

/** How many lists and maps a value is nested in, itself included. */
function depth (value) {
  if (!Array.isArray(value) && !(value instanceof Map)) return 0
  let deepest = 0
  for (const inner of value.values()) deepest = Math.max(deepest, depth(inner))
  return deepest + 1
}

// --- identifiers ----------------------------------------------------------------------------------------------------

/** The peer id that is the identity multihash of a node key. */
export function peerIdOf (key) {
  return peerIdFromPublicKey(publicKeyFromRaw(key))
}

/** The node key of a peer id. */
export function keyOf (peerId) {
  return peerId.publicKey.raw
}

export function sha256 (...parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return new Uint8Array(hash.digest())
}

export function hex (raw) {
  return Buffer.from(raw).toString('hex')
}

/** `{job}-{slot}`, as people write a task id. */
export function taskText (raw) {
  return `${hex(raw.subarray(0, 32))}-${Buffer.from(raw).readUInt32BE(32)}`
}

// --- signed objects -------------------------------------------------------------------------------------------------

/** @type {Reader<Signed>} */
export const signed = record({ body: bytes(), signer: nodeKey, signature: bytes(64) })

/** What a signature covers. */
function covered (domain, body) {
  return Buffer.concat([Buffer.from(domain), Buffer.of(0), body])
}

/**
 * @param {ObjectKind<any>} kind
 * @param {object} object fields in the order of the page
 * @param {import('@libp2p/interface').Ed25519PrivateKey} key
 * @returns {Promise<Signed>}
 */
export async function sign (kind, object, key) {
  const body = encodeCbor(object)
  return { body, signer: key.publicKey.raw, signature: await key.sign(covered(kind.domain, body)) }
}

/**
 * Checks limit, signature, content and signer, in this order.
 *
 * @template T
 * @param {ObjectKind<T>} kind
 * @param {Signed} from
 * @returns {T}
 */
export function open (kind, { body, signer, signature }) {
  if (body.length > kind.limit) throw new WireError(`a body of ${body.length} bytes, over ${kind.limit}`)
  if (!isSignature(signature, covered(kind.domain, body), signer)) throw new WireError('the signature does not match')
  const object = decodeCbor(body, kind.reader, kind.limit)
  if (Buffer.compare(object[kind.by], signer) !== 0) throw new WireError(`${kind.by} is not the signer`)
  return object
}

/** Strict: no weak keys, no malleable signatures. */
function isSignature (signature, message, key) {
  try {
    return ed25519.verify(signature, message, key, { zip215: false })
  } catch {
    return false
  }
}

// --- frames ---------------------------------------------------------------------------------------------------------

/** A message with its length before it. */
export function frame (message) {
  const length = Buffer.alloc(LENGTH)
  length.writeUInt32BE(message.length)
  return Buffer.concat([length, message])
}

/**
 * Reads the one frame of a stream.
 *
 * @param {import('@libp2p/interface').Stream} stream
 * @param {number} limit longest message in bytes; a greater length is refused before its body is read
 * @param {AbortSignal} signal
 * @returns {Promise<Uint8Array>}
 */
async function readFrame (stream, limit, signal) {
  const from = byteStream(stream, { maxBufferSize: limit + LENGTH })
  const head = await from.read({ bytes: LENGTH, signal })
  const length = Buffer.from(head.subarray()).readUInt32BE()
  if (length > limit) throw new WireError(`a message of ${length} bytes, over ${limit}`)
  return length === 0 ? new Uint8Array() : (await from.read({ bytes: length, signal })).subarray()
}

/**
 * Sends one request on a stream of its own and reads the answer.
 *
 * @param {import('libp2p').Libp2p} libp2p
 * @param {import('@libp2p/interface').PeerId} peer
 * @param {Protocol} protocol
 * @param {Uint8Array} request
 * @returns {Promise<Uint8Array>}
 */
export function ask (libp2p, peer, protocol, request) {
  return askRaw(libp2p, peer, protocol, frame(request))
}

/** Sends these very bytes, a frame or not, and reads the answer. With `keepOpen` more could follow. */
export async function askRaw (libp2p, peer, protocol, raw, { keepOpen = false } = {}) {
  const signal = AbortSignal.timeout(protocol.answerWithin)
  const stream = await libp2p.dialProtocol(peer, protocol.id, { signal })
  stream.maxReadBufferLength = protocol.answerLimit + LENGTH
  try {
    stream.send(raw)
    if (!keepOpen) await stream.close({ signal })
    return await readFrame(stream, protocol.answerLimit, signal)
  } catch (error) {
    stream.abort(error)
    if (error instanceof WireError || signal.aborted) throw error
    throw new NoAnswer(`${protocol.id} was closed without an answer`, { cause: error })
  }
}

/**
 * Answers every request of a protocol. What can't be read is closed without an answer.
 *
 * @param {import('libp2p').Libp2p} libp2p
 * @param {Protocol} protocol
 * @param {(request: Uint8Array, peer: import('@libp2p/interface').PeerId) => Promise<Uint8Array> | Uint8Array} answer
 * @param {(error: Error) => void} onRefused told of each request that got no answer
 */
export async function serve (libp2p, protocol, answer, onRefused) {
  const handler = async (stream, connection) => {
    const signal = AbortSignal.timeout(protocol.answerWithin)
    try {
      const request = await readFrame(stream, protocol.requestLimit, signal)
      stream.send(frame(await answer(request, connection.remotePeer)))
      await stream.close({ signal })
    } catch (error) {
      stream.abort(error)
      onRefused(error)
    }
  }
  await libp2p.handle(protocol.id, handler, { maxInboundStreams: protocol.streams })
}
