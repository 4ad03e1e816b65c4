/**
 * What the foreign peer refuses, above all what no node of this network would ever send it. `node --test` runs it.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as dagPb from '@ipld/dag-pb'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { UnixFS } from 'ipfs-unixfs'
import { CID } from 'multiformats/cid'
import { sha256 as hasher } from 'multiformats/hashes/sha2'
import { ROLLBACK } from './gossip.js'
import * as health from './health.js'
import { Peer } from './peer.js'
import * as shard from './shard.js'
import { fileDag, readDag } from './unixfs.js'
import {
  NoAnswer, WireError, askRaw, choice, decodeCbor, encodeCbor, frame, open, optional, record, sign, u32, u64, word
} from './wire.js'

/** Limit of messages here, in bytes. */
const LIMIT = 1024
const decode = (value, reader) => decodeCbor(encodeCbor(value), reader, LIMIT)

/** Two connected peers, for as long as a story takes. */
async function together (story) {
  const [one, other] = [await Peer.start({ transport: 'tcp' }), await Peer.start({ transport: 'tcp' })]
  try {
    const address = other.libp2p.getMultiaddrs()[0].toString()
    await story(one, other, await one.join(address, AbortSignal.timeout(10_000)))
  } finally {
    await Promise.all([one.stop(), other.stop()])
  }
}

test('the example of the page is encoded as it says', () => {
  assert.equal(Buffer.from(encodeCbor({ Ping: { nonce: 7 } })).toString('hex'), 'a16450696e67a1656e6f6e636507')
})

test('a field that no page names is ignored, and an absent one is null', () => {
  const reader = record({ round: u32, checkpoint: optional(u32) })
  assert.deepEqual(decode({ later: 1, round: 3 }, reader), { round: 3, checkpoint: null })
})

test('missing fields, unknown words and variants, and numbers out of range refuse the whole object', () => {
  const refused = [
    [{}, record({ round: u32 })],
    ['sleeping', word('online', 'offline')],
    ['Dance', choice({ Probe: null })],
    [{ Probe: 1 }, choice({ Probe: null })],
    ['Ping', choice({ Ping: record({ nonce: u64 }) })],
    [{ Probe: null, Ping: {} }, choice({ Probe: null })],
    [2 ** 32, u32],
    [-1, u64],
    [1.5, u64]
  ]
  for (const [value, reader] of refused) assert.throws(() => decode(value, reader), WireError)
})

test('bytes after the end, nesting, and length are limited', () => {
  const any = value => value
  assert.throws(() => decodeCbor(Uint8Array.of(1, 1), any, LIMIT), WireError)
  assert.throws(() => decodeCbor(new Uint8Array(LIMIT + 1), any, LIMIT), /more than/)
  const nested = depth => Uint8Array.from([...Array(depth - 1).fill(0x81), 0x80])
  assert.ok(decodeCbor(nested(32), any, LIMIT))
  assert.throws(() => decodeCbor(nested(33), any, LIMIT), /deeper/)
  assert.throws(() => decodeCbor(new Uint8Array(1 << 20).fill(0x81), any, 1 << 20), WireError)
})

test('a signed object is opened only as its signer made it', async () => {
  const [key, other] = [await generateKeyPair('Ed25519'), await generateKeyPair('Ed25519')]
  const load = { cpu_millicores_booked: 0, memory_bytes_booked: 0, active_tasks: 0 }
  const beat = { node: key.publicKey.raw, sequence: 1, timestamp: 2, load, leaving: false }
  const signed = await sign(health.BEAT, beat, key)
  assert.equal(open(health.BEAT, signed).sequence, 1n)
  const changed = signed.body.with(-1, 0xf5)
  for (const wrong of [
    { ...signed, body: changed },
    { ...signed, signer: other.publicKey.raw },
    await sign({ ...health.BEAT, domain: 'atlas/beat/v2' }, beat, key),
    await sign(health.BEAT, beat, other),
    await sign(health.BEAT, { ...beat, padding: new Uint8Array(LIMIT) }, key),
    // A point of order one: every signature of zeros would match it.
    { ...signed, signer: new Uint8Array(32).with(0, 1), signature: new Uint8Array(64).with(0, 1) }
  ]) assert.throws(() => open(health.BEAT, wrong), WireError)
})

test('a rollback that names the slot of another task is refused', () => {
  const rollback = {
    event_type: 'task_rollback',
    ledger: 'atlas-chain',
    task_id: new Uint8Array(36).with(35, 2),
    job_id: new Uint8Array(32),
    shard_id: 2,
    node_id: new Uint8Array(32),
    void_generation: 1,
    checkpoint: null,
    timestamp: 0
  }
  assert.equal(decode(rollback, ROLLBACK.reader).shard_id, 2)
  assert.throws(() => decode({ ...rollback, shard_id: 3 }, ROLLBACK.reader), WireError)
  assert.throws(() => decode({ ...rollback, job_id: new Uint8Array(32).fill(1) }, ROLLBACK.reader), WireError)
})

