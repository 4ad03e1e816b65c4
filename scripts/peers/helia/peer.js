// One end of a transfer between two Helia nodes over loopback, by bitswap, into its store of files.
//
//   node peer.js serve FILE DIR           prints its process, its address and the CID; until its stdin ends
//   node peer.js fetch ADDRESS CID DIR    prints the seconds until all blocks are on the disk, and MiB resident at most

import { spawnSync } from 'node:child_process'
import { createReadStream, readFileSync } from 'node:fs'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { FsBlockstore } from 'blockstore-fs'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'

// On loopback alone: no routing, no bootstrap peers, no gateways.
async function start (directory) {
  const blockstore = new FsBlockstore(directory)
  await blockstore.open()
  const libp2p = {
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify() }
  }
  const helia = withBitswap(withLibp2pLight(createHeliaLight({ blockstore }), libp2p))
  await helia.start()
  return helia
}

// The greatest resident size so far, as proc(5) tells it.
function peakMib () {
  return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024
}

async function serve (file, directory) {
  const helia = await start(directory)
  const cid = await unixfs(helia).addByteStream(createReadStream(file, { highWaterMark: 1 << 20 }))
  console.log(process.pid, helia.libp2p.getMultiaddrs()[0].toString(), cid.toString())
  for await (const _ of process.stdin) { /* nothing is said */ }
  process.exit(0)
}

async function fetch (address, cid, directory) {
  const helia = await start(directory)
  await helia.libp2p.dial(multiaddr(address))
  const began = performance.now()
  // What is read is fetched and kept, each block checked against its CID.
  for await (const _ of unixfs(helia).cat(CID.parse(cid))) { /* only kept */ }
  if (spawnSync('sync', ['--file-system', directory]).status !== 0) throw new Error('sync failed')
  console.log((performance.now() - began) / 1e3, peakMib())
  process.exit(0)
}

const [mode, ...words] = process.argv.slice(2)
if (mode === 'serve') await serve(...words)
else if (mode === 'fetch') await fetch(...words)
else throw new Error('serve or fetch')
