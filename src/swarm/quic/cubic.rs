//! CUBIC (RFC 9438), counted in bytes.
//!
//! Quinn's own knows no end of the first growth but a cut, after which a line of 200 ms takes ten seconds to be full again, and
//! drops what is left of a packet at each step, so that it grows more slowly than the RFC has it. What a loss means is not
//! decided here.

use std::time::{Duration, Instant};

/// How fast the window comes back, in packets a second³ (RFC 9438, section 5).
const C: f64 = 0.4;
/// What is left of a window after a cut (section 4.6).
const BETA: f64 = 0.7;
/// Packets that Reno's share grows by in a round trip, so that it loses nothing to us (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// The least window, in packets (RFC 9002, section 7.2).
const LEAST_PACKETS: f64 = 2.0;

/// A stretch of slow growth: since when, and from where to where.
#[derive(Clone, Copy, Debug)]
struct Avoidance {
    since: Instant,
    /// Where the window was before it was cut.
    most: f64,
    /// Seconds until it is there again.
    back_after: f64,
    /// Where Reno would be.
    reno: f64,
    /// Where Reno catches up with what was cut.
    reno_caught_up: f64,
}

/// A window of bytes in flight.
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    packet: f64,
    window: f64,
    /// The first growth, which doubles the window in a round trip, goes so far.
    threshold: f64,
    avoidance: Option<Avoidance>,
    /// The window before the last cut.
    most: f64,
    /// Packets sent before this are those of the last cut: what becomes of them says nothing new.
    cut_at: Option<Instant>,
    /// Since when there was less to send than the window allows: no time in which the line could be learnt.
    idle_since: Option<Instant>,
}

impl Cubic {
    pub(super) fn new(window: u64, packet: u16) -> Self {
        Self {
            packet: packet.into(),
            window: window as f64,
            threshold: f64::INFINITY,
            avoidance: None,
            most: 0.0,
            cut_at: None,
            idle_since: None,
        }
    }

    /// Bytes.
    pub(super) fn window(&self) -> u64 {
        whole(self.window)
    }

    /// Bytes; the most there is as long as the first growth has found no end.
    pub(super) fn threshold(&self) -> u64 {
        whole(self.threshold)
    }

    pub(super) fn set_packet(&mut self, packet: u16) {
        self.packet = packet.into();
        self.window = self.window.max(self.least());
    }

    fn least(&self) -> f64 {
        LEAST_PACKETS * self.packet
    }

    pub(super) fn in_first_growth(&self) -> bool {
        self.threshold.is_infinite()
    }

