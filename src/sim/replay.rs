//! Replays a recording: the parts of a node, made as they were, are told what they were told, and must say what they said.
//!
//! This is what shows that the simulator drives the parts that run in a node, and that they decide without clock, chance
//! or memory of their own: whatever else they looked at would make them say something else here. It stops at the
//! first difference: after it, everything differs.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    chain::{self, embedded::Told, ledger},
    codec, executor, health,
    identity::Keypair,
    node::{
        Beginning,
        coordinator::{Coordinator, Input},
    },
    proof,
    protocol::{Call, State},
    record::{
        COORDINATOR, EXTENSION, Entry, LEDGER, MAX_ENTRY, NODE, Spoken, What,
        reader::{self, Reader},
    },
    shard,
    store::key_file,
    types::{NodeKey, Time},
};

/// How deep recordings are looked for below the directory that was named: it, and one directory a node.
const DEPTH: usize = 2;

/// Why a recording can't be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recording.
    #[error(transparent)]
    Read(#[from] reader::Error),
    /// The directory.
    #[error("{} can't be read", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is none.
    #[error("no recording (*.{EXTENSION}) in {}: make one with `atlas-node start --record`", .path.display())]
    Nothing {
        /// Where none is.
        path: PathBuf,
    },
    /// The key.
    #[error("the node's key can't be read; name its file with --key")]
    Key(#[from] key_file::Error),
    /// Another node's key.
    #[error("the key is {found}'s, and the recording {wanted}'s; name its file with --key")]
    OtherKey {
        /// Of the key.
        found: NodeKey,
        /// Of the recording.
        wanted: NodeKey,
    },
    /// What a part was made from or told is no such thing.
    #[error("entry {entry}: what `{part}` was told can't be read: another version of atlas-node recorded it")]
    Input {
        /// Counted from 0.
        entry: u64,
        /// Which part.
        part: String,
        /// Why.
        source: codec::Error,
    },
    /// A part that this version does not have, or whose beginning is missing.
    #[error("entry {entry}: there is no part `{part}`")]
    Part {
        /// Counted from 0.
        entry: u64,
        /// Which.
        part: String,
    },
    /// A ledger's beginning is unsound.
    #[error("the recorded ledger can't begin")]
    Ledger(#[from] ledger::GenesisError),
}

/// What a part said in the recording and here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The entry, counted from 0.
    pub entry: u64,
    /// Which part.
    pub part: String,
    /// The time of the part's last input.
    pub at: Time,
    /// What the recording says.
    pub recorded: String,
    /// What came out here.
    pub replayed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, part, at, recorded, replayed } = self;
        write!(
            f,
            "entry {entry}: after its input at {at}, {part} said\n  {replayed}\nand in the recording\n  {recorded}"
        )
    }
}

/// How much of a part was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inputs that it was told.
    pub inputs: u64,
    /// Outputs that were compared.
    pub outputs: u64,
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Each part, by name.
    pub parts: BTreeMap<String, Tally>,
    /// The recording broke off inside an entry, as it does when a node is killed.
    pub truncated: bool,
    /// The first thing that a part said differently.
    pub difference: Option<Difference>,
}

/// The recordings in `directory` and in the directories below it, one a start of a node.
pub fn recordings(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    collect(directory, DEPTH, &mut found).map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
    found.sort();
    if found.is_empty() { Err(Error::Nothing { path: directory.to_owned() }) } else { Ok(found) }
}

