//! Booking: all of a request or nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Resources, TaskId};

/// What one task has booked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    /// How much.
    pub resources: Resources,
    /// Which GPUs, by index, for `CUDA_VISIBLE_DEVICES`; as many as `resources.gpu_count`.
    pub gpus: Vec<u32>,
}

/// Why nothing was booked or released. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookingError {
    /// The task has a booking.
    #[error("task {0} has booked already; release it before it books again")]
    Twice(TaskId),
    /// The task has no booking.
    #[error("task {0} has booked nothing")]
    Unknown(TaskId),
    /// The request is for nothing at all.
    #[error("task {0} asks for no resources; `[resources]` of the job must name at least one")]
    Nothing(TaskId),
    /// Less is free than is wanted.
    #[error("task {task} wants more {resource} than is free (wanted {wanted:?}, free {free:?})")]
    Insufficient {
        /// Who asked.
        task: TaskId,
        /// The first resource that does not suffice.
        resource: &'static str,
        /// What was asked for.
        wanted: Box<Resources>,
        /// What is free.
        free: Box<Resources>,
    },
}

/// Books what this node lends. Pure: it knows amounts and nothing of the machine.
///
/// Amounts are unsigned, so that a negative one can't be asked for; [`super::View`] refuses it where one is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manager {
    total: Resources,
    bookings: BTreeMap<TaskId, Booking>,
}

impl Manager {
    /// A manager of `total`, nothing booked.
    pub fn new(total: Resources) -> Self {
        Self { total, bookings: BTreeMap::new() }
    }

    /// Books `wanted` for `task`, all of it or nothing.
    pub fn allocate(&mut self, task: TaskId, wanted: Resources) -> Result<&Booking, BookingError> {
        if self.bookings.contains_key(&task) {
            return Err(BookingError::Twice(task));
        }
        if wanted == Resources::default() {
            return Err(BookingError::Nothing(task));
        }
        let free = self.free();
        if let Some(resource) = free.lacks(&wanted) {
            let (wanted, free) = (Box::new(wanted), Box::new(free));
            return Err(BookingError::Insufficient { task, resource, wanted, free });
        }
        let gpus = self.free_gpus(wanted.gpu_count);
        Ok(self.bookings.entry(task).or_insert(Booking { resources: wanted, gpus }))
    }

    /// Gives back what `task` has booked.
    pub fn release(&mut self, task: &TaskId) -> Result<Booking, BookingError> {
        self.bookings.remove(task).ok_or(BookingError::Unknown(*task))
    }

    /// What this node lends in all.
    pub fn total(&self) -> Resources {
        self.total
    }

    /// What is booked.
    pub fn booked(&self) -> Resources {
        self.bookings.values().fold(Resources::default(), |sum, booking| sum.plus(&booking.resources))
    }

    /// What can still be booked.
    pub fn free(&self) -> Resources {
        self.total.minus(&self.booked())
    }

    /// The booking of `task`.
    pub fn get(&self, task: &TaskId) -> Option<&Booking> {
        self.bookings.get(task)
    }

    /// All bookings, by task.
    pub fn bookings(&self) -> impl Iterator<Item = (&TaskId, &Booking)> {
        self.bookings.iter()
    }

    /// The lowest `count` indices that nobody has.
    fn free_gpus(&self, count: u32) -> Vec<u32> {
        let taken: BTreeSet<_> = self.bookings.values().flat_map(|booking| &booking.gpus).collect();
        (0..self.total.gpu_count).filter(|gpu| !taken.contains(gpu)).take(count as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::JobId;

    fn task(slot: u32) -> TaskId {
        TaskId { job: JobId([1; 32]), slot }
    }

    fn cores(cpu_millicores: u64) -> Resources {
        Resources { cpu_millicores, ..Resources::default() }
    }

    #[test]
    fn a_request_that_does_not_fit_books_nothing_and_names_what_is_short() {
        let total = Resources { cpu_millicores: 2_000, memory_bytes: 100, storage_bytes: 10, gpu_count: 1 };
        let mut manager = Manager::new(total);
        let error = manager.allocate(task(0), Resources { memory_bytes: 101, ..total }).unwrap_err();
        assert!(matches!(error, BookingError::Insufficient { resource: "memory", .. }), "{error}");
        assert_eq!(manager.free(), total);
    }

    #[test]
    fn the_same_task_twice_nothing_at_all_and_an_unknown_release_are_errors() {
        let mut manager = Manager::new(cores(2_000));
        manager.allocate(task(0), cores(500)).unwrap();
        assert_eq!(manager.allocate(task(0), cores(500)), Err(BookingError::Twice(task(0))));
        assert_eq!(manager.allocate(task(1), cores(0)), Err(BookingError::Nothing(task(1))));
        assert_eq!(manager.release(&task(1)), Err(BookingError::Unknown(task(1))));
        assert_eq!(manager.release(&task(0)).unwrap().resources, cores(500));
        assert_eq!(manager.booked(), cores(0));
    }

    #[test]
    fn an_amount_near_the_largest_number_does_not_wrap_around() {
        let mut manager = Manager::new(cores(u64::MAX));
        manager.allocate(task(0), cores(u64::MAX - 1)).unwrap();
        assert!(manager.allocate(task(1), cores(u64::MAX - 1)).is_err());
        manager.allocate(task(1), cores(1)).unwrap();
    }

    #[test]
    fn no_gpu_is_given_to_two_tasks() {
        let gpus = |gpu_count| Resources { gpu_count, ..Resources::default() };
        let mut manager = Manager::new(gpus(3));
        assert_eq!(manager.allocate(task(0), gpus(2)).unwrap().gpus, [0, 1]);
        assert_eq!(manager.allocate(task(1), gpus(1)).unwrap().gpus, [2]);
        manager.release(&task(0)).unwrap();
        assert_eq!(manager.allocate(task(2), gpus(1)).unwrap().gpus, [0]);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_free_and_booked_are_always_the_total(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..6, 0_u64..1_500, 0_u32..3), 0..60),
        ) {
            let total = Resources { gpu_count: 4, ..cores(4_000) };
            let mut manager = Manager::new(total);
            for (book, slot, cpu_millicores, gpu_count) in steps {
                let before = manager.clone();
                let wanted = Resources { gpu_count, ..cores(cpu_millicores) };
                let failed = if book {
                    manager.allocate(task(slot), wanted).is_err()
                } else {
                    manager.release(&task(slot)).is_err()
                };
                prop_assert!(!failed || manager == before);
                prop_assert_eq!(manager.free().plus(&manager.booked()), total);
                let mut gpus: Vec<_> = manager.bookings().flat_map(|(_, booking)| booking.gpus.clone()).collect();
                prop_assert_eq!(gpus.len(), manager.booked().gpu_count as usize);
                gpus.sort_unstable();
                gpus.dedup();
                prop_assert_eq!(gpus.len(), manager.booked().gpu_count as usize);
            }
        }
    }
}