    /// A packet was acknowledged, after a round trip of about `trip`. `idle` if there was too little to send.
    pub(super) fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, trip: Duration, idle: bool) {
        if idle {
            self.idle_since.get_or_insert(now);
            return;
        }
        if let Some(since) = self.idle_since.take()
            && let Some(avoidance) = &mut self.avoidance
        {
            avoidance.since += now.saturating_duration_since(since.max(avoidance.since));
        }
        if self.cut_at.is_some_and(|at| sent <= at) {
            return;
        }
        if self.window < self.threshold {
            self.window += bytes as f64;
        } else {
            self.grow(now, bytes as f64, trip);
        }
    }

    fn grow(&mut self, now: Instant, bytes: f64, trip: Duration) {
        let (window, packet) = (self.window, self.packet);
        let avoidance = self.avoidance.get_or_insert(Avoidance {
            since: now,
            most: window,
            back_after: 0.0,
            reno: window,
            reno_caught_up: window,
        });
        let after = now.saturating_duration_since(avoidance.since);
        let cubic =
            |after: Duration| avoidance.most + C * (after.as_secs_f64() - avoidance.back_after).powi(3) * packet;
        let (here, ahead) = (cubic(after), cubic(after + trip).clamp(window, 1.5 * window));
        let alpha = if avoidance.reno < avoidance.reno_caught_up { ALPHA } else { 1.0 };
        avoidance.reno += alpha * bytes / window * packet;
        self.window =
            if here < avoidance.reno { window.max(avoidance.reno) } else { window + (ahead - window) / window * bytes };
    }

    /// A loss or a mark, of a packet sent at `sent`, says that the line is full. `silent` if nothing came through for long.
    pub(super) fn cut(&mut self, now: Instant, sent: Instant, silent: bool) {
        if self.cut_at.is_some_and(|at| sent <= at) {
            return;
        }
        let before = self.window;
        // Who has less than last time leaves room for others (section 4.7).
        self.most = if before < self.most { before * (1.0 + BETA) / 2.0 } else { before };
        self.threshold = (before * BETA).max(self.least());
        if silent {
            (self.window, self.cut_at, self.avoidance) = (self.least(), None, None);
            return;
        }
        (self.window, self.cut_at) = (self.threshold, Some(now));
        self.avoid(now, before);
    }

    /// The first growth has found the line full, without a loss: goes on slowly from here. What showed it is the queue that the
    /// window of a round trip ago made, which was half of this one, so that this one is too large as it is after a loss.
    pub(super) fn end_first_growth(&mut self, now: Instant) {
        self.window = (self.window * BETA).max(self.least());
        (self.threshold, self.most) = (self.window, self.window);
        self.avoid(now, self.window);
    }

    fn avoid(&mut self, now: Instant, before: f64) {
        self.avoidance = Some(Avoidance {
            since: now,
            most: self.most,
            back_after: ((self.most - self.window).max(0.0) / self.packet / C).cbrt(),
            reno: self.window,
            reno_caught_up: before,
        });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no window is negative, and one without end saturates"
)]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u16 = 1_000;
    const TRIP: Duration = Duration::from_millis(200);

    fn start() -> Instant {
        crate::clock::instant_at(crate::clock::now())
    }

    /// A window of 1,000 packets, and what it is after so many seconds of a line that it keeps full, in packets.
    fn seconds(cubic: &mut Cubic, from: Instant, count: f64) -> Instant {
        let mut now = from;
        while now < from + Duration::from_secs_f64(count) {
            let step = TRIP / 10;
            now += step;
            let bytes = cubic.window() / 10;
            cubic.acknowledged(now, now - TRIP + step, bytes, TRIP, false);
        }
        now
    }

    fn packets(cubic: &Cubic) -> u64 {
        cubic.window() / u64::from(PACKET)
    }

    #[test]
    fn the_first_growth_doubles_in_a_round_trip() {
        let mut cubic = Cubic::new(10_000, PACKET);
        let now = start();
        cubic.acknowledged(now + TRIP, now, 10_000, TRIP, false);
        assert_eq!(cubic.window(), 20_000);
        cubic.acknowledged(now + TRIP, now, 10_000, TRIP, true);
        assert_eq!(cubic.window(), 20_000, "who has nothing to send learns nothing");
    }

    #[test]
    fn after_a_cut_the_window_is_back_when_the_rfc_says_and_then_goes_on() {
        let mut cubic = Cubic::new(1_000_000, PACKET);
        let now = start();
        cubic.cut(now, now, false);
        assert_eq!(packets(&cubic), 700);
        // The cube root of 300 packets over 0.4.
        let back = 9.09;
        let now = seconds(&mut cubic, now, back - 3.0);
        assert!((980..1_000).contains(&packets(&cubic)), "{} packets", packets(&cubic));
        let now = seconds(&mut cubic, now, 6.0);
        assert!((1_000..1_020).contains(&packets(&cubic)), "{} packets", packets(&cubic));
        seconds(&mut cubic, now, 6.0);
        assert!(packets(&cubic) > 1_200, "{} packets", packets(&cubic));
    }

    #[test]
    fn a_full_line_that_lost_nothing_is_kept_full_and_asked_for_more_ever_faster() {
        let mut cubic = Cubic::new(1_000_000, PACKET);
        let now = start();
        cubic.end_first_growth(now);
        let now = seconds(&mut cubic, now, 1.0);
        assert!((700..=705).contains(&packets(&cubic)), "{} packets", packets(&cubic));
        seconds(&mut cubic, now, 9.0);
        assert!((1_050..1_150).contains(&packets(&cubic)), "{} packets", packets(&cubic));
    }

    #[test]
    fn losses_of_one_round_trip_cut_once_and_silence_cuts_to_the_least() {
        let mut cubic = Cubic::new(1_000_000, PACKET);
        let now = start();
        cubic.cut(now + TRIP, now, false);
        cubic.cut(now + TRIP, now + TRIP / 2, false);
        assert_eq!(packets(&cubic), 700);
        cubic.cut(now + TRIP * 2, now + TRIP * 2, true);
        assert_eq!(packets(&cubic), 2);
        let again = now + TRIP * 3;
        cubic.acknowledged(again + TRIP, again, 2_000, TRIP, false);
        assert_eq!(packets(&cubic), 4, "and it grows fast up to where it was cut");
    }

    #[test]
    fn time_without_anything_to_send_is_no_time_to_grow() {
        let mut cubic = Cubic::new(1_000_000, PACKET);
        let now = start();
        cubic.end_first_growth(now);
        let now = seconds(&mut cubic, now, 1.0);
        cubic.acknowledged(now, now - TRIP, 1_000, TRIP, true);
        let later = now + Duration::from_secs(60);
        cubic.acknowledged(later, later - TRIP, 1_000, TRIP, false);
        seconds(&mut cubic, later, 1.0);
        assert!((700..=710).contains(&packets(&cubic)), "{} packets", packets(&cubic));
    }

    #[test]
    fn on_a_short_line_it_grows_no_slower_than_reno() {
        let mut cubic = Cubic::new(20_000, PACKET);
        let (mut now, trip) = (start(), Duration::from_millis(10));
        cubic.cut(now, now, false);
        for _ in 0..100 {
            now += trip;
            cubic.acknowledged(now, now - trip / 2, cubic.window(), trip, false);
        }
        // 11 trips at 0.53 of a packet back to 20, then one a trip.
        assert!((95..115).contains(&packets(&cubic)), "{} packets", packets(&cubic));
    }
}
