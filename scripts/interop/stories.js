/**
 * What the foreign peer does with a node, one story each. A story gives what happened, or throws if anything was not as
 * the pages say.
 */
import { readFile } from 'node:fs/promises'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { CID } from 'multiformats/cid'
import * as gossip from './gossip.js'
import * as health from './health.js'
import * as shard from './shard.js'
import { fileDag } from './unixfs.js'
import { NoAnswer, askRaw, encodeCbor, frame, sign } from './wire.js'

/** Between two looks at something that is waited for, in milliseconds. */
const POLL = 20

/** What each node speaks (protocols/README.md). */
const SPOKEN = [
  health.PROTOCOL.id, '/atlas/task/1', '/atlas/infer/1', '/atlas/proof/1', shard.PROTOCOL.id, '/atlas/ledger-rpc/1'
]

/** What can be listened for. */
const KINDS = {
  announcement: gossip.ANNOUNCEMENT,
  'assignment-notice': gossip.ASSIGNMENT_NOTICE,
  rollback: gossip.ROLLBACK,
  'status-change': gossip.STATUS_CHANGE
}

/**
 * @typedef {object} Scene
 * @property {import('./peer.js').Peer} peer this node
 * @property {import('@libp2p/interface').PeerId} remote the node it joined
 * @property {import('@libp2p/interface').IdentifyResult} identified what that node said of itself
 * @property {AbortSignal} signal the end of the story's time
 * @property {(...words: unknown[]) => void} ready tells whoever started the story to do its part, and what it needs for it
 * @property {Record<string, string>} options from the command line
 */

/** @type {Record<string, (scene: Scene) => Promise<object>>} */
export const STORIES = { identify, beat, listen, speak, fetch, offer, hold, refuse, lie }

// --- one each -------------------------------------------------------------------------------------------------------

async function identify ({ peer, remote, identified }) {
  const missing = SPOKEN.filter(protocol => !identified.protocols.includes(protocol))
  expect(missing.length === 0, `the node does not speak ${missing}`)
  return {
    agent: identified.agentVersion,
    protocol_version: identified.protocolVersion,
    protocols: identified.protocols,
    listen: identified.listenAddrs.map(String),
    observed: String(identified.observedAddr),
    ping_millis: await peer.libp2p.services.ping.ping(remote)
  }
}

async function beat ({ peer, remote, signal, ready }) {
  const answer = await peer.health.beatTo(remote)
  expect(answer.is === 'Noted', `a first beat is noted, not ${answer.is}`)
  ready(peer.libp2p.peerId)

  const heard = await until('the node beats to this one', signal, () => peer.health.heard.get(remote.toString()))
  const probe = await peer.health.ask(remote, 'Probe')
  expect(probe.is === 'Alive' && probe.sequence >= heard.sequence, 'a probe tells the sequence of the last beat')
  expect(probe.watched, 'a node that beats to this one says so')
  const pong = await peer.health.ask(remote, { Ping: { nonce: 7 } })
  expect(pong.is === 'Pong' && pong.nonce === 7n, 'a ping comes back')

  const last = await peer.health.beatTo(remote, { leaving: true })
  expect(last.is === 'Noted', 'a goodbye is noted')
  return { sent: peer.health.sequence, heard, probe }
}

/** Listens until something of each kind was said; all that was said until then is told. */
async function listen ({ peer, signal, ready, options }) {
  const names = options.kinds.split(',')
  const heard = Object.fromEntries(names.map(name => [name, []]))
  for (const name of names) peer.gossip.listen(KINDS[name], object => heard[name].push(object))
  await Promise.all(names.map(name => peer.gossip.inMesh(KINDS[name].topic, signal)))
  ready()

  for (const name of names) await until(`a valid ${name} is heard`, signal, () => heard[name][0])
  expect(peer.gossip.refused.length === 0, `nothing else was said, but: ${peer.gossip.refused[0]?.error}`)
  return { heard }
}

