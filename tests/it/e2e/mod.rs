//! Stories with real processes: nodes that are started, used, broken and started again as people would.
//!
//! Nothing here reaches into a node: it is asked through its control socket, and judged by ledger records, events, exit
//! codes and what `/proc` shows. Taking one of the four protocols out of the root behaviour fails, among others:
//!
//! | out of the root | fails |
//! | --- | --- |
//! | executor (`/atlas/task/1`, `/atlas/infer/1`) | `by_hand::another_bundle_is_trained_and_answers_questions` |
//! | health (`/atlas/health/1`) | `by_hand::who_leaves_and_who_dies_is_noticed_and_comes_back_under_its_name` |
//! | proof (`/atlas/proof/1`) | `by_hand::three_nodes_find_each_other_and_do_a_job_together` |
//! | shard (`/atlas/shard/1`) | `by_hand::three_nodes_find_each_other_and_do_a_job_together` |

mod by_hand;
mod cables;
mod control;
mod damage;
pub(crate) mod kills;
pub(crate) mod lab;
pub(crate) mod node;
mod recorded;
mod refusals;
mod sealed;
mod storage;
mod storm;
mod trace;
pub(crate) mod wait;
