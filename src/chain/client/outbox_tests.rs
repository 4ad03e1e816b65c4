//! The outbox, told as stories and played at random.

use super::{doubt::DOUBT, *};
use crate::types::{JobId, Signed};

fn outbox() -> Outbox {
    Outbox::new("atlas-test".to_owned(), Keypair::from_secret(&[1; 32]))
}

fn message(number: u8) -> Message {
    Message::CancelJob { job_id: JobId([number; 32]) }
}

fn found(code: Code) -> Found {
    Found { code: code as u32, log: String::new(), data: Vec::new(), height: 3 }
}

fn nonce_of(bytes: &[u8]) -> u64 {
    codec::decode::<Signed>(bytes, MAX_TRANSACTION).unwrap().open::<Transaction>().unwrap().nonce
}

/// Takes the next step, which must be a send: its key, nonce and bytes.
fn send(outbox: &mut Outbox, now: Time) -> (Key, u64, Vec<u8>) {
    match outbox.next_step(now) {
        Some(Step::Send { key, bytes, .. }) => (key, nonce_of(&bytes), bytes),
        other => panic!("not a send: {other:?}"),
    }
}

fn look_up(outbox: &mut Outbox, now: Time) -> Key {
    match outbox.next_step(now) {
        Some(Step::LookUp { key, .. }) => key,
        other => panic!("not a look-up: {other:?}"),
    }
}

#[test]
fn several_are_in_flight_with_nonces_in_order_and_each_ends_once() {
    let mut outbox = outbox();
    for id in 0..3 {
        outbox.submit(id, message(0), true, Time(0)).unwrap();
    }
    assert_eq!(outbox.next_step(Time(0)), Some(Step::ReadAccount));
    outbox.on_account(7);
    for nonce in 7..10 {
        let (key, found, _) = send(&mut outbox, Time(0));
        assert_eq!(found, nonce);
        assert_eq!(outbox.on_sent(key, Sent::Accepted, Time(0)), None);
    }
    assert_eq!(outbox.next_step(Time(1)), None);
    outbox.look_now(Time(2));
    for id in 0..3 {
        let key = look_up(&mut outbox, Time(2));
        let outcome = outbox.on_looked_up(key, Some(found(Code::Ok)), Time(2));
        assert!(matches!(outcome, Some(Outcome::Committed { id: ended, .. }) if ended == id));
        assert_eq!(outbox.on_looked_up(key, Some(found(Code::Ok)), Time(2)), None);
    }
    assert_eq!(outbox.unkept(), [Record::Done { ids: vec![0, 1, 2] }]);
    assert_eq!(outbox.wake_at(), None);
}

#[test]
fn a_lost_transaction_is_sent_again_with_the_same_bytes() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.on_account(0);
    let (key, _, bytes) = send(&mut outbox, Time(0));
    outbox.on_sent(key, Sent::Accepted, Time(0));
    let mut now = outbox.wake_at().unwrap();
    while now < Time(0) + LOST_AFTER {
        let key = look_up(&mut outbox, now);
        assert_eq!(outbox.on_looked_up(key, None, now), None);
        now = outbox.wake_at().unwrap();
    }
    let key = look_up(&mut outbox, now);
    outbox.on_looked_up(key, None, now);
    assert_eq!(send(&mut outbox, now).2, bytes);
}

#[test]
fn a_nonce_that_another_process_used_is_read_again_at_once() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.on_account(4);
    let (key, _, _) = send(&mut outbox, Time(0));
    let refused = Sent::Refused { code: Code::Nonce as u32, log: "expected 6".to_owned() };
    assert_eq!(outbox.on_sent(key, refused, Time(0)), None);
    assert_eq!(outbox.next_step(Time(0)), Some(Step::ReadAccount));
    outbox.on_account(6);
    assert_eq!(send(&mut outbox, Time(0)).1, 6);
}

