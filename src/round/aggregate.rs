//! The aggregate: deterministic to the byte, whatever the order of arrival, the number of threads or the instruction set.
//!
//! Updates are sorted by slot. Every intermediate is an f64 computed by one IEEE 754 operation after the other in the order
//! written here; no fused multiply-add, no library function, no reduction across threads.
//!
//! 1. **Norm** of an update: each tensor is cut into blocks of 1,024 elements in row-major order, the last one shorter; no
//!    block spans two tensors. A block's sum is `0 + x₀·x₀ + x₁·x₁ + …`, left to right. The block sums, tensors by name,
//!    are added in pairs of neighbours, level by level, a last odd one going up as it is. The norm is the square root
//!    of what remains.
//! 2. m is the median of the norms, of an even count the lower one. c = min(1, m/‖Δ‖), or 1 where ‖Δ‖ = 0. a = w·c,
//!    where w is the number of samples. W = Σ w in the order of slots.
//! 3. For each coordinate, with θ the model, v the momentum, and the a and Δ of each slot in order:
//!    `Δ = (0 + a₀·Δ₀ + a₁·Δ₁ + …) / W`, `v' = f32(μ·v + Δ)`, `θ' = f32(θ − η·(Δ + μ·v'))`.
//!    η and μ are their millionths divided by 1,000,000.

use std::thread;

use bytes::Bytes;

use crate::{
    tensor::{
        Error as FormatError, Tensors, floats,
        update::{Payload, Update},
    },
    types::{OuterStep, Slot},
};

/// Elements of a norm's block, and of the piece that one step works on: 12 KiB of intermediates stay in the first-level cache.
const BLOCK: usize = 1024;
/// Blocks whose sums are computed beside each other: each is a chain of dependent additions.
const LANES: usize = 4;
/// More threads than this gain nothing: memory is the limit then.
const MAX_THREADS: usize = 16;
/// A thread is worth starting for this many blocks (about 1 ms).
const BLOCKS_A_THREAD: usize = 256;

/// Why updates have no aggregate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("there is no update to combine")]
    Empty,
    /// Two updates of one slot.
    #[error("slot {0} has two updates: a round takes one")]
    Duplicate(Slot),
    /// The weights add up to nothing.
    #[error("the updates saw no samples")]
    NoWeight,
    /// An update or the momentum has other tensors than the model.
    #[error("an update or the momentum does not fit the model")]
    Schema(#[from] FormatError),
    /// An update has other tensors than the model.
    #[error("the update of slot {0} does not fit the model")]
    Update(Slot),
    /// The step leaves the range of f32.
    #[error("the next model has a value that is infinite or NaN: lower the learning rate")]
    NotFinite,
}

/// One slot's update, checked.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// The slot.
    pub slot: Slot,
    /// Its weight.
    pub samples: u64,
    /// Its update; its schema and values were checked.
    pub update: Update,
}

/// What a round makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// θ'.
    pub model: Tensors,
    /// v'.
    pub momentum: Tensors,
}

/// The norm-clipped weighted mean and the outer Nesterov step (module doc). `momentum` is zero where `None`.
pub fn norm_clipped_mean(
    base: &Tensors,
    momentum: Option<&Tensors>,
    contributions: &[Contribution],
    outer: OuterStep,
) -> Result<Next, Error> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    on_threads(base, momentum, contributions, outer, threads)
}

fn on_threads(
    base: &Tensors,
    momentum: Option<&Tensors>,
    contributions: &[Contribution],
    outer: OuterStep,
    threads: usize,
) -> Result<Next, Error> {
    let contributions = sorted(contributions)?;
    momentum.map_or(Ok(()), |momentum| base.check_schema(momentum))?;
    let payloads =
        contributions.iter().map(|contribution| fitting(base, contribution)).collect::<Result<Vec<_>, _>>()?;
    let norms: Vec<f64> = payloads.iter().map(|payloads| norm(payloads, threads)).collect();
    let weights: Vec<f64> = contributions.iter().map(|contribution| to_f64(contribution.samples)).collect();
    let total = weights.iter().fold(0.0, |total, weight| total + weight);
    if total == 0.0 {
        return Err(Error::NoWeight);
    }
    let step = Step {
        factors: factors(&norms, &weights),
        total,
        learning_rate: f64::from(outer.learning_rate_micros) / 1e6,
        momentum: f64::from(outer.momentum_micros) / 1e6,
    };
    step.apply(base, momentum, &payloads, threads)
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 samples the weight rounds to even, alike everywhere")]
fn to_f64(samples: u64) -> f64 {
    samples as f64
}

fn sorted(contributions: &[Contribution]) -> Result<Vec<&Contribution>, Error> {
    let mut sorted: Vec<_> = contributions.iter().collect();
    sorted.sort_by_key(|contribution| contribution.slot);
    match sorted.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
        _ if sorted.is_empty() => Err(Error::Empty),
        Some(pair) => Err(Error::Duplicate(pair[0].slot)),
        None => Ok(sorted),
    }
}

