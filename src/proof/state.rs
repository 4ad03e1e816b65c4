//! Who verifies what for whom: bounded, each request answered once, nothing said that was not checked.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{
    trace,
    wire::{MAX_PATH, Opening, Refused, Request, Response},
};
use crate::{
    identity,
    protocol::{self, Action, RequestId, ResponseToken, SendError},
    types::{Attestation, Digest, Receipt, Signed, Time},
};

/// Receipts of one peer that are being checked at once. A node holds a handful of tasks; one more is refused as busy.
const MAX_CHECKS_PER_PEER: usize = 8;
/// Receipts that are being checked at once, of all peers: each costs a model in memory. One more is refused as busy.
const MAX_CHECKS: usize = 64;
/// Challenges of one peer that wait for an answer. One more is refused as busy.
const MAX_CHALLENGES_PER_PEER: usize = 8;
/// Attestations remembered, 0.5 KiB each, so that a lost answer costs no second check. The oldest is forgotten.
const MAX_REMEMBERED: usize = 1024;

/// What an operator can choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// A request is answered with "later" after this long. Less than the protocol's own limit, so that the asker hears why.
    pub answer_within: Duration,
}

impl Default for Config {
    /// Fetching an update and a checkpoint of 1 GB at 20 MB/s takes 100 s.
    fn default() -> Self {
        Self { answer_within: Duration::from_secs(110) }
    }
}

/// What the coordinator says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input {
    /// Ask `peer` to verify an own receipt. One [`Event::Verified`] or [`Event::VerifyFailed`] with this id follows.
    Verify {
        /// Repeated by the event.
        id: u64,
        /// The verifier.
        peer: PeerId,
        /// A signed [`Receipt`] of this node.
        receipt: Signed,
    },
    /// The answer to [`Event::ReceiptAsked`]: a signed [`Attestation`], or why not.
    AnswerReceipt {
        /// Of the event.
        token: ResponseToken,
        /// The attestation of this node.
        result: Result<Signed, Refused>,
    },
    /// Ask `peer`, the signer of `receipt`, to open one state. One [`Event::Opened`] or [`Event::ChallengeFailed`] follows.
    Challenge {
        /// Repeated by the event.
        id: u64,
        /// The worker.
        peer: PeerId,
        /// Its signed [`Receipt`].
        receipt: Signed,
        /// Which of its trace's entries.
        index: u32,
    },
    /// The answer to [`Event::Challenged`].
    AnswerChallenge {
        /// Of the event.
        token: ResponseToken,
        /// The opening.
        result: Result<Opening, Refused>,
    },
}

/// What this module tells the coordinator.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// `peer` attested the receipt, and the attestation is right.
    Verified {
        /// Of the input.
        id: u64,
        /// The verifier.
        peer: PeerId,
        /// The signed [`Attestation`].
        attestation: Signed,
    },
    /// `peer` did not.
    VerifyFailed {
        /// Of the input.
        id: u64,
        /// The verifier.
        peer: PeerId,
        /// Why; `retryable` says whether another verifier may think otherwise.
        reason: Refused,
    },
    /// `peer` asks for its receipt to be verified. The signature is checked; [`Input::AnswerReceipt`] must follow, within
    /// [`Config::answer_within`] for the answer to be heard.
    ReceiptAsked {
        /// For the answer.
        token: ResponseToken,
        /// The worker.
        peer: PeerId,
        /// Its signed [`Receipt`].
        receipt: Signed,
    },
    /// `peer` challenges an own receipt. [`Input::AnswerChallenge`] must follow.
    Challenged {
        /// For the answer.
        token: ResponseToken,
        /// The challenger.
        peer: PeerId,
        /// Digest of the receipt's signed body.
        receipt: Digest,
        /// Which of its trace's entries.
        index: u32,
    },
    /// `peer` opened the state, and the path leads to its receipt's trace root.
    Opened {
        /// Of the input.
        id: u64,
        /// The worker.
        peer: PeerId,
        /// Which of the trace's entries.
        index: u32,
        /// The verified opening.
        opening: Opening,
    },
    /// `peer` did not open it. No answer counts as a failed audit once the coordinator gives up.
    ChallengeFailed {
        /// Of the input.
        id: u64,
        /// The worker.
        peer: PeerId,
        /// Why.
        reason: Refused,
    },
}