fn collect(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push(path);
        } else if depth > 1 && path.is_dir() {
            collect(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// Replays the recording at `path`, with the key in `key`, or where the recording says that it was.
pub fn replay(path: &Path, key: Option<&Path>) -> Result<Replayed, Error> {
    let mut reader = Reader::open(path)?;
    let mut replay = Replay::default();
    while let Some(entry) = reader.read()? {
        replay.number = reader.entries() - 1;
        if let Some(difference) = replay.entry(entry, key)? {
            return Ok(Replayed { parts: replay.tallies, truncated: false, difference: Some(difference) });
        }
    }
    Ok(Replayed { parts: replay.tallies, truncated: reader.is_truncated(), difference: None })
}

/// A part under replay.
trait Part {
    /// Tells it what was recorded.
    fn input(&mut self, at: Time, input: &[u8]) -> Result<(), codec::Error>;
    /// What it says next.
    fn output(&mut self) -> Option<Spoken>;
    /// When it wants to be called.
    fn next(&self) -> Option<Time>;
}

struct Protocol<S>(S);

impl<S: State> Part for Protocol<S> {
    fn input(&mut self, at: Time, input: &[u8]) -> Result<(), codec::Error> {
        codec::decode::<Call<S>>(input, MAX_ENTRY)?.apply(&mut self.0, at);
        Ok(())
    }

    fn output(&mut self) -> Option<Spoken> {
        self.0.poll_action().map(|action| Spoken::of(&action))
    }

    fn next(&self) -> Option<Time> {
        self.0.poll_timeout()
    }
}

impl Part for Coordinator {
    fn input(&mut self, at: Time, input: &[u8]) -> Result<(), codec::Error> {
        self.handle(codec::decode::<Input>(input, MAX_ENTRY)?, at);
        Ok(())
    }

    fn output(&mut self) -> Option<Spoken> {
        self.poll_output().map(|output| Spoken::of(&output))
    }

    fn next(&self) -> Option<Time> {
        Some(self.poll_timeout())
    }
}

struct Ledger {
    ledger: ledger::Ledger,
    said: VecDeque<Spoken>,
}

impl Part for Ledger {
    fn input(&mut self, at: Time, input: &[u8]) -> Result<(), codec::Error> {
        let said = match codec::decode(input, MAX_ENTRY)? {
            Told::Block(transactions) => {
                let transactions: Vec<Vec<u8>> = transactions.into_iter().map(serde_bytes::ByteBuf::into_vec).collect();
                Spoken::of(&self.ledger.apply_block(at, &transactions))
            }
            Told::Restore(snapshot) => {
                let restored = ledger::Ledger::restore(&snapshot).map(|ledger| self.ledger = ledger);
                Spoken::of(&restored)
            }
        };
        self.said.push_back(said);
        Ok(())
    }

    fn output(&mut self) -> Option<Spoken> {
        self.said.pop_front()
    }

    fn next(&self) -> Option<Time> {
        None
    }
}

/// One recording being replayed.
#[derive(Default)]
struct Replay {
    parts: BTreeMap<String, Box<dyn Part>>,
    tallies: BTreeMap<String, Tally>,
    /// When each part was told something last.
    told: BTreeMap<String, Time>,
    /// The entry in hand.
    number: u64,
}

impl Replay {
    fn entry(&mut self, entry: Entry, key: Option<&Path>) -> Result<Option<Difference>, Error> {
        let Entry { part, what } = entry;
        match what {
            What::Begin(beginning) => self.begin(part, &beginning, key).map(|()| None),
            What::Input { at, input } => self.input(part, at, &input).map(|()| None),
            What::Output(recorded) => {
                let replayed = self.part(&part)?.output();
                self.tallies.entry(part.clone()).or_default().outputs += 1;
                let same = replayed.as_ref() == Some(&recorded);
                Ok((!same).then(|| self.difference(part, recorded.words, replayed)))
            }
            What::Settled { next } => self.settled(part, next),
        }
    }

    fn begin(&mut self, part: String, beginning: &[u8], key: Option<&Path>) -> Result<(), Error> {
        let entry = self.number;
        if part == NODE {
            let beginning: Beginning =
                codec::decode(beginning, MAX_ENTRY).map_err(|source| Error::Input { entry, part, source })?;
            let keypair = key_file::load(key.unwrap_or(&beginning.key_file))?;
            let found = keypair.node_key();
            if found != beginning.node {
                return Err(Error::OtherKey { found, wanted: beginning.node });
            }
            self.make(&beginning, &keypair);
        } else if part.starts_with(LEDGER) {
            let genesis = codec::decode(beginning, MAX_ENTRY).map_err(|source| Error::Input {
                entry,
                part: part.clone(),
                source,
            })?;
            let ledger = Ledger { ledger: ledger::Ledger::new(genesis)?, said: VecDeque::new() };
            self.parts.insert(part, Box::new(ledger));
        } else {
            return Err(Error::Part { entry, part });
        }
        Ok(())
    }

    /// Every part of the node but its ledgers.
    fn make(&mut self, beginning: &Beginning, keypair: &Keypair) {
        let parts: [(&str, Box<dyn Part>); 7] = [
            (COORDINATOR, Box::new(beginning.coordinator(keypair))),
            (executor::State::PROTOCOL, Box::new(Protocol(beginning.executor()))),
            (executor::inference::State::PROTOCOL, Box::new(Protocol(beginning.inference()))),
            (health::State::PROTOCOL, Box::new(Protocol(beginning.health(keypair)))),
            (proof::State::PROTOCOL, Box::new(Protocol(beginning.proof()))),
            (shard::State::PROTOCOL, Box::new(Protocol(beginning.shard()))),
            (chain::rpc::State::PROTOCOL, Box::new(Protocol(beginning.ledger_rpc()))),
        ];
        self.parts.extend(parts.map(|(name, part)| (name.to_owned(), part)));
    }

    fn part(&mut self, part: &str) -> Result<&mut Box<dyn Part>, Error> {
        let entry = self.number;
        self.parts.get_mut(part).ok_or_else(|| Error::Part { entry, part: part.to_owned() })
    }

    fn input(&mut self, part: String, at: Time, input: &[u8]) -> Result<(), Error> {
        let entry = self.number;
        self.part(&part)?.input(at, input).map_err(|source| Error::Input { entry, part: part.clone(), source })?;
        self.tallies.entry(part.clone()).or_default().inputs += 1;
        self.told.insert(part, at);
        Ok(())
    }

    fn settled(&mut self, part: String, next: Option<Time>) -> Result<Option<Difference>, Error> {
        let replaying = self.part(&part)?;
        let (more, wanted) = (replaying.output(), replaying.next());
        if more.is_some() {
            return Ok(Some(self.difference(part, "nothing more".into(), more)));
        }
        if wanted == next {
            return Ok(None);
        }
        let words = |next: Option<Time>| match next {
            Some(time) => format!("wake me at {time}"),
            None => "don't wake me".to_owned(),
        };
        let mut difference = self.difference(part, words(next), None);
        difference.replayed = words(wanted);
        Ok(Some(difference))
    }

    fn difference(&self, part: String, recorded: String, replayed: Option<Spoken>) -> Difference {
        let at = self.told.get(&part).copied().unwrap_or_default();
        let replayed = replayed.map_or_else(|| "nothing".to_owned(), |spoken| spoken.words);
        Difference { entry: self.number, part, at, recorded, replayed }
    }
}