/// The update's values, tensor by tensor as in the model.
fn fitting<'a>(base: &Tensors, contribution: &'a Contribution) -> Result<Vec<Payload<'a>>, Error> {
    let payloads: Vec<_> = contribution.update.payloads().collect();
    let shaped = |((name, tensor), (other, payload)): ((&str, _), &(&str, Payload<'_>))| {
        let tensor: &crate::tensor::Tensor = tensor;
        name == *other && tensor.data.len() == 4 * payload.elements
    };
    let fits = base.len() == payloads.len() && base.iter().zip(&payloads).all(shaped);
    if fits {
        Ok(payloads.into_iter().map(|(_, payload)| payload).collect())
    } else {
        Err(Error::Update(contribution.slot))
    }
}

/// a = w·min(1, m/‖Δ‖).
fn factors(norms: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut ordered = norms.to_vec();
    ordered.sort_by(f64::total_cmp);
    let median = ordered[(ordered.len() - 1) / 2];
    let clip = |norm: f64| if norm == 0.0 { 1.0 } else { (median / norm).min(1.0) };
    norms.iter().zip(weights).map(|(norm, weight)| weight * clip(*norm)).collect()
}

fn norm(payloads: &[Payload<'_>], threads: usize) -> f64 {
    struct Run<'a, 'b> {
        payload: &'a Payload<'b>,
        start: usize,
        sums: [f64; LANES],
    }
    let starts = |payload: &Payload<'_>| (0..payload.elements).step_by(LANES * BLOCK);
    let run = |payload, start| Run { payload, start, sums: [0.0; LANES] };
    let mut runs: Vec<Run<'_, '_>> =
        payloads.iter().flat_map(|payload| starts(payload).map(move |start| run(payload, start))).collect();
    in_parallel(&mut runs, threads, LANES, |run| run.sums = block_sums(run.payload, run.start));
    let blocks = |run: &Run<'_, '_>| (run.payload.elements - run.start).div_ceil(BLOCK).min(LANES);
    let mut sums: Vec<f64> = runs.iter().flat_map(|run| run.sums.into_iter().take(blocks(run))).collect();
    while sums.len() > 1 {
        sums = sums.chunks(2).map(|pair| if let [left, right] = pair { left + right } else { pair[0] }).collect();
    }
    sums.first().copied().unwrap_or(0.0).sqrt()
}

/// The sums of squares of up to four blocks from `start` on, each added up left to right.
fn block_sums(payload: &Payload<'_>, start: usize) -> [f64; LANES] {
    let mut values = [0.0; LANES * BLOCK];
    let values = &mut values[..(LANES * BLOCK).min(payload.elements - start)];
    payload.read(start, values);
    let mut sums = [0.0; LANES];
    if let Ok(values) = <&[f32; LANES * BLOCK]>::try_from(&*values) {
        for at in 0..BLOCK {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let value = f64::from(values[lane * BLOCK + at]);
                *sum += value * value;
            }
        }
    } else {
        for (sum, block) in sums.iter_mut().zip(values.chunks(BLOCK)) {
            *sum = block.iter().fold(0.0, |sum, value| sum + f64::from(*value) * f64::from(*value));
        }
    }
    sums
}

/// The scalars of a round.
struct Step {
    factors: Vec<f64>,
    total: f64,
    learning_rate: f64,
    momentum: f64,
}

/// One block of one tensor: what is read and what is written.
struct Piece<'a> {
    tensor: usize,
    start: usize,
    model: &'a [u8],
    velocity: Option<&'a [u8]>,
    next_model: &'a mut [u8],
    next_velocity: &'a mut [u8],
    finite: bool,
}