/// The decisions of `/atlas/proof/1`.
#[derive(Debug)]
pub struct State {
    config: Config,
    me: crate::types::NodeKey,
    actions: VecDeque<Action<State>>,
    next_request: u64,
    /// What this node asked; the carrier answers each exactly once.
    asked: BTreeMap<RequestId, Asked>,
    /// Receipts that the coordinator checks, by the token of their event.
    checks: BTreeMap<ResponseToken, Check>,
    /// Challenges that the coordinator answers.
    challenges: BTreeMap<ResponseToken, Challenge>,
    /// Attestations given, by receipt, and the order they came in.
    remembered: BTreeMap<Digest, Signed>,
    oldest: VecDeque<Digest>,
}

#[derive(Debug)]
enum Asked {
    Verify { id: u64, receipt: Digest, peer: PeerId },
    Challenge { id: u64, peer: PeerId, index: u32, trace_root: Digest, segments: u32 },
}

/// A check outlives its question: a worker that was told "later" asks again and finds it done.
#[derive(Debug)]
struct Check {
    receipt: Digest,
    peer: PeerId,
    /// The question to answer and until when; `None` once it was told "later" or its peer is gone.
    open: Option<(ResponseToken, Time)>,
    /// When the coordinator is no longer believed to answer at all.
    forget_at: Time,
}

#[derive(Debug)]
struct Challenge {
    peer: PeerId,
    deadline: Time,
}

/// A check that the coordinator has not ended by then is forgotten. Longer than any transfer's stall limit times its retries.
const FORGET_CHECK_AFTER: Duration = Duration::from_secs(30 * 60);

impl State {
    /// The state of the node `me`.
    pub fn new(config: Config, me: crate::types::NodeKey) -> Self {
        Self {
            config,
            me,
            actions: VecDeque::new(),
            next_request: 0,
            asked: BTreeMap::new(),
            checks: BTreeMap::new(),
            challenges: BTreeMap::new(),
            remembered: BTreeMap::new(),
            oldest: VecDeque::new(),
        }
    }

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn respond(&mut self, token: ResponseToken, response: Response) {
        self.actions.push_back(Action::Respond { token, response });
    }

    fn refuse(&mut self, token: ResponseToken, refused: Refused) {
        self.respond(token, Response::Refused(refused));
    }

