//! What a ledger asks of nodes beyond its rules for everybody: stake, where its genesis has an economy.
//!
//! A node that has bonded less than a lease needs asks for none, and says so. It bonds by itself what its operator allows
//! (`ledger.stake`), and no more; whatever else becomes of its money, a person orders.

use std::time::Duration;

use super::{Coordinator, Pending};
use crate::{chain::wire::Message, node::edges, types::Time};

/// A ledger that did not say, or whose stake this node lacks, is asked again after this long: a person may have bonded meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(15);

impl Coordinator {
    /// Asks the ledgers that have not said, or whose stake this node lacks.
    pub(super) fn tend_terms(&mut self) {
        let now = self.now;
        let due = self.ledgers.iter().filter(|(_, state)| {
            let wanted = state.terms.is_none_or(|terms| terms.bonded < terms.min_stake);
            let asked = state.terms_at != Time::ZERO && now.since(state.terms_at) < ASK_AGAIN;
            state.read && state.connected && wanted && !asked
        });
        let due: Vec<String> = due.map(|(ledger, _)| ledger.clone()).collect();
        due.iter().for_each(|ledger| self.ask_terms(ledger));
        self.bond_if_needed();
    }

    /// Asks a ledger what it asks of nodes, unless it is asked already.
    pub(super) fn ask_terms(&mut self, ledger: &str) {
        let now = self.now;
        let Some(state) = self.ledgers.get_mut(ledger).filter(|state| !state.asking_terms) else { return };
        (state.asking_terms, state.terms_at) = (true, now);
        let request = edges::Request::Terms { ledger: ledger.to_owned(), node: self.me };
        self.edge(request, Pending::Terms { ledger: ledger.to_owned() });
    }

    pub(super) fn on_terms(&mut self, ledger: &str, result: Result<edges::Terms, String>) {
        let Some(state) = self.ledgers.get_mut(ledger) else { return };
        state.asking_terms = false;
        match result {
            Ok(terms) => {
                let news = state.terms.replace(terms) != Some(terms);
                if news && terms.bonded < terms.min_stake {
                    let (needed, bonded) = (terms.min_stake, terms.bonded);
                    tracing::warn!(
                        ledger,
                        needed,
                        bonded,
                        "a lease on this ledger needs a stake that this node has not bonded: see `atlas-node wallet bond` and `ledger.stake`"
                    );
                }
            }
            Err(reason) => tracing::debug!(ledger, reason, "the ledger did not say what it asks of nodes"),
        }
    }

    /// Bonds what is missing for a lease on the configured ledger, if the operator allows so much.
    fn bond_if_needed(&mut self) {
        let (now, ledger, most) = (self.now, self.config.ledger.clone(), self.config.stake);
        let Some(state) = self.ledgers.get_mut(&ledger) else { return };
        let registered = state.view.nodes.contains_key(&self.me);
        let Some(terms) = state.terms.filter(|_| registered && !state.bonding) else { return };
        // One that was refused is tried again as seldom as the ledger is asked.
        let lately = state.bonded_at != Time::ZERO && now.since(state.bonded_at) < ASK_AGAIN;
        if terms.bonded >= terms.min_stake || terms.min_stake > most || lately || self.stopping.is_some() {
            return;
        }
        (state.bonding, state.bonded_at) = (true, now);
        let message = Message::Bond { amount: terms.min_stake - terms.bonded };
        self.submit(&ledger, message, true, Pending::Bond { ledger: ledger.clone() });
    }

    pub(super) fn on_bonded(&mut self, ledger: &str, code: u32, log: &str) {
        if code != 0 {
            tracing::warn!(ledger, log, "the stake that a lease needs could not be bonded");
        }
        if let Some(state) = self.ledgers.get_mut(ledger) {
            state.bonding = false;
        }
        self.ask_terms(ledger);
    }
}