impl Step {
    fn apply(
        &self,
        base: &Tensors,
        momentum: Option<&Tensors>,
        payloads: &[Vec<Payload<'_>>],
        threads: usize,
    ) -> Result<Next, Error> {
        let zeros = || -> Vec<Vec<u8>> { base.iter().map(|(_, tensor)| vec![0; tensor.data.len()]).collect() };
        let (mut models, mut velocities) = (zeros(), zeros());
        let mut pieces = Vec::new();
        let outputs = models.iter_mut().zip(&mut velocities);
        for (tensor, ((name, from), (model, velocity))) in base.iter().zip(outputs).enumerate() {
            let old = momentum.and_then(|momentum| momentum.get(name));
            let outputs = model.chunks_mut(4 * BLOCK).zip(velocity.chunks_mut(4 * BLOCK));
            for (index, (next_model, next_velocity)) in outputs.enumerate() {
                let bytes = 4 * BLOCK * index..4 * BLOCK * index + next_model.len();
                pieces.push(Piece {
                    tensor,
                    start: BLOCK * index,
                    model: &from.data[bytes.clone()],
                    velocity: old.map(|old| &old.data[bytes]),
                    next_model,
                    next_velocity,
                    finite: true,
                });
            }
        }
        in_parallel(&mut pieces, threads, 1, |piece| self.apply_to(piece, payloads));
        if !pieces.iter().all(|piece| piece.finite) {
            return Err(Error::NotFinite);
        }
        drop(pieces);
        Ok(Next { model: like(base, models)?, momentum: like(base, velocities)? })
    }

    fn apply_to(&self, piece: &mut Piece<'_>, payloads: &[Vec<Payload<'_>>]) {
        let (mut sums, mut values) = ([0.0_f64; BLOCK], [0.0_f32; BLOCK]);
        let elements = piece.model.len() / 4;
        let (sums, values) = (&mut sums[..elements], &mut values[..elements]);
        for (factor, payloads) in self.factors.iter().zip(payloads) {
            payloads[piece.tensor].read(piece.start, values);
            sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += factor * f64::from(*value));
        }
        let zero = [0; 4 * BLOCK];
        let velocity = floats(piece.velocity.unwrap_or(&zero[..4 * elements]));
        let next_velocity = piece.next_velocity.as_chunks_mut::<4>().0;
        let next_model = piece.next_model.as_chunks_mut::<4>().0;
        let places = next_model.iter_mut().zip(next_velocity);
        for (((sum, model), velocity), (next_model, next_velocity)) in
            sums.iter().zip(floats(piece.model)).zip(velocity).zip(places)
        {
            let (model, velocity) = self.advance(*sum, model, velocity);
            piece.finite &= model.is_finite() && velocity.is_finite();
            *next_model = model.to_le_bytes();
            *next_velocity = velocity.to_le_bytes();
        }
    }

    /// θ' and v' of one coordinate.
    #[expect(clippy::cast_possible_truncation, reason = "the rounding to f32 is part of the definition")]
    fn advance(&self, sum: f64, model: f32, velocity: f32) -> (f32, f32) {
        let mean = sum / self.total;
        let velocity = (self.momentum * f64::from(velocity) + mean) as f32;
        let model = f64::from(model) - self.learning_rate * (mean + self.momentum * f64::from(velocity));
        (model as f32, velocity)
    }
}

/// Tensors of `base`'s schema with these bytes.
fn like(base: &Tensors, data: Vec<Vec<u8>>) -> Result<Tensors, Error> {
    let mut tensors = Tensors::default();
    for ((name, tensor), data) in base.iter().zip(data) {
        tensors.insert(name.to_owned(), tensor.spec.clone(), Bytes::from(data))?;
    }
    Ok(tensors)
}

/// Does `work` on each item. The items are cut into one run a thread; each weighs `blocks` blocks.
fn in_parallel<T: Send>(items: &mut [T], threads: usize, blocks: usize, work: impl Fn(&mut T) + Sync) {
    let threads = threads.min(items.len() * blocks / BLOCKS_A_THREAD).max(1);
    if threads == 1 {
        return items.iter_mut().for_each(work);
    }
    let (work, run) = (&work, items.len().div_ceil(threads));
    thread::scope(|scope| {
        for run in items.chunks_mut(run) {
            scope.spawn(move || run.iter_mut().for_each(work));
        }
    });
}
