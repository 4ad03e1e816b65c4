/**
 * The byte vectors of the pages that this peer speaks: it takes each valid one for what the page says, and refuses each
 * invalid one. Which word a page has for the reason is the node's business, and its own readers check it.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { CID } from 'multiformats/cid'
import * as gossip from './gossip.js'
import * as health from './health.js'
import * as shard from './shard.js'
import { WireError, decodeCbor, hex, open, signed, taskText } from './wire.js'

/** Bytes of a task id; nothing else in these messages has so many. */
const TASK_ID = 36
/** Bytes that a signed object has at most beside its body. */
const ENVELOPE = 256
const DIRECTORY = new URL('../../protocols/vectors/', import.meta.url)

/** How each type is read: into a value as the vectors write it. @type {Record<string, (bytes: Uint8Array) => unknown>} */
const READERS = {
  'signed-beat': bytes => openSigned(health.BEAT, bytes),
  'signed-announcement': bytes => openSigned(gossip.ANNOUNCEMENT, bytes),
  'signed-assignment-notice': bytes => openSigned(gossip.ASSIGNMENT_NOTICE, bytes),
  'signed-rollback': bytes => openSigned(gossip.ROLLBACK, bytes),
  'signed-status-change': bytes => openSigned(gossip.STATUS_CHANGE, bytes),
  'health-request': bytes => asChoice(decodeCbor(bytes, health.REQUEST, health.PROTOCOL.requestLimit)),
  'health-response': bytes => asChoice(decodeCbor(bytes, health.ANSWER, health.PROTOCOL.answerLimit)),
  'shard-request': bytes => SHARD[shard.decodeRequest(bytes).is](shard.decodeRequest(bytes)),
  'shard-response': bytes => ANSWERS[shard.decodeAnswer(bytes).is](shard.decodeAnswer(bytes))
}

const SHARD = {
  get: ({ budget, cids }) => ({ Get: { budget, cids } }),
  have: ({ cids }) => ({ Have: { cids } }),
  hold: ({ size, cid }) => ({ Hold: { size, root: cid } }),
  held: ({ cid }) => ({ Held: { root: cid } })
}

const ANSWERS = {
  blocks: ({ found }) => ({ Blocks: found.map(({ state, block }) => state === 'present' ? { present: block } : state) }),
  have: ({ has }) => ({ Have: has }),
  accepted: () => 'Accepted',
  refused: ({ reason }) => ({ Refused: { busy: 'Busy', 'no room': 'NoRoom', banned: 'Banned' }[reason] }),
  noted: () => 'Noted'
}

function openSigned (kind, bytes) {
  return open(kind, decodeCbor(bytes, signed, kind.limit + ENVELOPE))
}

function asChoice ({ is, content, ...fields }) {
  if (content !== undefined) return { [is]: content }
  return Object.keys(fields).length === 0 ? is : { [is]: fields }
}

/** With bytes, names and numbers as text, so that a number of 64 bits is compared whole. */
function written (value) {
  if (value instanceof Uint8Array) return value.length === TASK_ID ? taskText(value) : hex(value)
  if (typeof value === 'bigint' || typeof value === 'number') return String(value)
  if (CID.asCID(value) !== null) return value.toString()
  if (Array.isArray(value)) return value.map(written)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, written(inner)]))
}

/** The bytes of a vector: hexadecimal, or a list of parts, of which some are repeated. */
function bytesOf (vector) {
  const part = part => typeof part === 'string' ? part : part.repeat.repeat(Number(part.times))
  return Buffer.from([vector].flat().map(part).join(''), 'hex')
}

for (const page of ['beat', 'announcement', 'assignment-notice', 'rollback', 'status-change', 'health', 'shard']) {
  test(`the vectors of ${page} mean to this peer what the page says`, () => {
    const number = (_, value, { source }) => typeof value === 'number' ? source : value
    const { vectors } = JSON.parse(readFileSync(new URL(`${page}.json`, DIRECTORY), 'utf8'), number)
    assert.ok(vectors.length > 0)
    for (const { type, name, bytes, error, why, value } of vectors) {
      const read = () => READERS[type](bytesOf(bytes))
      if (error === undefined) assert.deepEqual(written(read()), value.object ?? value, `${type}, ${name}`)
      else assert.throws(read, WireError, `${type}, ${name} is refused: ${why}`)
    }
  })
}
