//! Gossip.

use atlas_node::{
    gossip::{Announcement, AssignmentNotice, JobMessage, JobUpdate, Rollback, StatusChange},
    types::NodeStatus,
};

use super::{super::vectors::Page, Maker, sample};

pub(super) fn pages() -> Vec<Page> {
    vec![announcement_page(), assignment_page(), rollback_page(), status_page(), job_message_page()]
}

pub(super) fn announcement() -> Announcement {
    Announcement {
        job: sample::job(),
        ledger: "atlas-test".into(),
        ledger_host: None,
        spec: sample::spec(),
        shards: sample::shards(),
        submitter: sample::key(1),
        providers: vec![sample::key(2), sample::key(3)],
        timestamp: sample::NOW,
    }
}

fn announcement_page() -> Page {
    let mut maker = Maker::new("announcement");
    let hosted = Announcement { ledger_host: Some(sample::key(1)), providers: vec![], ..announcement() };
    maker.signed("signed-announcement", &[("on a chain", announcement()), ("on a ledger of its own", hosted)]);
    maker.done()
}

fn assignment_page() -> Page {
    let mut maker = Maker::new("assignment-notice");
    let notice = AssignmentNotice {
        ledger: "atlas-test".into(),
        task: sample::task(1),
        generation: 1,
        node: sample::key(2),
        timestamp: sample::NOW,
    };
    maker.signed("signed-assignment-notice", &[("first lease", notice)]);
    maker.done()
}

fn rollback_page() -> Page {
    let mut maker = Maker::new("rollback");
    let rollback = Rollback {
        event_type: "task_rollback".into(),
        ledger: "atlas-test".into(),
        task_id: sample::task(1),
        job_id: sample::job(),
        shard_id: 1,
        node_id: sample::key(3),
        void_generation: 1,
        checkpoint: Some(sample::reference()),
        timestamp: sample::NOW,
    };
    let start = Rollback { checkpoint: None, ..rollback.clone() };
    maker.signed("signed-rollback", &[("to a checkpoint", rollback), ("to the round's start", start)]);
    maker.done()
}

fn status_page() -> Page {
    let mut maker = Maker::new("status-change");
    let change = |status, observer| StatusChange {
        node: sample::key(1),
        status,
        observer: sample::key(observer),
        last_sequence: 1_760_000_000_000,
        timestamp: sample::NOW,
    };
    maker.signed(
        "signed-status-change",
        &[
            ("offline, says another", change(NodeStatus::Offline, 2)),
            ("offline, says the node itself", change(NodeStatus::Offline, 1)),
            ("online", change(NodeStatus::Online, 2)),
            ("degraded", change(NodeStatus::Degraded, 2)),
            ("recovering", change(NodeStatus::Recovering, 2)),
        ],
    );
    maker.done()
}

fn job_message_page() -> Page {
    let mut maker = Maker::new("job-message");
    let message = |update| JobMessage { job: sample::job(), node: sample::key(2), timestamp: sample::NOW, update };
    let update = JobUpdate::Update {
        task: sample::task(1),
        round: 3,
        update_cid: sample::cid("update"),
        receipt: sample::keypair(2).seal(&sample::receipt()).digest(),
    };
    let vote = sample::keypair(2).seal(&sample::vote(2));
    let proposal = JobUpdate::Proposal { outcome: Box::new(sample::outcome()), vote: vote.clone() };
    maker.signed(
        "signed-job-message",
        &[("Update", message(update)), ("Proposal", message(proposal)), ("Vote", message(JobUpdate::Vote(vote)))],
    );
    maker.done()
}