#[test]
fn bytes_that_left_once_are_signed_anew_only_when_the_ledger_never_shows_them() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.on_account(4);
    let (key, _, _) = send(&mut outbox, Time(0));
    outbox.on_sent(key, Sent::Unknown, Time(0));
    outbox.on_connected(Time(1));
    // Not found for long enough to be sent again; that copy is refused because the nonce is used.
    let mut now = Time(1);
    let key = loop {
        match outbox.next_step(now) {
            Some(Step::LookUp { key, .. }) => {
                outbox.on_looked_up(key, None, now);
            }
            Some(Step::Send { key, .. }) => break key,
            other => panic!("{other:?}"),
        }
        now = outbox.wake_at().unwrap();
    };
    outbox.on_sent(key, Sent::Refused { code: Code::Nonce as u32, log: String::new() }, now);
    // The index shows it late: then it was included after all, once.
    let key = look_up(&mut outbox, now);
    outbox.on_looked_up(key, None, now);
    now = outbox.wake_at().unwrap();
    let key = look_up(&mut outbox, now);
    assert!(matches!(outbox.on_looked_up(key, Some(found(Code::Ok)), now), Some(Outcome::Committed { id: 1, .. })));
    assert_eq!(outbox.next_step(now), None);
}

#[test]
fn the_word_of_an_endpoint_that_is_not_believed_makes_no_bytes_worthless() {
    let mut outbox = outbox();
    outbox.be_strict(true);
    let (key, now, _) = missing(&mut outbox);
    assert_eq!(outbox.nonce_of(key), Some(4));
    // The blocks up to the last proven one don't have it, and its nonce is not used: what was sent may still be included.
    assert_eq!(outbox.on_searched(key, Searched::Open, now), None);
    let later = outbox.wake_at().unwrap();
    assert!(later >= now + LOST_AFTER, "it is not sent again and again at once");
    let (_, nonce, bytes) = send(&mut outbox, later);
    assert_eq!(nonce, 4);
    // A refusal at the first sending is no proof either: the same bytes are looked for, and no others are signed.
    let mut fresh = Outbox::new("atlas-test".to_owned(), Keypair::from_secret(&[1; 32]));
    fresh.be_strict(true);
    fresh.submit(1, message(1), true, Time(0)).unwrap();
    fresh.on_account(4);
    let (key, _, first) = send(&mut fresh, Time(0));
    assert_eq!(first, bytes);
    let refused = Sent::Refused { code: Code::Nonce as u32, log: "expected 6".to_owned() };
    assert_eq!(fresh.on_sent(key, refused, Time(0)), None);
    look_up(&mut fresh, Time(0));
    assert_eq!(fresh.nonce_of(key), Some(4));
}

/// An outbox whose only submission was refused by an endpoint that is not believed.
fn doubted() -> (Outbox, Key) {
    let mut outbox = outbox();
    outbox.be_strict(true);
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.submit(2, message(2), true, Time(0)).unwrap();
    outbox.on_account(4);
    let (key, _, _) = send(&mut outbox, Time(0));
    let refused = Sent::Refused { code: Code::Malformed as u32, log: "no".to_owned() };
    assert_eq!(outbox.on_sent(key, refused, Time(0)), None, "it is not given up on one endpoint's word");
    assert_eq!((outbox.next_step(Time(0)), outbox.wake_at()), (None, None), "what comes after it waits");
    (outbox, key)
}

#[test]
fn a_refusal_by_an_endpoint_that_is_not_believed_counts_if_another_says_so_too() {
    let refused = |code: Code| Second::Said(Sent::Refused { code: code as u32, log: String::new() });
    let (mut taken, key) = doubted();
    assert_eq!(taken.on_second(key, Second::Said(Sent::Accepted), "no", Time(1)), None);
    assert_eq!(send(&mut taken, Time(1)).1, 5, "the next one goes on");
    let (mut used, key) = doubted();
    assert_eq!(used.on_second(key, refused(Code::Nonce), "no", Time(1)), None);
    assert_eq!(look_up(&mut used, Time(1)), key, "it may be in a block");
    for second in [refused(Code::Malformed), Second::Said(Sent::Impossible { reason: String::new() }), Second::Nobody] {
        let (mut outbox, key) = doubted();
        let rejected = Outcome::Rejected { id: 1, reason: "no".to_owned() };
        assert_eq!(outbox.on_second(key, second, "no", Time(1)), Some(rejected));
        assert_eq!(outbox.next_step(Time(1)), Some(Step::ReadAccount), "its nonce is free");
    }
}