test('messages about blocks read back, and what is cut, too many or unknown is refused', async () => {
  const { root } = await fileDag(Buffer.from('atlas'))
  const requests = [
    { is: 'get', budget: 7, cids: [root, root] },
    { is: 'have', cids: Array(shard.MAX_HAVE).fill(root) },
    { is: 'hold', size: 2n ** 63n, cid: root },
    { is: 'held', cid: root }
  ]
  for (const request of requests) {
    const bytes = shard.encodeRequest(request)
    assert.deepEqual(shard.encodeRequest(shard.decodeRequest(bytes)), bytes)
    for (let cut = 0; cut < bytes.length; cut++) assert.throws(() => shard.decodeRequest(bytes.subarray(0, cut)), WireError)
    assert.throws(() => shard.decodeRequest(Buffer.concat([bytes, Buffer.of(0)])), WireError)
  }
  const answer = hex => shard.decodeAnswer(Buffer.from(hex, 'hex'))
  assert.equal(answer('01010100000000').found[0].state, 'present')
  const refused = {
    '': 'nothing',
    '06': 'an unknown kind',
    '0100': 'no block',
    '01010300000000': 'an unknown state',
    '01010000000001ff': 'a missing block with bytes',
    '01010100200001': 'a block over the limit',
    '0101010000000201': 'a block that ends too soon',
    '020102': 'neither true nor false',
    '0403': 'an unknown reason'
  }
  for (const [hex, why] of Object.entries(refused)) assert.throws(() => answer(hex), WireError, why)
})

test('a DAG reads back, whatever the length of its file', async () => {
  for (const length of [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20]) {
    const dag = await fileDag(new Uint8Array(length).fill(length))
    const read = await readDag(dag.root, cids => cids.map(cid => dag.blocks.get(cid.toString())))
    assert.equal(read.size, length)
  }
})

test('a block that lies about its bytes, its sizes or its names is refused', async () => {
  const leaf = await fileDag(Buffer.from('atlas'))
  const node = async (type, link, sizes) => {
    const Data = new UnixFS({ type, blockSizes: sizes }).marshal()
    const block = dagPb.encode({ Data, Links: [{ Hash: leaf.root, Tsize: 5, ...link }] })
    const root = CID.createV1(dagPb.code, await hasher.digest(block))
    return { root, blocks: new Map(leaf.blocks).set(root.toString(), block) }
  }
  const read = dag => readDag(dag.root, cids => cids.map(cid => dag.blocks.get(cid.toString())))
  assert.equal((await read(await node('file', { Name: '' }, [5n]))).size, 5)
  await assert.rejects(read(await node('file', { Name: '' }, [6n])), /promised/)
  await assert.rejects(read(await node('file', { Name: '' }, [])), /as many sizes/)
  for (const Name of ['', '.', '..', '../up', 'a\0b']) await assert.rejects(read(await node('directory', { Name }, [])), /name/)
  await assert.rejects(read(await node('symlink', { Name: '' }, [])), /neither/)
  const lying = new Map(leaf.blocks).set(leaf.root.toString(), Buffer.from('Atlas'))
  await assert.rejects(read({ root: leaf.root, blocks: lying }), /does not match/)
})

test('a peer closes the stream of what no page names and answers the next', () => together(async (one, other, remote) => {
  const raws = [
    [health.PROTOCOL, frame(encodeCbor('Dance'))],
    [health.PROTOCOL, frame(encodeCbor({ Probe: 1 }))],
    [shard.PROTOCOL, frame(Buffer.of(9))],
    [shard.PROTOCOL, Buffer.from('00001a49', 'hex')],
    [shard.PROTOCOL, Buffer.from('ffffffff', 'hex')]
  ]
  for (const [protocol, raw] of raws) await assert.rejects(askRaw(one.libp2p, remote, protocol, raw), NoAnswer)
  assert.equal(other.health.refused.length, 2)
  assert.equal(other.shards.refused.length, 3)
  assert.deepEqual(await one.health.ask(remote, 'Probe'), { is: 'Alive', sequence: 0n, watched: false })
  const refused = await one.health.ask(remote, { Download: { bytes: health.MAX_PIECE + 1 } })
  assert.equal(refused.is, 'Refused')
}))

test('a peer takes no block for another, and knows what it does not have', () => together(async (one, other, remote) => {
  const dag = await fileDag(new Uint8Array(3 << 20))
  other.shards.blocks = dag.blocks
  assert.equal((await one.shards.fetch(remote, dag.root)).size, 3 << 20)
  const [leaf] = [...dag.blocks.keys()]
  other.shards.blocks = new Map(dag.blocks).set(leaf, new Uint8Array(1 << 20).fill(1))
  await assert.rejects(one.shards.fetch(remote, dag.root), /does not match/)
  other.shards.blocks = new Map()
  await assert.rejects(one.shards.fetch(remote, dag.root), /missing/)
}))
