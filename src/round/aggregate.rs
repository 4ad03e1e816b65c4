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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::{
        tensor::{
            root,
            testing::{add, model},
            update::encode_difference,
        },
        types::{Digest, UpdateCodec},
    };

    /// What `scripts/reference/aggregate.py` computed, sharing no code with this.
    #[derive(Deserialize)]
    struct Vectors {
        shapes: BTreeMap<String, Vec<usize>>,
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        case: String,
        codec: UpdateCodec,
        momentum: bool,
        learning_rate_micros: u32,
        momentum_micros: u32,
        base_root: Digest,
        updates: Vec<VectorUpdate>,
        model_b: String,
        momentum_b: String,
        model_root: Digest,
        momentum_root: Digest,
    }

    #[derive(Deserialize)]
    struct VectorUpdate {
        slot: Slot,
        samples: u64,
        length: usize,
        sha256: Digest,
    }

    /// The tensors of a label, each value as the reference derives it.
    #[expect(clippy::cast_possible_truncation, reason = "the reference rounds to f32 too")]
    fn derive(shapes: &BTreeMap<String, Vec<usize>>, label: &str, exponent: i32) -> Tensors {
        let mut tensors = Tensors::default();
        for (name, shape) in shapes {
            let value = |i: usize| {
                let hash = Digest::of(format!("{label}/{name}:{i}").as_bytes());
                let word = i32::from_le_bytes(hash.0[..4].try_into().unwrap());
                (f64::from(word) * 2_f64.powi(exponent - 31)) as f32
            };
            let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
            add(&mut tensors, name, shape, &values);
        }
        tensors
    }

    fn minus(from: &Tensors, step: &Tensors) -> Tensors {
        let mut out = Tensors::default();
        for ((name, from), (_, step)) in from.iter().zip(step.iter()) {
            let values: Vec<f32> = floats(&from.data).zip(floats(&step.data)).map(|(from, step)| from - step).collect();
            add(&mut out, name, &from.spec.shape, &values);
        }
        out
    }

    fn contribution(slot: Slot, samples: u64, encoded: Vec<u8>) -> Contribution {
        let update = Update::parse(encoded.into()).unwrap();
        update.check_values().unwrap();
        Contribution { slot, samples, update }
    }

    #[test]
    fn one_to_five_updates_give_the_bytes_of_the_independent_reference() {
        let Vectors { shapes, vectors } =
            serde_json::from_str(include_str!("../../protocols/vectors/aggregate.json")).unwrap();
        assert_eq!(vectors.len(), 10);
        for vector in &vectors {
            let case = &vector.case;
            let base = derive(&shapes, &format!("{case}/theta"), 0);
            assert_eq!(root::of_tensors(&base), vector.base_root, "{case}");
            let momentum = vector.momentum.then(|| derive(&shapes, &format!("{case}/velocity"), -6));
            let update = |update: &VectorUpdate| {
                let exponent = i32::try_from(update.slot).unwrap() - 5;
                let step = derive(&shapes, &format!("{case}/step/{}", update.slot), exponent);
                let trained = if update.slot == 4 { base.clone() } else { minus(&base, &step) };
                let encoded = encode_difference(&base, &trained, vector.codec).unwrap();
                assert_eq!(encoded.len(), update.length, "{case}");
                assert_eq!(Digest::of(&encoded), update.sha256, "{case}, slot {}", update.slot);
                contribution(update.slot, update.samples, encoded)
            };
            let contributions: Vec<_> = vector.updates.iter().map(update).collect();
            let outer = OuterStep {
                learning_rate_micros: vector.learning_rate_micros,
                momentum_micros: vector.momentum_micros,
            };
            let next = norm_clipped_mean(&base, momentum.as_ref(), &contributions, outer).unwrap();
            assert_eq!(hex::encode(&next.model.get("b").unwrap().data), vector.model_b, "{case}");
            assert_eq!(hex::encode(&next.momentum.get("b").unwrap().data), vector.momentum_b, "{case}");
            assert_eq!(root::of_tensors(&next.model), vector.model_root, "{case}");
            assert_eq!(root::of_tensors(&next.momentum), vector.momentum_root, "{case}");
        }
    }

    /// An update that leads from a model of `values` to one of zeros: Δ is `values`.
    fn moves(slot: Slot, samples: u64, values: &[f32], codec: UpdateCodec) -> Contribution {
        let zeros = model(&vec![0.0; values.len()]);
        contribution(slot, samples, encode_difference(&model(values), &zeros, codec).unwrap())
    }

    fn next(contributions: &[Contribution], elements: usize, threads: usize) -> Result<Next, Error> {
        on_threads(&model(&vec![0.0; elements]), None, contributions, OuterStep::default(), threads)
    }

    #[test]
    fn the_mean_of_three_is_a_third_of_their_sum() {
        let outer = OuterStep { learning_rate_micros: 1_000_000, momentum_micros: 0 };
        let updates = [[3.0, 0.0], [0.0, 3.0], [-3.0, 0.0]];
        let updates: Vec<_> =
            (0..).zip(&updates).map(|(slot, values)| moves(slot, 1, values, UpdateCodec::F32)).collect();
        let next = norm_clipped_mean(&model(&[10.0, 10.0]), None, &updates, outer).unwrap();
        let values: Vec<f32> = floats(&next.model.get("w").unwrap().data).collect();
        assert_eq!(values, [10.0, 9.0]);
    }

    #[test]
    fn a_huge_update_is_clipped_to_the_lower_median_norm() {
        assert_eq!(factors(&[1.0, 100.0, 2.0, 4.0], &[1.0, 1.0, 1.0, 10.0]), [1.0, 0.02, 1.0, 5.0]);
        assert_eq!(factors(&[0.0, 1.0], &[1.0, 1.0]), [1.0, 0.0]);
    }

    #[test]
    fn nothing_to_combine_is_an_error_with_a_name() {
        let update = |slot, samples| moves(slot, samples, &[1.0], UpdateCodec::F32);
        assert!(matches!(next(&[], 1, 1), Err(Error::Empty)));
        assert!(matches!(next(&[update(1, 1), update(1, 2)], 1, 1), Err(Error::Duplicate(1))));
        assert!(matches!(next(&[update(1, 0)], 1, 1), Err(Error::NoWeight)));
        assert!(matches!(next(&[update(1, 1)], 2, 1), Err(Error::Update(1))));
        let outer = OuterStep { learning_rate_micros: 4_000_000, momentum_micros: 0 };
        let huge = [moves(0, 1, &[f32::MAX], UpdateCodec::F32)];
        assert!(matches!(norm_clipped_mean(&model(&[0.0]), None, &huge, outer), Err(Error::NotFinite)));
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bytes() {
        let elements = 2 * BLOCKS_A_THREAD * BLOCK + 77;
        let values = |seed: u32| -> Vec<f32> {
            let mut word = seed + 1;
            let mut value = || {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(0x3f80_0000 | word >> 9) - 1.5
            };
            (0..elements).map(|_| value()).collect()
        };
        let updates: Vec<_> = (0..3).map(|slot| moves(slot, 5, &values(slot), UpdateCodec::F32)).collect();
        let alone = next(&updates, elements, 1).unwrap();
        for threads in [2, 3] {
            assert!(next(&updates, elements, threads).unwrap() == alone, "{threads} threads");
        }
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_bytes(
            updates in prop::collection::vec((1_u64..1000, prop::collection::vec(-1e3_f32..1e3, 40)), 1..6),
            order in any::<u64>(),
            codec in prop::sample::select(vec![UpdateCodec::F32, UpdateCodec::I8B256]),
        ) {
            let mut updates: Vec<_> =
                (0..).zip(&updates).map(|(slot, (samples, values))| moves(slot, *samples, values, codec)).collect();
            let first = next(&updates, 40, 1).unwrap();
            updates.sort_by_key(|update| {
                Digest::of_parts("order", &[&order.to_be_bytes(), &update.slot.to_be_bytes()])
            });
            prop_assert_eq!(next(&updates, 40, 4).unwrap(), first);
        }
    }
}