#[test]
fn a_refusal_is_doubted_for_a_minute_while_no_other_endpoint_answers() {
    let (mut outbox, key) = doubted();
    let mut now = Time(0);
    loop {
        if let Some(Outcome::Rejected { id: 1, reason }) = outbox.on_second(key, Second::Silent, "no", now) {
            assert_eq!(reason, "no");
            break;
        }
        now = outbox.wake_at().expect("it is tried again");
        assert!(now <= Time(0) + DOUBT + LOST_AFTER);
        assert_eq!(send(&mut outbox, now).0, key);
        outbox.on_sent(key, Sent::Impossible { reason: "no".to_owned() }, now);
    }
    assert!(now >= Time(0) + DOUBT);
    // A new connection asks again at once, and what it says counts as before.
    let (mut outbox, key) = doubted();
    outbox.on_connected(Time(3));
    assert_eq!(
        outbox.next_step(Time(3)).map(|step| matches!(step, Step::Send { key: again, .. } if again == key)),
        Some(true)
    );
    outbox.on_sent(key, Sent::Accepted, Time(3));
    assert!(!outbox.doubts());
}

#[test]
fn an_account_that_is_not_proven_yet_is_asked_for_again_later_and_not_at_once() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    assert_eq!(outbox.next_step(Time(0)), Some(Step::ReadAccount));
    outbox.on_no_account(Time(0));
    assert_eq!(outbox.next_step(Time(0)), None);
    let later = outbox.wake_at().unwrap();
    assert!(later > Time(0) && outbox.next_step(later) == Some(Step::ReadAccount));
}

/// A transaction whose nonce is used and that the index does not show: the step that follows when its time is over.
fn missing(outbox: &mut Outbox) -> (Key, Time, u64) {
    outbox.on_height(41);
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.on_account(4);
    let (key, _, _) = send(outbox, Time(0));
    outbox.on_sent(key, Sent::Unknown, Time(0));
    outbox.on_height(90);
    let mut now = Time(0);
    loop {
        match outbox.next_step(now) {
            Some(Step::LookUp { key, .. }) => drop(outbox.on_looked_up(key, None, now)),
            Some(Step::Send { key, .. }) => {
                drop(outbox.on_sent(key, Sent::Refused { code: Code::Nonce as u32, log: String::new() }, now));
            }
            Some(Step::Search { key, after, .. }) => return (key, now, after),
            other => panic!("{other:?}"),
        }
        now = outbox.wake_at().unwrap().max(now);
    }
}

#[test]
fn bytes_that_the_index_never_shows_are_looked_for_in_the_blocks_before_they_are_signed_anew() {
    let mut included = outbox();
    let (key, now, after) = missing(&mut included);
    assert_eq!(after, 41, "no block before it was signed can hold it");
    assert!(matches!(included.next_step(now), Some(Step::Search { .. })), "as long as nobody answered");
    let outcome = included.on_searched(key, Searched::Found(found(Code::Ok)), now);
    assert!(matches!(outcome, Some(Outcome::Committed { id: 1, .. })));

    let mut absent = outbox();
    let (key, now, _) = missing(&mut absent);
    assert_eq!(absent.on_searched(key, Searched::Absent, now), None);
    assert_eq!(absent.next_step(now), Some(Step::ReadAccount));
    absent.on_account(5);
    assert_eq!(send(&mut absent, now).1, 5);

    let mut unknown = outbox();
    let (key, now, _) = missing(&mut unknown);
    let outcome = unknown.on_searched(key, Searched::Unknown { reason: "gone".to_owned() }, now);
    assert!(matches!(outcome, Some(Outcome::Rejected { id: 1, .. })), "it is never signed anew on a guess");
}

#[test]
fn a_transaction_included_out_of_turn_is_signed_anew_and_stays_first() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.on_account(0);
    let (key, _, _) = send(&mut outbox, Time(0));
    outbox.on_sent(key, Sent::Accepted, Time(0));
    outbox.submit(2, message(2), true, Time(1)).unwrap();
    outbox.look_now(Time(1));
    let key = look_up(&mut outbox, Time(1));
    assert_eq!(outbox.on_looked_up(key, Some(found(Code::Nonce)), Time(1)), None);
    outbox.next_step(Time(1));
    outbox.on_account(5);
    assert_eq!((send(&mut outbox, Time(1)).0, send(&mut outbox, Time(1)).1), (key, 5));
}

