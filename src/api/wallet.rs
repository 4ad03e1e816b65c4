//! The money of a node: what can be ordered, and what its account and its rewards look like.
//!
//! Plain data, as all of the API. Amounts are in the ledger's smallest unit, times are block times. It never says more
//! than the ledger keeps: see [`RewardedRound::waiting`].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    identity,
    types::{JobId, NodeKey, Slot, Time},
};

/// Whom money goes to, as people write accounts: a node key or a peer id, both of which are the account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Payee(pub NodeKey);

/// A text that names no account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayeeError {
    /// It is something else.
    #[error(
        "`{0}` is neither a node key (64 hexadecimal digits) nor a peer id; `atlas-node nodes --json` shows those of all nodes"
    )]
    Unknown(String),
    /// An address is the hash of a key, from which nobody comes back to it.
    #[error(
        "`{0}` is an address, which does not tell its key; give the peer id or the node key, which `atlas-node wallet show` prints there"
    )]
    Address(String),
    /// Nobody can have this key: what is sent there is lost.
    #[error(
        "nobody can have the node key {0}: it is no Ed25519 public key, so nothing is sent there; look for a mistyped digit"
    )]
    NoKey(NodeKey),
}

impl FromStr for Payee {
    type Err = PayeeError;

    fn from_str(text: &str) -> Result<Self, PayeeError> {
        let shown = || text.chars().take(80).collect::<String>();
        let key = text.parse::<NodeKey>().ok().or_else(|| identity::node_key_of_text(text));
        match key {
            Some(key) if identity::peer_id(&key).is_some() => Ok(Self(key)),
            Some(key) => Err(PayeeError::NoKey(key)),
            None if text.starts_with("atlas1") => Err(PayeeError::Address(shown())),
            None => Err(PayeeError::Unknown(shown())),
        }
    }
}

impl TryFrom<String> for Payee {
    type Error = PayeeError;

    fn try_from(text: String) -> Result<Self, PayeeError> {
        text.parse()
    }
}

impl From<Payee> for String {
    fn from(payee: Payee) -> Self {
        payee.to_string()
    }
}

impl fmt::Display for Payee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Money to give to another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// Whom.
    pub to: Payee,
    /// How much; at least 1.
    pub amount: u64,
}

/// Money to bond, or to ask back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// How much; at least 1.
    pub amount: u64,
}

/// The node's account with its stake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    /// Bech32.
    pub address: String,
    /// The account's key, which others name to send money here.
    pub key: NodeKey,
    /// The ledger.
    pub ledger: String,
    /// What can be spent.
    pub balance: u64,
    /// What the node has bonded.
    pub bonded: u64,
    /// What it asked back, the longest waiting first.
    pub unbonding: Vec<Unbonding>,
    /// The next transaction's nonce.
    pub nonce: u64,
}

/// Part of a stake that goes back to the balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbonding {
    /// How much.
    pub amount: u64,
    /// Block time from which it is there.
    pub releases_at: Time,
}

/// What the node earned on its ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewards {
    /// The node: a peer id.
    pub node: String,
    /// The ledger.
    pub ledger: String,
    /// Where rewards go: bech32.
    pub address: String,
    /// Paid since the node registered, all jobs together.
    pub paid: u64,
    /// What waits for the end of its audit window: the sum over `rounds`.
    pub waiting: u64,
    /// The height that all this stands at.
    pub height: u64,
    /// The closed rounds that applied work of this node, of the jobs that it remembers; the newest first, at most
    /// [`MAX_REWARDED`].
    pub rounds: Vec<RewardedRound>,
    /// Older rounds that were left out of the list.
    pub left_out: u64,
}

/// The most rounds in a list of rewards; a person looks at the newest.
pub const MAX_REWARDED: usize = 1_000;

/// A closed round that applied work of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardedRound {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// The round.
    pub round: u32,
    /// The node's slots.
    pub slots: Vec<Slot>,
    /// Block height at which it closed.
    pub height: u64,
    /// Block time of that.
    pub closed_at: Time,
    /// The height with which its audit window ends, and at which it is paid.
    pub due: u64,
    /// What waits for that height. None when it is past: a ledger keeps what each node was paid in all
    /// ([`Rewards::paid`]), and of a round that is paid not how much it was.
    pub waiting: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keypair;

    #[test]
    fn a_payee_is_a_key_or_a_peer_and_what_is_neither_is_named() {
        let host = Keypair::from_secret(&[7; 32]);
        let (key, peer) = (host.node_key(), host.peer_id());
        assert_eq!(key.to_string().parse::<Payee>(), Ok(Payee(key)));
        assert_eq!(peer.to_string().parse::<Payee>(), Ok(Payee(key)));
        let read: Payment = serde_json::from_str(&format!("{{\"to\":\"{peer}\",\"amount\":5}}")).unwrap();
        assert_eq!(read, Payment { to: Payee(key), amount: 5 });
        assert_eq!(serde_json::to_string(&read).unwrap(), format!("{{\"to\":\"{key}\",\"amount\":5}}"));

        let refused = |text: &str| text.parse::<Payee>().unwrap_err();
        assert_eq!(refused(&identity::address(&key)), PayeeError::Address(identity::address(&key)));
        for nonsense in ["", "anna", &key.to_string()[1..], "7".repeat(5_000).as_str()] {
            let PayeeError::Unknown(shown) = refused(nonsense) else { panic!("`{nonsense}` is nobody") };
            assert!(shown.len() <= 80);
        }
        // Of all 32 bytes about half are a point of the curve; these are none.
        let nobody = NodeKey([2; 32]);
        assert_eq!(refused(&nobody.to_string()), PayeeError::NoKey(nobody));
        for wrong in ["{\"to\":\"anna\",\"amount\":5}", "{\"to\":7,\"amount\":5}", "{\"amount\":5}"] {
            assert!(serde_json::from_str::<Payment>(wrong).is_err(), "{wrong}");
        }
        let negative = format!("{{\"to\":\"{key}\",\"amount\":-5}}");
        assert!(serde_json::from_str::<Payment>(&negative).is_err());
    }
}
