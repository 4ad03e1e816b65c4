//! A job on its way into the network: prepared, on the ledger, announced, offered, held by others, acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libp2p::PeerId;

use super::{
    Coordinator, Output, Pending,
    gather::{Next, Purpose},
};
use crate::{
    api::{self, ErrorCode, Reply, Submitted},
    chain::wire::Message,
    codec, executor,
    gossip::{Announcement, TOPIC_JOBS},
    identity,
    node::edges,
    shard,
    submit::JobFile,
    types::{ContentId, Digest, JobId, JobSpec, LedgerId, NodeKey, Settle, ShardSpec, TaskId, TaskStatus, Time, words},
};

/// How long peers get to take copies before the submission is acknowledged with fewer.
const COPIES_WITHIN: Duration = Duration::from_secs(60);
/// A submission that the ledger has not committed by then is answered as failed; its transaction may still be committed.
const COMMIT_WITHIN: Duration = Duration::from_secs(60);
/// Announcements are repeated at this interval while tasks have no taker: gossip may lose one, and nodes come later.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(5);
/// Peers that are offered a slot directly, in the volunteers' order.
const OFFERS_A_SLOT: usize = 2;

/// Where a job comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A job file.
    File(api::Submit),
    /// Content that is in the store already.
    Prepared(Box<api::SubmitPrepared>),
}

/// One submission.
#[derive(Debug)]
pub(super) struct Submission {
    command: Option<u64>,
    spec: Option<Box<JobSpec>>,
    shards: Vec<ShardSpec>,
    sizes: BTreeMap<ContentId, u64>,
    ledger: LedgerId,
    job: Option<JobId>,
    /// Its transaction is on its way.
    sent: bool,
    /// Which peers hold which roots; `None` while one is asked.
    holds: BTreeMap<ContentId, BTreeMap<PeerId, Option<bool>>>,
    give_up_at: Time,
    announce_at: Time,
}

impl Submission {
    fn roots(&self) -> BTreeSet<ContentId> {
        let Some(spec) = &self.spec else { return BTreeSet::new() };
        let mut roots = BTreeSet::from([spec.bundle, spec.model, spec.dataset_cid]);
        roots.extend(spec.held_out);
        roots.extend(self.shards.iter().map(|shard| shard.cid));
        roots
    }

    /// How many other nodes hold every root.
    fn copies(&self) -> u32 {
        let held = |root: &ContentId| {
            let count =
                self.holds.get(root).map_or(0, |peers| peers.values().filter(|held| **held == Some(true)).count());
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        self.roots().iter().map(held).min().unwrap_or(0)
    }

    fn holders(&self) -> Vec<NodeKey> {
        let all = self.holds.values().flat_map(|peers| peers.iter()).filter(|(_, held)| **held == Some(true));
        let keys: BTreeSet<NodeKey> = all.filter_map(|(peer, _)| identity::node_key(peer)).collect();
        keys.into_iter().collect()
    }
}

impl Coordinator {
    pub(super) fn begin_submission(&mut self, command: u64, source: Source) {
        let id = self.new_id();
        let submission = Submission {
            command: Some(command),
            spec: None,
            shards: Vec::new(),
            sizes: BTreeMap::new(),
            ledger: self.config.ledger.clone(),
            job: None,
            sent: false,
            holds: BTreeMap::new(),
            give_up_at: self.now + COMMIT_WITHIN,
            announce_at: Time(u64::MAX),
        };
        self.submissions.insert(id, submission);
        match source {
            Source::File(request) => self.read_job_file(id, request),
            Source::Prepared(request) => {
                self.edge(edges::Request::Measure(request), Pending::Prepare { submission: id });
            }
        }
    }

    /// What the job file names by CID must be here before it can be prepared.
    fn read_job_file(&mut self, id: u64, request: api::Submit) {
        let needs = match JobFile::parse(&request.job_file) {
            Ok(job) => job.needs(),
            Err(error) => return self.fail_submission(id, ErrorCode::Invalid, words(&error)),
        };
        let wanted: Vec<_> = needs.into_iter().map(|cid| (cid, Purpose::Content)).collect();
        if wanted.is_empty() {
            return self.start_preparing(id, Box::new(request));
        }
        let providers: Vec<PeerId> = self.peers.keys().copied().collect();
        self.gather(&wanted, &providers, Next::Prepare { submission: id, request: Box::new(request) });
    }

    pub(super) fn start_preparing(&mut self, id: u64, request: Box<api::Submit>) {
        self.edge(edges::Request::Prepare(request), Pending::Prepare { submission: id });
    }

