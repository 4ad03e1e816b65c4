#!/usr/bin/env node
/**
 * Joins a mesh and does one story with a node of it. What happened is one line of JSON on stdout; the exit code is 0 only
 * if everything was as the pages say. A line `ready …` on stderr says that whoever started the story should do its part.
 *
 *     node main.js STORY --peer ADDRESS [--swarm-key FILE] [--cid CID] [--path FILE] [--kinds KIND,…] [--timeout SECONDS]
 */
import { parseArgs } from 'node:util'
import { CID } from 'multiformats/cid'
import { Peer, peerOf, transportOf } from './peer.js'
import { STORIES } from './stories.js'
import { hex } from './wire.js'

const { positionals: [name], values: options } = parseArgs({
  allowPositionals: true,
  options: {
    peer: { type: 'string' },
    'swarm-key': { type: 'string' },
    cid: { type: 'string' },
    path: { type: 'string' },
    kinds: { type: 'string' },
    timeout: { type: 'string', default: '60' }
  }
})

async function run () {
  if (!Object.hasOwn(STORIES, name ?? '')) throw new Error(`a story is one of ${Object.keys(STORIES).join(', ')}`)
  if (options.peer === undefined) throw new Error('--peer is needed: the address of a node with its peer id')
  const signal = AbortSignal.timeout(Number(options.timeout) * 1000)
  const transport = transportOf(options.peer)
  const peer = await Peer.start({ transport, swarmKey: options['swarm-key'] })
  const who = { transport, private: options['swarm-key'] !== undefined, peer_id: peer.libp2p.peerId.toString() }
  try {
    const joined = [peer.join(options.peer, signal), identification(peer.libp2p, peerOf(options.peer), signal)]
    const [remote, identified] = await Promise.all(joined)
    const ready = (...words) => console.error('ready', ...words.map(String))
    const scene = { peer, remote, identified, signal, ready, options }
    return { ...who, remote: remote.toString(), ...await STORIES[name](scene) }
  } finally {
    await peer.stop()
  }
}

/** What a node says of itself once it is connected. */
function identification (libp2p, remote, signal) {
  return new Promise((resolve, reject) => {
    const onIdentify = ({ detail }) => { if (detail.peerId.equals(remote)) resolve(detail) }
    libp2p.addEventListener('peer:identify', onIdentify)
    signal.addEventListener('abort', () => reject(new Error('the node did not identify itself in time')))
  })
}

/** As JSON has it: bytes as hexadecimal digits, CIDs as text. */
function plain (value) {
  if (value instanceof Uint8Array) return hex(value)
  if (typeof value === 'bigint') return Number(value)
  if (CID.asCID(value) !== null) return value.toString()
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
}

function tell (outcome) {
  console.log(JSON.stringify(plain({ story: name, ...outcome })))
}

try {
  tell({ verified: true, ...await run() })
} catch (error) {
  console.error(error)
  tell({ verified: false, error: error.message })
  process.exitCode = 1
}
// Sockets of peers that are slow to close keep nobody waiting.
process.exit()
