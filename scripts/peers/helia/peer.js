// Helia over loopback, by bitswap, into its store of files: one end of a transfer to compare with, and a reader of what others keep.
//
//   node peer.js serve FILE DIR           prints its process, its address and the CID; until its stdin ends
//   node peer.js fetch ADDRESS CID DIR    prints the seconds until all blocks are on the disk, and MiB resident at most
//   node peer.js tree ADDRESS CID DIR     prints for each file below CID its length, its SHA-256 and its path

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
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

// Each file below a directory, or the file itself.
async function * files (fs, cid, path) {
  const { type } = await fs.stat(cid)
  if (type !== 'directory') {
    yield { cid, path }
    return
  }
  for await (const entry of fs.ls(cid)) yield * files(fs, entry.cid, path === '' ? entry.name : `${path}/${entry.name}`)
}

async function tree (address, cid, directory) {
  const helia = await start(directory)
  await helia.libp2p.dial(multiaddr(address))
  const fs = unixfs(helia)
  for await (const file of files(fs, CID.parse(cid), '')) {
    const hash = createHash('sha256')
    let length = 0
    for await (const bytes of fs.cat(file.cid)) {
      hash.update(bytes)
      length += bytes.length
    }
    console.log(length, hash.digest('hex'), file.path)
  }
  process.exit(0)
}

const [mode, ...words] = process.argv.slice(2)
if (mode === 'serve') await serve(...words)
else if (mode === 'fetch') await fetch(...words)
else if (mode === 'tree') await tree(...words)
else throw new Error('serve, fetch or tree')