    /// The job's content is in the store; its ledger is next.
    pub(super) fn on_prepared(&mut self, id: u64, result: Result<edges::Prepared, String>) {
        let Some(submission) = self.submissions.get_mut(&id) else { return };
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(reason) => return self.fail_submission(id, ErrorCode::Invalid, reason),
        };
        submission.give_up_at = self.now + COMMIT_WITHIN;
        submission.sizes = prepared.sizes;
        self.data_keys.extend(prepared.data_key);
        submission.shards = prepared.shards;
        let settle = prepared.spec.settle;
        submission.spec = Some(prepared.spec);
        match settle {
            Settle::Ledger => self.submit_job(id),
            Settle::None => {
                // A ledger for this job alone, named by what it is for, so that no other can be taken for it.
                let seed = codec::encode(&(self.me, self.now, id));
                let name = format!("atlas-job-{}", &Digest::of(&seed).to_string()[..8]);
                if let Some(submission) = self.submissions.get_mut(&id) {
                    submission.ledger.clone_from(&name);
                }
                self.ledger_state(&name).host = Some(self.keypair.peer_id());
                self.edge(edges::Request::CarryLedger { ledger: name }, Pending::CarryLedger { submission: id });
            }
        }
    }

    pub(super) fn on_ledger_carried(&mut self, id: u64, result: Result<(), String>) {
        match result {
            Ok(()) => self.submit_job(id),
            Err(reason) => {
                self.fail_submission(id, ErrorCode::Internal, format!("the job's ledger can't be made: {reason}"))
            }
        }
    }

    /// Sends the job, once this node stands on its ledger: an account that does not has no balance to put into escrow.
    fn submit_job(&mut self, id: u64) {
        let Some(submission) = self.submissions.get(&id) else { return };
        let Some(spec) = submission.spec.clone() else { return };
        let (ledger, shards) = (submission.ledger.clone(), submission.shards.clone());
        let registered = self.ledgers.get(&ledger).is_some_and(|state| state.view.nodes.contains_key(&self.me));
        if !registered || submission.sent {
            return;
        }
        if let Some(submission) = self.submissions.get_mut(&id) {
            submission.sent = true;
        }
        let message = Message::SubmitJob { spec, shards };
        self.submit(&ledger, message, true, Pending::SubmitJob { submission: id });
    }

    pub(super) fn on_job_committed(&mut self, id: u64, code: u32, log: &str, data: &[u8]) {
        if code != 0 {
            return self.fail_submission(id, ErrorCode::Refused, format!("the ledger refused the job: {log}"));
        }
        let Ok(job) = codec::decode::<JobId>(data, 64) else {
            return self.fail_submission(id, ErrorCode::Internal, "the ledger's answer names no job".into());
        };
        if let Some(submission) = self.submissions.get_mut(&id) {
            submission.job = Some(job);
            submission.give_up_at = self.now + COPIES_WITHIN;
            if let Some(spec) = submission.spec.clone() {
                let shards = submission.shards.clone();
                self.safekeep_inputs(job, &spec, &shards);
            }
        }
        self.announce(id);
        self.offer(id);
        self.spread(id);
        self.tend_submissions();
    }

    fn announcement(&self, id: u64) -> Option<Announcement> {
        let submission = self.submissions.get(&id)?;
        let spec = submission.spec.as_deref()?.clone();
        let ledger_host = (spec.settle == Settle::None).then_some(self.me);
        Some(Announcement {
            job: submission.job?,
            ledger: submission.ledger.clone(),
            ledger_host,
            spec,
            shards: submission.shards.clone(),
            submitter: self.me,
            providers: submission.holders(),
            timestamp: self.now,
        })
    }

    fn announce(&mut self, id: u64) {
        let Some(announcement) = self.announcement(id) else { return };
        self.announcements.insert(announcement.job, announcement.clone());
        self.publish(TOPIC_JOBS, &announcement);
        if let Some(submission) = self.submissions.get_mut(&id) {
            submission.announce_at = self.now + ANNOUNCE_AGAIN;
        }
    }

    /// Offers each slot to the nodes that stand first in the volunteers' order: peer to peer, without waiting for gossip.
    fn offer(&mut self, id: u64) {
        let Some(announcement) = self.announcement(id) else { return };
        let signed = self.keypair.seal(&announcement);
        let job = announcement.job;
        for (slot, _) in (0..).zip(&announcement.shards) {
            for peer in self.offer_order(&announcement.ledger, TaskId { job, slot }) {
                let offer = self.wait_for(Pending::Offer { job, slot });
                let announcement = signed.clone();
                self.output(Output::Executor(executor::Input::Offer { id: offer, peer, announcement, slot }));
            }
        }
    }

