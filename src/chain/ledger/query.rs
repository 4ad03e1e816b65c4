//! Queries: reading the last block's state.

use std::ops::Bound;

use serde::{Serialize, de::DeserializeOwned};

use super::{Key, Ledger, QueryError, entries::Entry, reputation};
use crate::{
    chain::{
        records::{ObjectId, OffenceId, OffenceKind},
        wire::query,
    },
    codec,
    types::{Digest, JobId, NodeKey},
};

/// The longest data of a query in bytes: an id.
const MAX_DATA: usize = 1024;
/// The most records a list answers; the next page begins after the last one's id.
const PAGE: usize = 1_000;

/// Answers one query.
pub(super) fn answer(ledger: &Ledger, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError> {
    let state = &ledger.state;
    let request = Request { path, data };
    match path {
        query::GET_NODE => Ok(codec::encode(&state.node(&request.id()?))),
        query::GET_JOB => Ok(codec::encode(&state.job(&request.id()?))),
        query::GET_TASK => Ok(codec::encode(&state.task(&request.id()?))),
        query::GET_MODEL => Ok(codec::encode(&state.model(&request.id::<String>()?))),
        query::GET_ACCOUNT => Ok(codec::encode(&state.account(&request.id()?).cloned().unwrap_or_default())),
        query::GET_TASKS_BY_JOB => Ok(codec::encode(&state.tasks_of(request.id()?).collect::<Vec<_>>())),
        query::LIST_NODES => {
            let from = request.after(Key::Node, Key::Node(NodeKey([0; 32])))?;
            Ok(list(ledger, from, Key::NodeClock(NodeKey([0; 32])), |entry| match entry {
                Entry::Node(node) => Some(&**node),
                _ => None,
            }))
        }
        query::LIST_JOBS => {
            let from = request.after(Key::Job, Key::Job(JobId([0; 32])))?;
            Ok(list(ledger, from, Key::Task(FIRST_TASK), |entry| match entry {
                Entry::Job(job) => Some(&**job),
                _ => None,
            }))
        }
        query::LIST_MODELS => {
            let from = request.after(Key::Model, Key::Model(String::new()))?;
            Ok(list(ledger, from, Key::Inference(JobId([0; 32]), NodeKey([0; 32])), |entry| match entry {
                Entry::Model(model) => Some(&**model),
                _ => None,
            }))
        }
        query::GET_STAKE => Ok(codec::encode(&state.stake(&request.id()?).cloned().unwrap_or_default())),
        query::GET_STANDING => Ok(codec::encode(&reputation::standing(state, &request.id()?))),
        query::GET_OFFENCE => Ok(codec::encode(&state.offence(&request.id()?))),
        query::LIST_OFFENCES => {
            let from = request.after(Key::Offence, Key::Offence(FIRST_OFFENCE))?;
            Ok(list(ledger, from, Key::Standing(NodeKey([0; 32])), |entry| match entry {
                Entry::Offence(offence) => Some(&**offence),
                _ => None,
            }))
        }
        query::GET_OBJECT => Ok(codec::encode(&state.object(&request.id()?))),
        query::LIST_OBJECTS => {
            let from = request.after(Key::Object, Key::Object(FIRST_OBJECT))?;
            let records = state.range((from, Bound::Unbounded)).filter_map(|(_, entry)| match entry {
                Entry::Object(object) => Some(object),
                _ => None,
            });
            Ok(codec::encode(&records.take(PAGE).collect::<Vec<_>>()))
        }
        query::GET_OBJECTS_BY_OWNER => {
            Ok(codec::encode(&state.objects_of(request.id()?).take(PAGE).collect::<Vec<_>>()))
        }
        query::GET_OBJECTS_BY_ROOT => {
            let named = state.index().objects_named(ObjectId::name_of(&request.id()?)).take(PAGE);
            Ok(codec::encode(&named.filter_map(|id| state.object(&id)).collect::<Vec<_>>()))
        }
        query::GET_RECORD => {
            let record = state.get(&request.id()?).map(Entry::to_bytes);
            Ok(record.unwrap_or_else(|| codec::encode(&None::<u8>)))
        }
        query::GET_VALIDATORS => Ok(codec::encode(&state.validators().cloned().unwrap_or_default())),
        query::GET_TOTALS => Ok(codec::encode(&state.totals())),
        query::CHANGES => Ok(codec::encode(&ledger.changed.after(request.id()?, state, ledger.app_hash()))),
        query::UPDATES => {
            let after = if data.is_empty() { None } else { Some(request.id()?) };
            Ok(codec::encode(&ledger.changed.updates(after, state)))
        }
        query::PROVE => Ok(codec::encode(&ledger.prove(&request.id()?))),
        _ => Err(QueryError::Path(path.chars().take(128).collect())),
    }
}

const FIRST_TASK: crate::types::TaskId = crate::types::TaskId { job: JobId([0; 32]), slot: 0 };

const FIRST_OFFENCE: OffenceId =
    OffenceId { node: NodeKey([0; 32]), kind: OffenceKind::TwoReceipts, job: JobId([0; 32]), round: 0 };

const FIRST_OBJECT: ObjectId = ObjectId { owner: NodeKey([0; 32]), name: Digest([0; 32]) };

struct Request<'a> {
    path: &'a str,
    data: &'a [u8],
}

impl Request<'_> {
    fn id<T: DeserializeOwned>(&self) -> Result<T, QueryError> {
        codec::decode(self.data, MAX_DATA).map_err(|source| QueryError::Data { path: self.path.to_owned(), source })
    }

    /// Where a list begins: after the id that the data names, or at the first key if it names none.
    fn after<T: DeserializeOwned>(&self, key: fn(T) -> Key, first: Key) -> Result<Bound<Key>, QueryError> {
        if self.data.is_empty() { Ok(Bound::Included(first)) } else { Ok(Bound::Excluded(key(self.id()?))) }
    }
}

/// One page of the records before `end`.
fn list<'a, T: Serialize + 'a>(
    ledger: &'a Ledger,
    from: Bound<Key>,
    end: Key,
    kind: impl Fn(&'a Entry) -> Option<&'a T>,
) -> Vec<u8> {
    let records = ledger.state.range((from, Bound::Excluded(end))).filter_map(|(_, entry)| kind(entry));
    codec::encode(&records.take(PAGE).collect::<Vec<_>>())
}