#[test]
fn bytes_that_were_included_out_of_turn_are_never_sent_again_even_when_their_nonce_comes() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.on_account(5);
    let (key, _, spent) = send(&mut outbox, Time(0));
    outbox.on_sent(key, Sent::Accepted, Time(0));
    outbox.look_now(Time(1));
    let key = look_up(&mut outbox, Time(1));
    assert_eq!(outbox.on_looked_up(key, Some(found(Code::Nonce)), Time(1)), None);
    outbox.next_step(Time(1));
    outbox.on_account(5);
    let (_, nonce, bytes) = send(&mut outbox, Time(1));
    assert_eq!(nonce, 5);
    assert_ne!(bytes, spent);
}

#[test]
fn what_can_never_be_included_is_rejected_and_its_nonce_is_free() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.submit(2, message(2), true, Time(0)).unwrap();
    outbox.on_account(0);
    let (key, _, _) = send(&mut outbox, Time(0));
    let refused = Sent::Refused { code: Code::Malformed as u32, log: "no".to_owned() };
    assert!(matches!(outbox.on_sent(key, refused, Time(0)), Some(Outcome::Rejected { id: 1, .. })));
    assert_eq!(outbox.next_step(Time(0)), Some(Step::ReadAccount));
    outbox.on_account(0);
    assert_eq!(send(&mut outbox, Time(0)).1, 0);
}

#[test]
fn a_full_mempool_makes_everybody_wait_and_nobody_overtake() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.submit(2, message(2), true, Time(0)).unwrap();
    outbox.on_account(0);
    let (first, _, _) = send(&mut outbox, Time(0));
    outbox.on_sent(first, Sent::NotNow, Time(0));
    assert_eq!(outbox.next_step(Time(0)), None);
    let now = outbox.wake_at().unwrap();
    assert_eq!(send(&mut outbox, now).0, first);
}

#[test]
fn a_restart_looks_before_it_sends_and_forgets_beats() {
    let mut before = outbox();
    before.submit(5, message(1), true, Time(0)).unwrap();
    before.submit(6, message(2), true, Time(0)).unwrap();
    before.submit(7, message(3), false, Time(0)).unwrap();
    before.on_account(0);
    let Some(Step::Send { record: Some(signed), .. }) = before.next_step(Time(0)) else { panic!("not kept first") };
    let journal = [Record::Waiting { id: 6, message: Box::new(message(2)) }, signed, Record::Done { ids: vec![9] }];

    let mut after = outbox();
    assert_eq!(after.restore(journal, Time(9)), 10);
    assert_eq!(after.records().len(), 2);
    assert!(matches!(after.next_step(Time(9)), Some(Step::LookUp { .. })));
    let key = look_up(&mut after, Time(9));
    assert!(matches!(after.on_looked_up(key, Some(found(Code::Ok)), Time(9)), Some(Outcome::Committed { id: 5, .. })));
    assert_eq!(after.next_step(Time(9)), Some(Step::ReadAccount));
}

#[test]
fn what_is_not_durable_is_given_up_in_time_and_what_is_never() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    outbox.submit(2, message(2), false, Time(0)).unwrap();
    assert_eq!(outbox.expire(Time(1)), None);
    assert!(matches!(outbox.expire(Time(0) + EPHEMERAL_LIFE), Some(Outcome::Rejected { id: 2, .. })));
    assert_eq!(outbox.expire(Time(0) + EPHEMERAL_LIFE), None);
}

#[test]
fn a_full_outbox_and_an_id_in_use_are_refused() {
    let mut outbox = outbox();
    outbox.submit(1, message(1), true, Time(0)).unwrap();
    assert_eq!(outbox.submit(1, message(1), true, Time(0)), Err(Refused::Duplicate));
    for id in 2..=MAX_ENTRIES as u64 {
        outbox.submit(id, message(1), false, Time(0)).unwrap();
    }
    assert_eq!(outbox.submit(9_999_999, message(1), true, Time(0)), Err(Refused::Full));
}