/** Takes leave by gossip: of a node that goes by its own word all hear it, those too that are not connected to it. */
async function speak ({ peer, remote, signal, ready }) {
  const kind = gossip.STATUS_CHANGE
  peer.gossip.listen(kind, () => {})
  await peer.gossip.inMesh(kind.topic, signal)
  ready()
  const node = peer.key.publicKey.raw
  const change = { node, status: 'offline', observer: node, last_sequence: peer.health.sequence, timestamp: BigInt(Date.now()) }
  const { recipients } = await peer.gossip.publish(kind, change, peer.key)
  expect(recipients.length > 0, 'somebody takes what is said')
  // It lies in a queue of this process until then; on one connection the ping goes out behind it.
  await peer.libp2p.services.ping.ping(remote)
  return { said: change }
}

async function fetch ({ peer, remote, options }) {
  const root = CID.parse(options.cid)
  const have = await peer.shards.ask(remote, { is: 'have', cids: [root] })
  expect(have.is === 'have' && have.has[0], 'the node has the root')
  const dag = await peer.shards.fetch(remote, root)
  return { cid: root, size: dag.size, blocks: dag.blocks.size, files: Object.fromEntries(dag.files) }
}

async function offer ({ peer, remote, signal, ready, options }) {
  const dag = await fileDag(await readFile(options.path))
  peer.shards.blocks = dag.blocks
  ready(dag.root)

  // A node has its root before it has the rest, so it is asked for each block.
  const cids = [...dag.blocks.keys()].map(text => CID.parse(text))
  await until('the node has every block', signal, async () => await peer.shards.hasAll(remote, cids) || undefined)
  expect(peer.shards.given.size > 0, 'it took them from here')
  return { cid: dag.root, size: dag.size, blocks: dag.blocks.size, given: peer.shards.given.size }
}

async function hold ({ peer, remote, signal, options }) {
  const dag = await fileDag(await readFile(options.path))
  peer.shards.blocks = dag.blocks
  const answer = await peer.shards.ask(remote, { is: 'hold', size: BigInt(dag.size), cid: dag.root })
  expect(answer.is === 'accepted', `the node holds what it is asked to, but: ${answer.is} ${answer.reason}`)

  const holder = await until('the node says that it holds it', signal, () => peer.shards.held.get(dag.root.toString()))
  expect(holder === remote.toString(), 'who was asked holds it')
  expect(peer.shards.given.size === dag.blocks.size, 'it took every block')
  return { cid: dag.root, size: dag.size, blocks: dag.blocks.size }
}

/** Each thing that the pages say is refused, and how; the node answers as ever afterwards. */
async function refuse ({ peer, remote, signal, ready, options }) {
  const refused = { ...await closed(peer, remote), ...await answeredNo(peer, remote) }
  const get = await peer.shards.ask(remote, { is: 'get', budget: 1, cids: [NOTHING] })
  expect(get.is === 'blocks' && get.found[0].state === 'missing', 'a block that the node does not have is missing')
  const have = await peer.shards.ask(remote, { is: 'have', cids: [NOTHING] })
  expect(have.is === 'have' && !have.has[0], 'and it says so')

  // The other way round: the node asks for what is not here.
  ready()
  await until('the node asks for what is not here', signal, () => peer.shards.asked.has(options.cid) || undefined)
  expect(!peer.shards.given.has(options.cid), 'what is not here is not given')
  const probe = await peer.health.ask(remote, 'Probe')
  expect(probe.is === 'Alive', 'the node answers as ever')
  return { refused }
}

