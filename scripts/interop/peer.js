/**
 * A node of the network on js-libp2p: transports, identity, and its part in the protocols.
 */
import { readFile } from 'node:fs/promises'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { Gossip, service as gossip } from './gossip.js'
import { Health } from './health.js'
import { Shards } from './shard.js'

/** What identify says this node is. */
export const AGENT = 'atlas-interop/1.0.0'

/**
 * @typedef {object} Options
 * @property {'tcp' | 'quic'} transport
 * @property {string} [swarmKey] file with the key of a private network; it covers TCP alone
 */

/** A running node. */
export class Peer {
  /**
   * @param {import('libp2p').Libp2p} libp2p
   * @param {import('@libp2p/interface').Ed25519PrivateKey} key the node's one key: peer id and signer
   */
  constructor (libp2p, key) {
    this.libp2p = libp2p
    this.key = key
    this.health = new Health(libp2p, key)
    this.shards = new Shards(libp2p)
    this.gossip = new Gossip(libp2p)
  }

  /**
   * Starts a node with a new key on loopback.
   *
   * @param {Options} options
   */
  static async start (options) {
    const key = await generateKeyPair('Ed25519')
    const libp2p = await createLibp2p({ ...await transport(options), ...common(key) })
    const peer = new Peer(libp2p, key)
    await peer.health.start()
    await peer.shards.start()
    return peer
  }

  /**
   * Connects to the node at an address that ends in its peer id.
   *
   * @param {string} address
   * @param {AbortSignal} signal
   */
  async join (address, signal) {
    const connection = await this.libp2p.dial(multiaddr(address), { signal })
    return connection.remotePeer
  }

  stop () {
    return this.libp2p.stop()
  }
}

/** The transport that an address is for. */
export function transportOf (address) {
  return multiaddr(address).getComponents().some(({ name }) => name === 'quic-v1') ? 'quic' : 'tcp'
}

/** The peer id at the end of an address. */
export function peerOf (address) {
  return peerIdFromString(multiaddr(address).getComponents().findLast(({ name }) => name === 'p2p').value)
}

async function transport ({ transport, swarmKey }) {
  if (transport === 'quic') {
    if (swarmKey !== undefined) throw new Error('a pre-shared key covers TCP alone')
    // A binary of its own platform, so it is loaded only where it is wanted.
    const { quic } = await import('@chainsafe/libp2p-quic')
    return { addresses: { listen: ['/ip4/127.0.0.1/udp/0/quic-v1'] }, transports: [quic()] }
  }
  const connectionProtector = swarmKey && preSharedKey({ psk: await readFile(swarmKey) })
  return { addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] }, transports: [tcp()], connectionProtector }
}

function common (privateKey) {
  return {
    privateKey,
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), identifyPush: identifyPush(), ping: ping(), pubsub: gossip() },
    nodeInfo: { name: 'atlas-interop', version: AGENT.split('/')[1], userAgent: AGENT }
  }
}