    fn ask(&mut self, peer: PeerId, asked: Asked, request: Request) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.asked.insert(id, asked);
        self.actions.push_back(Action::Request { peer, id, request });
    }

    fn challenge(&mut self, id: u64, peer: PeerId, receipt: &Signed, index: u32) {
        let Ok(Receipt { trace_root, segments, .. }) = receipt.open::<Receipt>() else {
            return self.event(Event::ChallengeFailed {
                id,
                peer,
                reason: Refused::never("it is not a signed receipt"),
            });
        };
        let asked = Asked::Challenge { id, peer, index, trace_root, segments };
        self.ask(peer, asked, Request::Challenge { receipt: receipt.digest(), index });
    }

    fn answer_receipt(&mut self, token: ResponseToken, result: Result<Signed, Refused>) {
        let Some(check) = self.checks.remove(&token) else {
            return;
        };
        if let Ok(attestation) = &result {
            self.remember(check.receipt, attestation.clone());
        }
        if let Some((token, _)) = check.open {
            self.respond(token, result.map_or_else(|refused| Response::Refused(refused.cut()), Response::Verified));
        }
    }

    fn remember(&mut self, receipt: Digest, attestation: Signed) {
        if self.remembered.insert(receipt, attestation).is_none() {
            self.oldest.push_back(receipt);
        }
        if self.oldest.len() > MAX_REMEMBERED
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.remembered.remove(&oldest);
        }
    }

    fn answer_challenge(&mut self, token: ResponseToken, result: Result<Opening, Refused>) {
        if self.challenges.remove(&token).is_some() {
            let response = result.map_or_else(|refused| Response::Refused(refused.cut()), Response::Opening);
            self.respond(token, response);
        }
    }

    fn on_receipt(&mut self, peer: PeerId, token: ResponseToken, receipt: Signed, now: Time) {
        if let Err(refused) = self.admit(&peer, &receipt) {
            return self.refuse(token, refused);
        }
        let digest = receipt.digest();
        if let Some(attestation) = self.remembered.get(&digest) {
            let attestation = attestation.clone();
            return self.respond(token, Response::Verified(attestation));
        }
        let deadline = now + self.config.answer_within;
        if let Some(check) = self.checks.values_mut().find(|check| check.receipt == digest) {
            let previous = check.open.replace((token, deadline));
            if let Some((previous, _)) = previous {
                self.refuse(previous, Refused::later("the same receipt was sent again"));
            }
            return;
        }
        let of_peer = self.checks.values().filter(|check| check.peer == peer).count();
        if of_peer >= MAX_CHECKS_PER_PEER || self.checks.len() >= MAX_CHECKS {
            return self.refuse(token, Refused::later("busy checking other receipts"));
        }
        let check = Check { receipt: digest, peer, open: Some((token, deadline)), forget_at: now + FORGET_CHECK_AFTER };
        self.checks.insert(token, check);
        self.event(Event::ReceiptAsked { token, peer, receipt });
    }

    /// A receipt is taken from its own worker only, and never from this node's.
    fn admit(&self, peer: &PeerId, signed: &Signed) -> Result<(), Refused> {
        let receipt: Receipt = signed.open().map_err(|error| Refused::never(error.to_string()))?;
        let faults = [
            (identity::node_key(peer) != Some(signed.signer), "the receipt is another node's: its worker must send it"),
            (receipt.node == self.me, "a worker can't verify its own receipt"),
        ];
        faults.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, fault)| Err(Refused::never(fault)))
    }

    fn on_challenge(&mut self, peer: PeerId, token: ResponseToken, receipt: Digest, index: u32, now: Time) {
        let of_peer = self.challenges.values().filter(|challenge| challenge.peer == peer).count();
        if of_peer >= MAX_CHALLENGES_PER_PEER || self.challenges.len() >= MAX_CHECKS {
            return self.refuse(token, Refused::later("busy with other challenges"));
        }
        self.challenges.insert(token, Challenge { peer, deadline: now + self.config.answer_within });
        self.event(Event::Challenged { token, peer, receipt, index });
    }
}

/// The attestation, if it is one of this receipt by this peer, who is not the worker (whom the request went out to as
/// another node).
fn check_attestation(attestation: &Signed, receipt: &Digest, peer: &PeerId) -> Result<(), Refused> {
    let opened: Attestation = attestation.open().map_err(|error| Refused::never(error.to_string()))?;
    let right = opened.receipt == *receipt && identity::node_key(peer) == Some(attestation.signer);
    if right { Ok(()) } else { Err(Refused::later("the peer's attestation is of another receipt or by another node")) }
}

fn send_failure(error: &SendError) -> Refused {
    Refused::later(error.to_string())
}

impl protocol::State for State {
    type Request = Request;
    type Response = Response;
    type Input = Input;
    type Event = Event;

    const PROTOCOL: &'static str = "/atlas/proof/1";
    const TIMEOUT_MILLIS: u64 = 120_000;
    const MAX_STREAMS: usize = 32;