/// What the ledger or the caller does next, at random.
#[derive(Clone, Debug)]
enum Move {
    Submit { durable: bool },
    Account(u64),
    Sent(u8),
    LookedUp(u8),
    Searched(u8),
    Second(u8),
    Strict(bool),
    Block,
    Connected,
    Wait(u64),
}

fn moves() -> impl proptest::strategy::Strategy<Value = Vec<Move>> {
    use proptest::prelude::*;
    let one = prop_oneof![
        3 => any::<bool>().prop_map(|durable| Move::Submit { durable }),
        2 => (0..50_u64).prop_map(Move::Account),
        4 => (0..6_u8).prop_map(Move::Sent),
        4 => (0..4_u8).prop_map(Move::LookedUp),
        4 => (0..4_u8).prop_map(Move::Searched),
        4 => (0..5_u8).prop_map(Move::Second),
        1 => any::<bool>().prop_map(Move::Strict),
        2 => Just(Move::Block),
        1 => Just(Move::Connected),
        2 => (0..20_000_u64).prop_map(Move::Wait),
    ];
    prop::collection::vec(one, 0..400)
}

fn sent(number: u8) -> Sent {
    match number {
        0 | 1 => Sent::Accepted,
        2 => Sent::Refused { code: Code::Nonce as u32, log: String::new() },
        3 => Sent::Refused { code: Code::Malformed as u32, log: String::new() },
        4 => Sent::NotNow,
        _ => Sent::Unknown,
    }
}

/// Performs one move; what ended by it.
fn play(outbox: &mut Outbox, one: Move, step: Option<Step>, next_id: &mut u64, now: &mut Time) -> Option<Outcome> {
    match (one, step) {
        (Move::Submit { durable }, _) => {
            let _ = outbox.submit(*next_id, message(1), durable, *now);
            *next_id += 1;
        }
        (Move::Account(nonce), Some(Step::ReadAccount)) => outbox.on_account(nonce),
        (Move::Sent(number), Some(Step::Send { key, .. })) => return outbox.on_sent(key, sent(number), *now),
        (Move::LookedUp(number), Some(Step::LookUp { key, .. })) => {
            let code = if number == 1 { Code::Nonce } else { Code::Ok };
            return outbox.on_looked_up(key, (number > 0).then(|| found(code)), *now);
        }
        (Move::Searched(number), Some(Step::Search { key, .. })) => {
            let searched = match number {
                0 => Searched::Absent,
                1 => Searched::Unknown { reason: String::new() },
                2 => Searched::Open,
                _ => Searched::Found(found(Code::Ok)),
            };
            return outbox.on_searched(key, searched, *now);
        }
        (Move::Second(number), _) => {
            let doubted = |entry: &Entry| matches!(entry.stage, Stage::Signed { flight: Flight::Doubted { .. }, .. });
            if let Some(key) = outbox.entries.iter().find(|(_, entry)| doubted(entry)).map(|(key, _)| *key) {
                let second = if number == 4 { Second::Silent } else { Second::Said(sent(number)) };
                return outbox.on_second(key, second, "no", *now);
            }
        }
        (Move::Strict(strict), _) => outbox.be_strict(strict),
        (Move::Block, _) => outbox.look_now(*now),
        (Move::Connected, _) => outbox.on_connected(*now),
        (Move::Wait(millis), _) => {
            *now = *now + Duration::from_millis(millis);
            return outbox.expire(*now);
        }
        _ => {}
    }
    None
}

proptest::proptest! {
    /// Whatever happens: every submission ends at most once, and an outbox with nothing to do sleeps: one that
    /// asked to be woken in the past would spin.
    #[test]
    fn whatever_happens_nothing_ends_twice_and_nothing_spins(moves in moves()) {
        let (mut outbox, mut now, mut next_id) = (outbox(), Time(0), 0);
        let mut ended = std::collections::BTreeSet::new();
        for one in moves {
            let step = outbox.next_step(now);
            if step.is_none() {
                proptest::prop_assert!(outbox.wake_at().is_none_or(|wake| wake > now));
            }
            match play(&mut outbox, one, step, &mut next_id, &mut now) {
                Some(Outcome::Committed { id, .. } | Outcome::Rejected { id, .. }) => {
                    proptest::prop_assert!(ended.insert(id), "{} ended twice", id);
                }
                None => {}
            }
        }
    }
}