    fn offer_order(&self, ledger: &str, task: TaskId) -> Vec<PeerId> {
        let candidates = self.peers.keys().filter_map(identity::node_key);
        let order = self.volunteers(ledger, task, 0, candidates);
        order.iter().take(OFFERS_A_SLOT).filter_map(identity::peer_id).collect()
    }

    /// Asks as many peers as copies are wanted to hold each root of the job.
    fn spread(&mut self, id: u64) {
        let Some(submission) = self.submissions.get(&id) else { return };
        let wanted = submission.spec.as_ref().map_or(0, |spec| spec.copies) as usize;
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        let mut asks = Vec::new();
        for root in submission.roots() {
            let asked = submission.holds.get(&root);
            let good = asked.map_or(0, |asked| asked.values().filter(|held| **held != Some(false)).count());
            let fresh = peers.iter().filter(|peer| asked.is_none_or(|asked| !asked.contains_key(peer)));
            asks.extend(fresh.take(wanted.saturating_sub(good)).map(|peer| (root, *peer)));
        }
        for (root, peer) in asks {
            let Some(submission) = self.submissions.get_mut(&id) else { return };
            submission.holds.entry(root).or_default().insert(peer, None);
            let size = submission.sizes.get(&root).copied().unwrap_or(0);
            let hold = self.wait_for(Pending::SubmissionHold { submission: id, root, peer });
            self.output(Output::Shard(shard::Input::AskHold { id: hold, root, size, peer }));
        }
    }

    pub(super) fn on_submission_hold(&mut self, id: u64, root: ContentId, peer: PeerId, result: Result<(), String>) {
        if let Err(reason) = &result {
            tracing::info!(%root, %peer, reason, "a peer does not hold a copy");
        }
        if let Some(submission) = self.submissions.get_mut(&id) {
            submission.holds.entry(root).or_default().insert(peer, Some(result.is_ok()));
        }
        self.spread(id);
        self.tend_submissions();
    }

    /// Acknowledges what has its copies or ran out of time, and repeats announcements that nobody followed.
    pub(super) fn tend_submissions(&mut self) {
        let ids: Vec<u64> = self.submissions.keys().copied().collect();
        for id in ids {
            let Some(submission) = self.submissions.get(&id) else { continue };
            let late = self.now >= submission.give_up_at;
            match submission.job {
                None if late && submission.spec.is_some() => {
                    let message = format!("ledger `{}` did not commit the job in time", submission.ledger);
                    self.fail_submission(id, ErrorCode::Unavailable, message);
                }
                None if submission.spec.is_some() => self.submit_job(id),
                None => {}
                Some(job) => {
                    let wanted = submission.spec.as_ref().map_or(0, |spec| spec.copies);
                    if submission.command.is_some() && (late || submission.copies() >= wanted) {
                        self.acknowledge(id, job);
                    }
                    self.tend_announcement(id, job);
                }
            }
        }
    }

    fn tend_announcement(&mut self, id: u64, job: JobId) {
        let Some(submission) = self.submissions.get(&id) else { return };
        if self.now < submission.announce_at {
            return;
        }
        let view = self.ledgers.get(&submission.ledger).map(|state| &state.view);
        let waiting = view.is_some_and(|view| view.tasks_of(&job).any(|task| task.status == TaskStatus::Pending));
        if waiting {
            self.announce(id);
            self.offer(id);
        } else if submission.command.is_none() {
            self.submissions.remove(&id);
        }
    }

    fn acknowledge(&mut self, id: u64, job: JobId) {
        let Some(submission) = self.submissions.get_mut(&id) else { return };
        let Some(command) = submission.command.take() else { return };
        let Some(spec) = &submission.spec else { return };
        let copies = submission.copies();
        let mut warnings = Vec::new();
        if copies < spec.copies {
            warnings.push(format!(
                "{copies} of {} wanted copies are held by others: until then this node must stay up",
                spec.copies
            ));
        }
        if spec.settle == Settle::None {
            warnings.push("the job's ledger is carried by this node and is lost with it".to_owned());
        }
        let submitted = Submitted {
            job_id: job,
            ledger: submission.ledger.clone(),
            tasks: u32::try_from(submission.shards.len()).unwrap_or(u32::MAX),
            bundle_cid: spec.bundle,
            model_cid: spec.model,
            dataset_cid: spec.dataset_cid,
            held_out_cid: spec.held_out,
            copies,
            warnings,
        };
        self.reply(command, Reply::Submitted(Box::new(submitted)));
        self.announce(id);
    }

    fn fail_submission(&mut self, id: u64, code: ErrorCode, message: String) {
        if let Some(command) = self.submissions.remove(&id).and_then(|submission| submission.command) {
            self.reply_error(command, code, message);
        }
    }
}