    fn handle(&mut self, input: Input, _: Time) {
        match input {
            Input::Verify { id, peer, receipt } => {
                let asked = Asked::Verify { id, receipt: receipt.digest(), peer };
                self.ask(peer, asked, Request::Receipt(receipt));
            }
            Input::AnswerReceipt { token, result } => self.answer_receipt(token, result),
            Input::Challenge { id, peer, receipt, index } => self.challenge(id, peer, &receipt, index),
            Input::AnswerChallenge { token, result } => self.answer_challenge(token, result),
        }
    }

    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Request, now: Time) {
        match request {
            Request::Receipt(receipt) => self.on_receipt(peer, token, receipt, now),
            Request::Challenge { receipt, index } => self.on_challenge(peer, token, receipt, index, now),
        }
    }

    fn on_response(&mut self, _: PeerId, id: RequestId, result: Result<Response, SendError>, _: Time) {
        match self.asked.remove(&id) {
            Some(Asked::Verify { id, receipt, peer }) => {
                let verified = verified(result, &receipt, &peer);
                self.event(match verified {
                    Ok(attestation) => Event::Verified { id, peer, attestation },
                    Err(reason) => Event::VerifyFailed { id, peer, reason },
                });
            }
            Some(Asked::Challenge { id, peer, index, trace_root, segments }) => {
                self.event(match opened(result, &trace_root, segments, index) {
                    Ok(opening) => Event::Opened { id, peer, index, opening },
                    Err(reason) => Event::ChallengeFailed { id, peer, reason },
                });
            }
            None => {}
        }
    }

    fn on_disconnected(&mut self, peer: PeerId, _: Time) {
        self.checks.values_mut().filter(|check| check.peer == peer).for_each(|check| check.open = None);
        self.challenges.retain(|_, challenge| challenge.peer != peer);
    }

    fn on_timeout(&mut self, now: Time) {
        let mut late: Vec<ResponseToken> = Vec::new();
        for check in self.checks.values_mut() {
            late.extend(check.open.take_if(|(_, deadline)| *deadline <= now).map(|(token, _)| token));
        }
        self.checks.retain(|_, check| check.forget_at > now);
        late.extend(self.challenges.iter().filter(|(_, challenge)| challenge.deadline <= now).map(|(token, _)| *token));
        self.challenges.retain(|_, challenge| challenge.deadline > now);
        late.into_iter().for_each(|token| self.refuse(token, Refused::later("not done in time: ask again")));
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let checks = self.checks.values().flat_map(|check| [Some(check.forget_at), check.open.map(|(_, time)| time)]);
        let challenges = self.challenges.values().map(|challenge| Some(challenge.deadline));
        checks.chain(challenges).flatten().min()
    }
}

fn verified(result: Result<Response, SendError>, receipt: &Digest, peer: &PeerId) -> Result<Signed, Refused> {
    match result.map_err(|error| send_failure(&error))? {
        Response::Verified(attestation) => {
            check_attestation(&attestation, receipt, peer)?;
            Ok(attestation)
        }
        Response::Refused(refused) => Err(refused),
        Response::Opening(_) => Err(Refused::later("the peer answered a receipt with an opening")),
    }
}