/** Requests on which the node closes the stream without an answer. */
async function closed (peer, remote) {
  const probe = frame(encodeCbor('Probe'))
  const get = count => shard.encodeRequest({ is: 'get', budget: 1, cids: Array(count).fill(NOTHING) })
  const requests = {
    'a health request that no page names': [health.PROTOCOL, frame(encodeCbor('Dance'))],
    'a shard request that no page names': [shard.PROTOCOL, frame(Buffer.of(9))],
    'a health request over the limit': [health.PROTOCOL, length(health.PROTOCOL.requestLimit + 1), OPEN],
    'a shard request over the limit': [shard.PROTOCOL, length(shard.PROTOCOL.requestLimit + 1), OPEN],
    'the greatest length there is': [shard.PROTOCOL, length(0xffff_ffff), OPEN],
    'a message that ends too soon': [health.PROTOCOL, probe.subarray(0, -1)],
    'bytes after a message': [health.PROTOCOL, frame(Buffer.concat([encodeCbor('Probe'), Buffer.of(0)]))],
    'a Get of none': [shard.PROTOCOL, frame(get(0))],
    'a Get of five': [shard.PROTOCOL, frame(get(shard.MAX_GET + 1))],
    'nested 10,000 deep': [health.PROTOCOL, frame(Buffer.alloc(10_000, 0x81))]
  }
  const refused = {}
  for (const [what, [how, raw, keep]] of Object.entries(requests)) {
    const outcome = await askRaw(peer.libp2p, remote, how, raw, keep).catch(error => error)
    expect(outcome instanceof NoAnswer, `${what} is closed without an answer, not: ${outcome}`)
    refused[what] = 'closed'
  }
  return refused
}

/** Requests that the node answers with a refusal and a reason. */
async function answeredNo (peer, remote) {
  const own = await peer.health.beat()
  const stranger = await generateKeyPair('Ed25519')
  const strangers = await new health.Health(peer.libp2p, stranger).beat()
  const requests = {
    "another node's beat": { Beat: strangers },
    'a beat of one that another signed': { Beat: { ...own, signer: strangers.signer, signature: strangers.signature } },
    'a beat with a bit changed': { Beat: { ...own, body: own.body.with(-1, own.body.at(-1) ^ 1) } },
    'a beat over its limit': { Beat: await sign(health.BEAT, { padding: new Uint8Array(health.BEAT.limit) }, peer.key) },
    'a download over the limit': { Download: { bytes: health.MAX_PIECE + 1 } }
  }
  const refused = {}
  for (const [what, request] of Object.entries(requests)) {
    const answer = await peer.health.ask(remote, request)
    expect(answer.is === 'Refused' && answer.reason !== '', `${what} is refused with a reason, not: ${answer.is}`)
    refused[what] = answer.reason
  }
  return refused
}

/** Offers a file of which one block is not what its name says: the node takes nothing of it for true. */
async function lie ({ peer, remote, signal, ready, options }) {
  const dag = await fileDag(await readFile(options.path))
  const [name, block] = [...dag.blocks].find(([, block]) => block.length > 0)
  peer.shards.blocks = new Map(dag.blocks).set(name, block.with(0, block[0] ^ 1))
  ready(dag.root)

  await until('the node fetches the block that is wrong', signal, () => peer.shards.given.get(name))
  const answer = await until('a liar is served no more', signal, async () => {
    const answer = await peer.shards.ask(remote, { is: 'get', budget: 1, cids: [NOTHING] }).catch(error => ({ is: 'cut off', error }))
    return ['refused', 'cut off'].includes(answer.is) ? answer : undefined
  })
  expect(answer.is === 'cut off' || answer.reason === 'banned', `a liar is banned or cut off, not: ${answer.reason}`)
  return { cid: dag.root, wrong: name, times: peer.shards.given.get(name) }
}

// --- telling --------------------------------------------------------------------------------------------------------

/** SHA-256 of nothing that anybody has. */
const NOTHING = CID.parse('bafkreiemqpndzewx4bioklzfvhtiegsfny5fxuc3nkjk2vmcpjxiammsti')
/** The own side of the stream stays open: whoever waits for the rest is not answered, and not closed either. */
const OPEN = { keepOpen: true }

/** The head of a message whose body never comes. */
function length (bytes) {
  return Buffer.from([bytes >>> 24, bytes >>> 16, bytes >>> 8, bytes])
}

/** Throws unless a story goes as it must. */
function expect (holds, what) {
  if (!holds) throw new Error(`not so: ${what}`)
}

/**
 * @template T
 * @param {string} what
 * @param {AbortSignal} signal
 * @param {() => T | undefined | Promise<T | undefined>} look
 * @returns {Promise<T>} the first that is found
 */
async function until (what, signal, look) {
  for (;;) {
    const found = await look()
    if (found !== undefined) return found
    if (signal.aborted) throw new Error(`not in time: ${what}`)
    await new Promise(resolve => setTimeout(resolve, POLL))
  }
}
