//! Offers transactions to the other endpoints, when the one in use refused them, had no room for them, or took them in vain.
//!
//! An endpoint that is not believed may say that it refuses what it would take, or take it and keep it to itself. All else that it
//! says may be true, so that nothing shows it; another endpoint does. They are asked in a task of its own, so that one that hangs
//! delays nothing. It never decides: what others said goes to the outbox.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::{
    chain::{
        client::{
            Config, Endpoint, connection,
            facts::{Second, Sent},
            outbox::Key,
        },
        wire::Code,
    },
    clock,
    types::Time,
};

/// Other endpoints that are asked, one after the other, until one takes all. More would only delay a refusal that is true.
const MAX_OTHERS: usize = 4;
/// All of them have so long together.
const PATIENCE: Duration = Duration::from_secs(30);
/// Transactions that wait until others are asked: as many as are in flight. A further one is left out, and comes again.
const MAX_WAITING: usize = 32;
/// Where there is no room, the outbox tries again five times a second; others hear of it once.
const PAUSE: Duration = Duration::from_secs(1);

/// What others are asked, and will be.
#[derive(Default)]
pub(super) struct Elsewhere {
    waiting: Vec<Offer>,
    asked: Option<(Vec<Offer>, AbortOnDropHandle<Vec<Second>>)>,
    /// Not before this for what found no room.
    no_room_at: Time,
    turn: usize,
}

/// A transaction, and what the endpoint in use said of it.
#[derive(Clone)]
struct Offer {
    key: Key,
    bytes: Vec<u8>,
    reason: String,
}

/// What others said of a transaction.
pub(super) struct Heard {
    pub(super) key: Key,
    pub(super) second: Second,
    /// What the endpoint in use said.
    pub(super) reason: String,
}

impl Elsewhere {
    /// The endpoint in `used` said this of a transaction: asks others, if that is needed.
    pub(super) fn consider(&mut self, config: &Config, used: &str, sent: &Sent, again: bool, key: Key, bytes: Vec<u8>) {
        let now = clock::now();
        let reason = match sent {
            Sent::Refused { code, log } if !is_nonce(*code) => format!("{log} (code {code})"),
            Sent::Impossible { reason } => reason.clone(),
            Sent::NotNow if self.no_room_at <= now => {
                self.no_room_at = now + PAUSE;
                "it has no room for it".to_owned()
            }
            Sent::Accepted if again => "it took it in vain".to_owned(),
            Sent::Refused { .. } if again => "its nonce is used, and no block has it".to_owned(),
            Sent::NotNow | Sent::Accepted | Sent::Refused { .. } | Sent::Unknown => return,
        };
        self.waiting.retain(|other| other.key != key);
        // A refusal must be answered: the last of the others makes room.
        if !again || !matches!(sent, Sent::Accepted | Sent::NotNow) {
            self.waiting.truncate(MAX_WAITING - 1);
        }
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(Offer { key, bytes, reason });
        }
        self.ask(config, used);
    }

    /// Asks others about what waits, unless they are asked already.
    pub(super) fn ask(&mut self, config: &Config, used: &str) {
        if self.asked.is_none() && !self.waiting.is_empty() {
            let (others, offers) = (self.others(config, used), std::mem::take(&mut self.waiting));
            let task = tokio::spawn(ask(others, config.clone(), offers.clone()));
            self.asked = Some((offers, AbortOnDropHandle::new(task)));
        }
    }

    /// The endpoints that are not in use; the first is another one each time.
    fn others(&mut self, config: &Config, used: &str) -> Vec<Endpoint> {
        let mut others: Vec<Endpoint> = config.others(used).cloned().collect();
        if !others.is_empty() {
            let first = self.turn % others.len();
            others.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        others.truncate(MAX_OTHERS);
        others
    }

    /// Waits for what others say; for ever if nobody is asked. Nothing is lost if the wait is given up.
    pub(super) async fn answer(&mut self) -> Vec<Heard> {
        let Some((_, task)) = &mut self.asked else { return std::future::pending().await };
        // A panic there is no answer.
        let seconds = task.await.unwrap_or_default();
        let offers = self.asked.take().map(|(offers, _)| offers).unwrap_or_default();
        let seconds = seconds.into_iter().chain(std::iter::repeat(Second::Silent));
        let heard = |(Offer { key, reason, .. }, second)| Heard { key, second, reason };
        offers.into_iter().zip(seconds).map(heard).collect()
    }
}

async fn ask(others: Vec<Endpoint>, config: Config, offers: Vec<Offer>) -> Vec<Second> {
    if others.is_empty() {
        return vec![Second::Nobody; offers.len()];
    }
    let mut seconds = vec![Second::Silent; offers.len()];
    let asking = async {
        for other in others {
            if let Err(failure) = offer(&other, &config, &offers, &mut seconds).await {
                tracing::debug!(%other, %failure, "another endpoint says nothing of a transaction");
            }
            if seconds.iter().all(is_taken) {
                break;
            }
        }
    };
    // What was said until then counts.
    let _ = tokio::time::timeout(PATIENCE, asking).await;
    seconds
}

/// Offers one endpoint what none has taken yet, in order.
async fn offer(
    other: &Endpoint,
    config: &Config,
    offers: &[Offer],
    seconds: &mut [Second],
) -> Result<(), connection::Failure> {
    let opened = connection::connect(other, config, 0).await?;
    for (offer, second) in offers.iter().zip(seconds) {
        if is_taken(second) {
            continue;
        }
        let said = Second::Said(opened.rpc.send(offer.bytes.clone()).await?);
        if weight(&said) > weight(second) {
            *second = said;
        }
    }
    Ok(())
}

fn is_taken(second: &Second) -> bool {
    *second == Second::Said(Sent::Accepted)
}

/// Which of two answers counts: that it was taken, that its nonce is used (so it may be in a block), that it is refused, anything.
fn weight(second: &Second) -> u8 {
    match second {
        Second::Said(Sent::Accepted) => 4,
        Second::Said(Sent::Refused { code, .. }) if is_nonce(*code) => 3,
        Second::Said(Sent::Refused { .. } | Sent::Impossible { .. }) => 2,
        Second::Said(Sent::NotNow | Sent::Unknown) => 1,
        Second::Silent | Second::Nobody => 0,
    }
}

fn is_nonce(code: u32) -> bool {
    code == Code::Nonce as u32
}
