//! The task between outbox, journal and ledger. It asks and writes; what to do, the outbox says.

mod elsewhere;
mod kept;
mod served;
mod verified;

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch as channel},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Endpoint, Event, Place, Way,
    backoff::Backoff,
    connection::{self, Failure, Opened, Rpc},
    journal::Journal,
    outbox::{Outbox, Outcome, Refused, Sent, Step},
    verifier::Verifier,
    witness::Witness,
};
use crate::{
    chain::wire::Message,
    clock,
    types::{Digest, NodeKey, Time},
};
use elsewhere::{Elsewhere, Heard};
use served::Connection;
use verified::{Asked, Suspicion};

/// Ways to one ledger; the oldest that was added goes when there are more.
const MAX_ENDPOINTS: usize = 32;
/// With a websocket nobody needs to ask; this catches what a broken one does not tell.
const SAFETY_POLL: Duration = Duration::from_secs(10);
/// While disconnected, the outbox is looked at this often for what is too old.
const IDLE: Duration = Duration::from_secs(1);

/// What a handle says.
#[derive(Debug)]
pub(super) enum Command {
    Submit {
        id: u64,
        message: Box<Message>,
        durable: bool,
    },
    AddEndpoint(Endpoint, Place),
    /// A query has an answer whose proof holds against the app hash after this block.
    AppHash {
        height: u64,
        answer: oneshot::Sender<Digest>,
    },
    /// A query has an answer that is a lie.
    Caught {
        endpoint: String,
        reason: String,
    },
}

/// The driver's ends of the queues between it and the handles.
pub(super) struct Ends {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) way: channel::Sender<Result<Way, String>>,
}

/// The client was stopped, or nobody listens any more.
struct Stopped;

/// A connection ends by failure, or because the client does.
enum End {
    Failure(Failure),
    Stopped,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

pub(super) struct Driver {
    config: Config,
    account: NodeKey,
    outbox: Outbox,
    journal: Arc<Mutex<Journal>>,
    writing: Option<JoinHandle<io::Result<()>>>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    way: channel::Sender<Result<Way, String>>,
    /// For a chain whose endpoints are not believed.
    verifier: Option<Verifier>,
    /// The endpoint in use speaks for the one machine that hosts the ledger, and is believed.
    believes_host: bool,
    witness: Witness,
    elsewhere: Elsewhere,
    suspicion: Option<Suspicion>,
    /// Endpoints with a fault: until when, and which.
    distrusted: BTreeMap<String, (Time, String)>,
    asked: Vec<Asked>,
    caught: Option<(String, String)>,
    /// The node has heard of everything up to here.
    height: u64,
    /// It has heard at all: also of an empty ledger, once.
    told: bool,
    backoff: Backoff,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        account: NodeKey,
        outbox: Outbox,
        journal: Journal,
        Ends { commands, events, way }: Ends,
        verifier: Option<Verifier>,
    ) -> Self {
        let journal = Arc::new(Mutex::new(journal));
        let witness = Witness::new(config.trust.as_ref().map_or(Duration::MAX, |trust| trust.stale_after));
        Self {
            config,
            account,
            outbox,
            journal,
            writing: None,
            commands,
            events,
            way,
            verifier,
            believes_host: false,
            witness,
            elsewhere: Elsewhere::default(),
            suspicion: None,
            distrusted: BTreeMap::new(),
            asked: Vec::new(),
            caught: None,
            height: 0,
            told: false,
            backoff: Backoff::default(),
        }
    }

