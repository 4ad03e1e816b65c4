/**
 * UnixFS DAGs as `ipfs add --cid-version=1 --raw-leaves --chunker=size-1048576` makes them (profile `unixfs-v1-2025`).
 */
import { createHash } from 'node:crypto'
import * as dagPb from '@ipld/dag-pb'
import { UnixFS } from 'ipfs-unixfs'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 as hasher } from 'multiformats/hashes/sha2'
import { WireError, sha256 } from './wire.js'

/** Bytes of a leaf; the last one of a file may be shorter. */
export const CHUNK = 1 << 20
/** Links of an inner node. */
export const WIDTH = 1024
/** Deepest DAG that a reader follows: directories and inner nodes together. */
export const MAX_DEPTH = 32

/**
 * @typedef {object} Dag
 * @property {CID} root
 * @property {number} size bytes of its files
 * @property {Map<string, Uint8Array>} blocks by the text of their CID
 */

/** @typedef {{cid: CID, fileSize: number, treeSize: number}} Link `treeSize` in bytes of blocks, each as often as it is linked */

// --- making ---------------------------------------------------------------------------------------------------------

/**
 * The DAG of one file.
 *
 * @param {Uint8Array} content
 * @returns {Promise<Dag>}
 */
export async function fileDag (content) {
  const blocks = new Map()
  let level = []
  for (let start = 0; start === 0 || start < content.length; start += CHUNK) {
    level.push(await leaf(content.subarray(start, start + CHUNK), blocks))
  }
  while (level.length > 1) {
    const above = []
    for (let start = 0; start < level.length; start += WIDTH) above.push(await inner(level.slice(start, start + WIDTH), blocks))
    level = above
  }
  return { root: level[0].cid, size: content.length, blocks }
}

async function leaf (chunk, blocks) {
  const cid = await put(raw.code, chunk, blocks)
  return { cid, fileSize: chunk.length, treeSize: chunk.length }
}

async function inner (links, blocks) {
  const fileSize = links.reduce((sum, link) => sum + link.fileSize, 0)
  const data = new UnixFS({ type: 'file', blockSizes: links.map(link => BigInt(link.fileSize)) }).marshal()
  const block = dagPb.encode({ Data: data, Links: links.map(link => ({ Name: '', Tsize: link.treeSize, Hash: link.cid })) })
  const treeSize = links.reduce((sum, link) => sum + link.treeSize, block.length)
  return { cid: await put(dagPb.code, block, blocks), fileSize, treeSize }
}

async function put (codec, block, blocks) {
  const cid = CID.createV1(codec, await hasher.digest(block))
  blocks.set(cid.toString(), block)
  return cid
}

// --- reading --------------------------------------------------------------------------------------------------------

/**
 * Throws unless a block is what its name says.
 *
 * @param {CID} cid
 * @param {Uint8Array} block
 */
export function checkBlock (cid, block) {
  if (cid.multihash.code !== hasher.code) throw new WireError(`${cid}: hash function ${cid.multihash.code} is not SHA-256`)
  if (Buffer.compare(cid.multihash.digest, sha256(block)) !== 0) throw new WireError(`${cid}: the block does not match its CID`)
}

/**
 * Reads a whole DAG, every block checked against its name and every size against its word.
 *
 * @param {CID} root
 * @param {(cids: CID[]) => Promise<Uint8Array[]>} fetch blocks of CIDs in order; they need not be checked
 * @returns {Promise<{files: Map<string, {size: number, sha256: Uint8Array}>, size: number, blocks: Map<string, Uint8Array>}>}
 *   files by their path below the root, which is empty for a root that is a file
 */
export async function readDag (root, fetch) {
  const dag = { files: new Map(), size: 0, blocks: new Map() }
  await readNode({ dag, fetch }, root, '', 0)
  return dag
}

async function readNode (reading, cid, path, depth) {
  if (depth > MAX_DEPTH) throw new WireError(`${cid}: deeper than ${MAX_DEPTH}`)
  const node = parse(cid, await take(reading, cid))
  if (node.type !== 'directory') return readFile(reading, cid, path)
  for (const { Name, Hash } of node.links) {
    if (Name === '' || Name === '.' || Name === '..' || /[/\0]/.test(Name)) throw new WireError(`${cid}: a name that is none`)
    await readNode(reading, Hash, path === '' ? Name : `${path}/${Name}`, depth + 1)
  }
}

async function readFile (reading, cid, path) {
  const hash = createHash('sha256')
  const size = await readContent(reading, cid, hash, 0)
  reading.dag.files.set(path, { size, sha256: new Uint8Array(hash.digest()) })
  reading.dag.size += size
}

/** Feeds a file's bytes to `hash` in order; gives their number. */
async function readContent (reading, cid, hash, depth) {
  if (depth > MAX_DEPTH) throw new WireError(`${cid}: deeper than ${MAX_DEPTH}`)
  const node = parse(cid, await take(reading, cid))
  if (node.type === 'directory') throw new WireError(`${cid}: a directory inside a file`)
  hash.update(node.content)
  let size = node.content.length
  await prefetch(reading, node.links.map(link => link.Hash))
  for (const [index, link] of node.links.entries()) {
    const part = await readContent(reading, link.Hash, hash, depth + 1)
    if (part !== node.sizes[index]) throw new WireError(`${link.Hash}: ${part} bytes where ${node.sizes[index]} were promised`)
    size += part
  }
  return size
}

/** A block as a node of a DAG. */
function parse (cid, block) {
  if (cid.code === raw.code) return { type: 'file', content: block, links: [], sizes: [] }
  if (cid.code !== dagPb.code) throw new WireError(`${cid}: codec ${cid.code} is neither raw nor dag-pb`)
  const { Data, Links } = dagPb.decode(block)
  const { type, data, blockSizes } = UnixFS.unmarshal(Data)
  if (type === 'directory') return { type, links: Links }
  if (type !== 'file') throw new WireError(`${cid}: a ${type} is neither a file nor a directory`)
  if (Links.length !== blockSizes.length) throw new WireError(`${cid}: as many sizes as links are needed`)
  return { type, content: data ?? new Uint8Array(), links: Links, sizes: blockSizes.map(Number) }
}

async function take (reading, cid) {
  await prefetch(reading, [cid])
  return reading.dag.blocks.get(cid.toString())
}

async function prefetch ({ dag, fetch }, cids) {
  const wanted = cids.filter(cid => !dag.blocks.has(cid.toString()))
  if (wanted.length === 0) return
  for (const [index, block] of (await fetch(wanted)).entries()) {
    checkBlock(wanted[index], block)
    dag.blocks.set(wanted[index].toString(), block)
  }
}
