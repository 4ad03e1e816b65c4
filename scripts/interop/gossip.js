/**
 * The signed objects that nodes tell everybody, a page each: protocols/announcement.md, assignment-notice.md, rollback.md,
 * status-change.md. A message's data is the CBOR of a signed object.
 */
import { gossipsub } from '@libp2p/gossipsub'
import {
  WireError, bool, cid, decodeCbor, digest, encodeCbor, jobId, list, nodeKey, open, optional, record, sha256, sign, signed,
  taskId, text, time, u32, u64, word
} from './wire.js'

/** Longest body of a signed object in bytes. */
const MAX_BODY = 65_536
/** Longest message in bytes: a body with the key, the signature and the field names about it. */
export const MAX_MESSAGE = MAX_BODY + 256
/** A message that is so much older or younger than the own clock is not forwarded, in milliseconds. */
export const MAX_AGE = 300_000

const CHECKPOINT = record({ cid, round: u32, step: u32 })

/** A number of which absence means none. */
const orZero = of => (value, at) => of(value ?? 0, at)

/** protocols/job.md */
const JOB = record({
  name: text,
  model_id: text,
  task_type: word('training', 'inference'),
  bundle: cid,
  model: cid,
  model_root: digest,
  dataset_cid: cid,
  held_out: optional(cid),
  seed: u64,
  rounds: u32,
  local_steps: u32,
  checkpoint_every: u32,
  config: text,
  output: word('model', 'gradient'),
  codec: word('f32', 'i8b256'),
  rule: word('norm_clipped_mean'),
  outer: record({ learning_rate_micros: u32, momentum_micros: u32 }),
  quorum: word('all', 'two_thirds'),
  resources: record({
    cpu_millicores: orZero(u64),
    memory_bytes: orZero(u64),
    storage_bytes: orZero(u64),
    gpu_count: orZero(u32)
  }),
  round_limit_millis: u64,
  deadline_millis: u64,
  budget: u64,
  settle: word('ledger', 'none'),
  copies: u32,
  session: bool
})

/** A hint, never the truth: what counts stands on the ledger. */
export const ANNOUNCEMENT = {
  topic: '/atlas/jobs/new',
  domain: 'atlas/announcement/v1',
  limit: MAX_BODY,
  by: 'submitter',
  reader: record({
    job: jobId,
    ledger: text,
    ledger_host: optional(nodeKey),
    spec: JOB,
    shards: list(record({ cid, size: u64, records: u64 })),
    submitter: nodeKey,
    providers: list(nodeKey),
    timestamp: time
  })
}

export const ASSIGNMENT_NOTICE = {
  topic: '/atlas/tasks/assign',
  domain: 'atlas/assignment-notice/v1',
  limit: MAX_BODY,
  by: 'node',
  reader: record({ ledger: text, task: taskId, generation: u32, node: nodeKey, timestamp: time })
}

const ROLLBACK_FIELDS = record({
  event_type: word('task_rollback'),
  ledger: text,
  task_id: taskId,
  job_id: jobId,
  shard_id: u32,
  node_id: nodeKey,
  void_generation: u32,
  checkpoint: optional(CHECKPOINT),
  timestamp: time
})

/** Its job and slot stand beside the task's id and must be the task's. */
export const ROLLBACK = {
  topic: '/atlas/recovery/rollback',
  domain: 'atlas/rollback/v1',
  limit: MAX_BODY,
  by: 'node_id',
  reader: (value, at) => {
    const rollback = ROLLBACK_FIELDS(value, at)
    const task = Buffer.from(rollback.task_id)
    const isOfTask = task.subarray(0, 32).equals(rollback.job_id) && task.readUInt32BE(32) === rollback.shard_id
    if (!isOfTask) throw new WireError(`${at}: job_id and shard_id are not the task's`)
    return rollback
  }
}

export const STATUS_CHANGE = {
  topic: '/atlas/heartbeat',
  domain: 'atlas/status-change/v1',
  limit: MAX_BODY,
  by: 'observer',
  reader: record({
    node: nodeKey,
    status: word('online', 'offline', 'degraded', 'recovering'),
    observer: nodeKey,
    last_sequence: u64,
    timestamp: time
  })
}

/** All that every node listens to, by topic. */
export const KINDS = new Map([ANNOUNCEMENT, ASSIGNMENT_NOTICE, ROLLBACK, STATUS_CHANGE].map(kind => [kind.topic, kind]))

/** Gossip as this network has it: no envelope of its own, a message is known by the SHA-256 of its data. */
export function service () {
  return gossipsub({
    globalSignaturePolicy: 'StrictNoSign',
    msgIdFn: message => sha256(message.data),
    maxInboundDataLength: MAX_MESSAGE,
    asyncValidation: false
  })
}

/** Listens on topics and forwards only what it checked. */
export class Gossip {
  #libp2p
  /** Messages that were not what their page says, and why. @type {{topic: string, error: Error}[]} */
  refused = []

  /** @param {import('libp2p').Libp2p} libp2p with {@link service} as `pubsub` */
  constructor (libp2p) {
    this.#libp2p = libp2p
  }

  /**
   * Joins the topic of a kind.
   *
   * @template T
   * @param {import('./wire.js').ObjectKind<T> & {topic: string}} kind
   * @param {(object: T) => void} onObject told of each valid message once
   */
  listen (kind, onObject) {
    const { pubsub } = this.#libp2p.services
    pubsub.topicValidators.set(kind.topic, (_, message) => {
      try {
        const object = open(kind, decodeCbor(message.data, signed, MAX_MESSAGE))
        if (Math.abs(Date.now() - Number(object.timestamp)) > MAX_AGE) return 'ignore'
        onObject(object)
        return 'accept'
      } catch (error) {
        this.refused.push({ topic: kind.topic, error })
        return 'reject'
      }
    })
    pubsub.subscribe(kind.topic)
  }

  /** Resolves once a peer passes on what is said on a topic: both are in each other's mesh. */
  inMesh (topic, signal) {
    const { pubsub } = this.#libp2p.services
    return new Promise((resolve, reject) => {
      const onGraft = ({ detail }) => { if (detail.topic === topic) resolve(detail.peerId) }
      pubsub.addEventListener('gossipsub:graft', onGraft)
      signal.addEventListener('abort', () => reject(new Error(`nobody joined ${topic} in time`)))
    })
  }

  /** Says something to everybody. */
  async publish (kind, object, key) {
    return this.#libp2p.services.pubsub.publish(kind.topic, encodeCbor(await sign(kind, object, key)))
  }
}