    /// Runs until `stop`, or until no handle or no listener is left.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_connected()).await;
        self.take_the_rest();
        let written = self.finish_writing().await;
        if let Some(verifier) = &mut self.verifier {
            verifier.keep(true).await;
        }
        if !self.keep().await || !written {
            tracing::warn!("the ledger client's outbox could not be written at the end; what is new in it is lost");
        }
    }

    /// What was submitted before the stop goes to the journal with the rest.
    fn take_the_rest(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Submit { id, message, durable } = command
                && Outbox::fits(&message)
            {
                // Refused for a full outbox or an id in use: with nobody left to hear it, it is lost like a beat.
                let _ = self.outbox.submit(id, *message, durable, clock::now());
            }
        }
    }

    async fn keep_connected(&mut self) -> Result<std::convert::Infallible, Stopped> {
        loop {
            let (endpoint, opened) = self.connect().await?;
            let way = Way {
                rpc: opened.rpc.clone(),
                endpoint: endpoint.name(),
                verified: self.verifies(),
                height: self.height,
            };
            self.way.send_modify(|known| *known = Ok(way));
            let through_peer = matches!(endpoint, Endpoint::Peer(_));
            self.tell(Event::Connected { endpoint: endpoint.name(), through_peer, host: opened.host }).await?;
            let End::Failure(failure) = self.serve(&endpoint, opened.rpc).await else {
                return Err(Stopped);
            };
            self.part(&endpoint, &failure).await?;
            self.disconnected(format!("{endpoint}: {failure}")).await?;
            self.pause_among_liars().await?;
            // The next one is asked first: this one has just failed.
            self.config.endpoints.rotate_left(1);
        }
    }

    /// Tries all ways in turn until one works, and takes submissions meanwhile.
    async fn connect(&mut self) -> Result<(Endpoint, Opened), Stopped> {
        loop {
            let mut reasons = Vec::new();
            for endpoint in self.in_order() {
                let opened = connection::connect(&endpoint, &self.config, self.height).await;
                match opened.and_then(|opened| self.meet(&opened).map(|()| opened)) {
                    Ok(opened) => return Ok((endpoint, opened)),
                    Err(failure) => {
                        self.part(&endpoint, &failure).await?;
                        reasons.push(format!("{endpoint}: {failure}"));
                    }
                }
            }
            if reasons.is_empty() {
                reasons.push(format!("no way to the ledger `{}` is known", self.config.ledger));
            }
            self.disconnected(reasons.join("; ")).await?;
            let until = clock::now() + self.backoff.next(clock::random_bytes());
            self.wait_disconnected(until).await?;
        }
    }

    /// Takes commands until the time has come or a new way is known.
    async fn wait_disconnected(&mut self, until: Time) -> Result<(), Stopped> {
        while clock::now() < until {
            let pause = until.since(clock::now()).min(IDLE);
            let room = !self.outbox.is_full();
            tokio::select! {
                command = self.commands.recv(), if room => {
                    let added = matches!(command, Some(Command::AddEndpoint(..)));
                    self.on_commands(command).await?;
                    if added {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
            self.keep().await;
            self.expire().await?;
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: String) -> Result<(), Stopped> {
        let known = matches!(&*self.way.borrow(), Err(known) if *known == reason);
        if known {
            return Ok(());
        }
        self.way.send_modify(|way| *way = Err(reason.clone()));
        self.tell(Event::Disconnected { reason }).await
    }

    /// Uses a connection until it fails.
    async fn serve(&mut self, endpoint: &Endpoint, rpc: Rpc) -> End {
        let mut connection = Connection::new(endpoint, rpc, self.config.poll.shortest);
        self.outbox.on_connected(clock::now());
        loop {
            if let Err(end) = self.turn(&mut connection).await {
                return end;
            }
        }
    }

    /// Does all there is to do, then waits for the next reason.
    async fn turn(&mut self, connection: &mut Connection) -> Result<(), End> {
        if connection.is_poll_due(clock::now()) {
            // Before the question, so that a block that comes while it is answered is asked for next.
            let live = connection.is_live();
            let news = if self.verifies() {
                self.fetch_verified(&connection.rpc).await?
            } else {
                self.fetch_changes(&connection.rpc).await?
            };
            if news || !self.verifies() {
                self.backoff.reset();
            }
            if news {
                self.outbox.look_now(clock::now());
                connection.on_news();
            }
            let waits = live && !connection.is_silent();
            let pause = if waits { SAFETY_POLL } else { connection.next_pause(self.config.poll.longest) };
            connection.poll_at = clock::now() + pause;
        }
        if self.verifies() {
            self.answer_asked(&connection.rpc).await?;
            self.weigh_caught(&connection.endpoint)?;
            if self.tend_witness(&connection.endpoint).await? {
                connection.poll_at = clock::now();
            }
        }
        if self.work(connection).await? {
            connection.hurry(self.config.poll.shortest, clock::now());
        }
        self.keep().await;
        self.expire().await?;
        self.wait(connection).await
    }

    async fn wait(&mut self, connection: &mut Connection) -> Result<(), End> {
        let witness = self.witness.wake_at().filter(|_| self.verifies());
        let wakes = [self.outbox.wake_at(), witness, Some(connection.poll_at)];
        let wake = wakes.into_iter().flatten().min().unwrap_or(connection.poll_at);
        let room = !self.outbox.is_full();
        tokio::select! {
            command = self.commands.recv(), if room => self.on_commands(command).await?,
            changed = connection.seen.changed(), if connection.has_watcher() => {
                if changed.is_ok() {
                    connection.poll_at = clock::now();
                }
            }
            heard = self.elsewhere.answer() => self.on_elsewhere(heard, &connection.endpoint).await?,
            () = tokio::time::sleep_until(clock::instant_at(wake).into()) => {}
        }
        Ok(())
    }

    /// Takes a command and all that wait behind it.
    async fn on_commands(&mut self, first: Option<Command>) -> Result<(), Stopped> {
        let mut command = first.ok_or(Stopped)?;
        loop {
            if self.on_command(command).await?.is_break() || self.outbox.is_full() {
                return Ok(());
            }
            match self.commands.try_recv() {
                Ok(next) => command = next,
                Err(_) => return Ok(()),
            }
        }
    }

    async fn on_command(&mut self, command: Command) -> Result<ControlFlow<()>, Stopped> {
        let Some(command) = self.on_query(command) else { return Ok(ControlFlow::Continue(())) };
        match command {
            // Taken above.
            Command::AppHash { .. } | Command::Caught { .. } => {}
            Command::Submit { id, message, durable } => self.on_submit(id, *message, durable).await?,
            Command::AddEndpoint(endpoint, Place::First) => {
                self.config.endpoints.insert(0, endpoint);
                self.config.endpoints.truncate(MAX_ENDPOINTS);
                return Ok(ControlFlow::Break(()));
            }
            Command::AddEndpoint(endpoint, Place::Last) => {
                self.config.endpoints.truncate(MAX_ENDPOINTS - 1);
                self.config.endpoints.push(endpoint);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn on_submit(&mut self, id: u64, message: Message, durable: bool) -> Result<(), Stopped> {
        let reason = if Outbox::fits(&message) {
            match self.outbox.submit(id, message, durable, clock::now()) {
                Ok(()) => return Ok(()),
                Err(Refused::Duplicate) => format!("the id {id} is in use"),
                Err(Refused::Full) => "the outbox is full".to_owned(),
            }
        } else {
            "the message is longer than a transaction may be".to_owned()
        };
        self.tell(Event::Rejected { id, reason }).await
    }

    /// Performs the outbox's steps until it has none; true if something was sent.
    async fn work(&mut self, connection: &Connection) -> Result<bool, End> {
        let mut sent = false;
        while let Some(step) = self.outbox.next_step(clock::now()) {
            sent |= matches!(step, Step::Send { .. });
            let outcome = self.perform(connection, step).await?;
            self.report(outcome).await?;
        }
        Ok(sent)
    }

    async fn perform(&mut self, connection: &Connection, step: Step) -> Result<Option<Outcome>, End> {
        let rpc = &connection.rpc;
        match step {
            Step::ReadAccount => {
                self.read_account(rpc).await?;
                Ok(None)
            }
            Step::LookUp { key, hash } => {
                let found = self.find(rpc, &hash).await?;
                Ok(self.outbox.on_looked_up(key, found, clock::now()))
            }
            Step::Search { key, hash, after } => {
                let searched = self.search(rpc, key, &hash, after).await?;
                tracing::info!(%hash, after, ?searched, "the index does not know a transaction; the blocks were asked");
                Ok(self.outbox.on_searched(key, searched, clock::now()))
            }
            Step::Send { key, bytes, record, again } => {
                if !self.append(record.into_iter().collect()).await {
                    self.outbox.on_not_kept(clock::now());
                    return Ok(None);
                }
                self.outbox.on_kept(key);
                match rpc.send(bytes.clone()).await {
                    Ok(sent) => {
                        if self.verifies() {
                            self.elsewhere.consider(&self.config, &connection.endpoint, &sent, again, key, bytes);
                        }
                        Ok(self.outbox.on_sent(key, sent, clock::now()))
                    }
                    Err(failure) => {
                        self.outbox.on_sent(key, Sent::Unknown, clock::now());
                        Err(End::Failure(failure))
                    }
                }
            }
        }
    }

    /// Other endpoints were asked about transactions.
    async fn on_elsewhere(&mut self, heard: Vec<Heard>, used: &str) -> Result<(), Stopped> {
        for Heard { key, second, reason } in heard {
            let outcome = self.outbox.on_second(key, second, &reason, clock::now());
            self.report(outcome).await?;
        }
        self.elsewhere.ask(&self.config, used);
        Ok(())
    }

    async fn report(&mut self, outcome: Option<Outcome>) -> Result<(), Stopped> {
        match outcome {
            None => Ok(()),
            Some(Outcome::Rejected { id, reason }) => self.tell(Event::Rejected { id, reason }).await,
            Some(Outcome::Committed { id, hash, found }) => {
                let (code, log, data, height) = (found.code, found.log, found.data, found.height);
                self.tell(Event::Committed { id, code, log, data, height, hash }).await
            }
        }
    }

    async fn expire(&mut self) -> Result<(), Stopped> {
        while let Some(outcome) = self.outbox.expire(clock::now()) {
            self.report(Some(outcome)).await?;
        }
        Ok(())
    }

    /// Brings the node up to date; true if there was a new block.
    async fn fetch_changes(&mut self, rpc: &Rpc) -> Result<bool, End> {
        let before = self.height;
        loop {
            let changes = rpc.changes(self.height).await?;
            let more = changes.more && changes.height > self.height;
            if changes.height < self.height {
                return Err(End::Failure(Failure::Behind { found: changes.height, seen: self.height }));
            }
            if changes.height == self.height && self.told {
                return Ok(self.height > before);
            }
            self.height = changes.height;
            self.outbox.on_height(self.height);
            self.told = true;
            self.tell(Event::Changes(Box::new(changes))).await?;
            if !more {
                return Ok(true);
            }
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.events.send(event).await.map_err(|_| Stopped)
    }
}