fn opened(
    result: Result<Response, SendError>,
    trace_root: &Digest,
    segments: u32,
    index: u32,
) -> Result<Opening, Refused> {
    match result.map_err(|error| send_failure(&error))? {
        Response::Opening(opening)
            if opening.path.len() <= MAX_PATH
                && trace::verify(trace_root, segments, index, &opening.state_root, &opening.path) =>
        {
            Ok(opening)
        }
        Response::Opening(_) => Err(Refused::never("the opening does not lead to the receipt's trace root")),
        Response::Refused(refused) => Err(refused),
        Response::Verified(_) => Err(Refused::later("the peer answered a challenge with an attestation")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec,
        identity::Keypair,
        proof::testing::{NOW, Worker},
        protocol::State as _,
        types::NodeKey,
    };

    fn keypair(secret: u8) -> Keypair {
        Keypair::from_secret(&[secret; 32])
    }

    fn state(secret: u8) -> State {
        State::new(Config::default(), keypair(secret).node_key())
    }

    fn worker() -> Worker {
        Worker::default()
    }

    fn signed() -> Signed {
        worker().keypair().seal(&worker().receipt())
    }

    fn attestation(verifier: &Keypair, receipt: Digest) -> Signed {
        verifier.seal(&Attestation { receipt, verifier: verifier.node_key(), timestamp: NOW })
    }

    /// All that the state wants done now.
    fn actions(state: &mut State) -> Vec<Action<State>> {
        std::iter::from_fn(|| state.poll_action()).collect()
    }

    fn refusal(actions: &[Action<State>]) -> &Refused {
        match actions {
            [Action::Respond { response: Response::Refused(refused), .. }] => refused,
            other => panic!("not a refusal: {other:?}"),
        }
    }

    /// Sends the receipt as its worker does, as the `token`-th request.
    fn present(verifier: &mut State, token: u64, receipt: &Signed) -> Vec<Action<State>> {
        let peer = worker().keypair().peer_id();
        verifier.on_request(peer, ResponseToken(token), Request::Receipt(receipt.clone()), NOW);
        actions(verifier)
    }

    #[test]
    fn a_receipt_is_verified_from_one_end_to_the_other() {
        let (mut asker, mut verifier) = (state(7), state(8));
        let peer = keypair(8).peer_id();
        asker.handle(Input::Verify { id: 5, peer, receipt: signed() }, NOW);
        let Some(Action::Request { id, request, .. }) = asker.poll_action() else { panic!() };
        let token = ResponseToken(1);
        verifier.on_request(worker().keypair().peer_id(), token, request, NOW);
        assert!(matches!(actions(&mut verifier)[..], [Action::Event(Event::ReceiptAsked { .. })]));
        let attestation = attestation(&keypair(8), signed().digest());
        verifier.handle(Input::AnswerReceipt { token, result: Ok(attestation.clone()) }, NOW);
        let Some(Action::Respond { response, .. }) = verifier.poll_action() else { panic!() };
        asker.on_response(peer, id, Ok(response), NOW);
        let Some(Action::Event(event)) = asker.poll_action() else { panic!() };
        assert_eq!(event, Event::Verified { id: 5, peer, attestation });
    }

    #[test]
    fn a_replayed_receipt_costs_no_second_check() {
        let mut verifier = state(8);
        assert!(matches!(present(&mut verifier, 1, &signed())[..], [Action::Event(Event::ReceiptAsked { .. })]));
        let result = Ok(attestation(&keypair(8), signed().digest()));
        verifier.handle(Input::AnswerReceipt { token: ResponseToken(1), result }, NOW);
        actions(&mut verifier);
        let again = present(&mut verifier, 2, &signed());
        assert!(matches!(again[..], [Action::Respond { response: Response::Verified(_), .. }]), "{again:?}");
    }

    #[test]
    fn a_receipt_sent_by_another_a_forged_one_and_an_own_one_are_refused_for_good() {
        let mut verifier = state(8);
        verifier.on_request(keypair(9).peer_id(), ResponseToken(1), Request::Receipt(signed()), NOW);
        assert!(!refusal(&actions(&mut verifier)).retryable, "another node's");

        let mut forged = signed();
        forged.body[10] ^= 1;
        assert!(!refusal(&present(&mut verifier, 2, &forged)).retryable, "changed after signing");

        let mut stolen = worker().receipt();
        stolen.node = NodeKey([1; 32]);
        let stolen = worker().keypair().seal(&stolen);
        assert!(!refusal(&present(&mut verifier, 3, &stolen)).retryable, "signed for another");

        let mut own = state(7);
        assert!(!refusal(&present(&mut own, 4, &signed())).retryable, "its own");
    }

    #[test]
    fn a_slow_check_is_answered_later_and_found_done_when_asked_again() {
        let mut verifier = state(8);
        present(&mut verifier, 1, &signed());
        let deadline = verifier.poll_timeout().unwrap();
        assert_eq!(deadline, NOW + Config::default().answer_within);
        verifier.on_timeout(deadline);
        assert!(refusal(&actions(&mut verifier)).retryable);

        assert!(present(&mut verifier, 2, &signed()).is_empty(), "the same check goes on");
        let result = Ok(attestation(&keypair(8), signed().digest()));
        verifier.handle(Input::AnswerReceipt { token: ResponseToken(1), result }, deadline);
        let answers = actions(&mut verifier);
        let [Action::Respond { token: ResponseToken(2), response: Response::Verified(_) }] = &answers[..] else {
            panic!("{answers:?}");
        };
    }

    #[test]
    fn one_peer_cannot_occupy_a_verifier() {
        let mut verifier = state(8);
        let receipt = |round: u32| {
            let mut receipt = worker().receipt();
            receipt.round = round;
            worker().keypair().seal(&receipt)
        };
        for token in 0..MAX_CHECKS_PER_PEER as u64 {
            let asked = present(&mut verifier, token, &receipt(u32::try_from(token).unwrap()));
            assert!(matches!(asked[..], [Action::Event(Event::ReceiptAsked { .. })]));
        }
        assert!(refusal(&present(&mut verifier, 99, &receipt(99))).retryable);
        verifier.on_timeout(NOW + FORGET_CHECK_AFTER);
        actions(&mut verifier);
        assert_eq!(verifier.poll_timeout(), None, "nothing is remembered for ever");
    }

    #[test]
    fn an_attestation_by_another_or_of_another_receipt_is_no_verification() {
        for attestation in [
            attestation(&keypair(9), signed().digest()),
            attestation(&keypair(8), Digest([1; 32])),
            attestation(&worker().keypair(), signed().digest()),
        ] {
            let mut asker = state(7);
            let peer = keypair(8).peer_id();
            asker.handle(Input::Verify { id: 5, peer, receipt: signed() }, NOW);
            let Some(Action::Request { id, .. }) = asker.poll_action() else { panic!() };
            asker.on_response(peer, id, Ok(Response::Verified(attestation)), NOW);
            assert!(matches!(actions(&mut asker)[..], [Action::Event(Event::VerifyFailed { id: 5, .. })]));
        }
    }

    /// Challenges the worker's receipt and answers with `opening`.
    fn challenge(index: u32, opening: Opening) -> Event {
        let mut asker = state(8);
        let peer = worker().keypair().peer_id();
        asker.handle(Input::Challenge { id: 6, peer, receipt: signed(), index }, NOW);
        let Some(Action::Request { id, request, .. }) = asker.poll_action() else { panic!() };
        assert_eq!(request, Request::Challenge { receipt: signed().digest(), index });
        let response = codec::decode(&codec::encode(&Response::Opening(opening)), 4096).unwrap();
        asker.on_response(peer, id, Ok(response), NOW);
        match asker.poll_action() {
            Some(Action::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_opening_counts_only_if_it_leads_to_the_committed_trace() {
        let states = [worker().expected().start_root(), worker().middle, Digest([8; 32])];
        let opening = |index: u32| Opening {
            state_root: states[index as usize],
            path: trace::path(&states, index).unwrap(),
            checkpoint: None,
        };
        for index in 0..3 {
            assert!(matches!(challenge(index, opening(index)), Event::Opened { id: 6, .. }));
        }
        let failed = |event| matches!(event, Event::ChallengeFailed { id: 6, .. });
        assert!(failed(challenge(1, opening(2))), "another state");
        assert!(failed(challenge(1, Opening { state_root: Digest([1; 32]), ..opening(1) })), "a forged state");
        assert!(failed(challenge(3, opening(2))), "an index that the trace has not");
        let inner = crate::tensor::merkle::root(
            &states[..2].iter().map(|s| crate::tensor::merkle::leaf(&s.0)).collect::<Vec<_>>(),
        );
        let inner = Opening { state_root: inner, path: opening(0).path[1..].to_vec(), checkpoint: None };
        assert!(failed(challenge(0, inner)), "an inner node as a leaf");
    }

    #[test]
    fn an_unanswered_challenge_ends_as_later_and_a_late_answer_is_dropped() {
        let mut worker = state(7);
        let token = ResponseToken(1);
        let challenge = Request::Challenge { receipt: signed().digest(), index: 0 };
        worker.on_request(keypair(8).peer_id(), token, challenge, NOW);
        assert!(matches!(actions(&mut worker)[..], [Action::Event(Event::Challenged { index: 0, .. })]));
        worker.on_timeout(worker.poll_timeout().unwrap());
        assert!(refusal(&actions(&mut worker)).retryable);
        worker.handle(Input::AnswerChallenge { token, result: Err(Refused::later("gone")) }, NOW);
        assert!(actions(&mut worker).is_empty());
    }
}
