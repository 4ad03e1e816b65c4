//! # Atlas node: the architecture
//!
//! `atlas-node` is the compute node of the Atlas network. It joins a libp2p mesh, finds work, fetches models and data
//! by content, runs a Python training or inference script on them in a sandbox, keeps checkpoints that outlive it,
//! trains one model together with other nodes, proves what it computed, and settles on a ledger. Every node can submit
//! work, do work and check work: there is no master.
//!
//! ## Bird's eye
//!
//! ```text
//!   a person ── cli ──(control socket: api)──┐
//!                                            ▼
//!   the mesh ◄── swarm ◄──────────── node::event_loop ────────────► edges: disk, processes, hashing, HTTP
//!                  │                  routes, never works                │ one answer to each request
//!                  ▼                         ▲                           │
//!        executor health proof shard         │                           │
//!        (pure states in one shim)           ▼                           │
//!                  └──── events ──► node::coordinator ◄── answers ───────┘
//!                                   pure: "when this module reports X, that one does Y"
//!                                            ▲
//!                                            │ committed records only
//!                                   chain::client ── Tendermint JSON-RPC ── a ledger (embedded, a chain, a peer's)
//! ```
//!
//! A **decision** is made in a state that has no IO, no clock and no chance: time comes in as an argument, and what
//! should happen comes out as data. An **edge** does what it is told and answers exactly once. The event loop carries
//! one to the other. That is why a thousand nodes can be simulated through the very code that runs in production, from
//! one seed, twice, with the same bytes.
//!
//! ## Words
//!
//! A **task** is one slot of a job for the job's life; its slot is the index of its shard. A **round** is one outer
//! step; each task owes one receipt a round. A **lease** gives one node one task and stays across rounds. The
//! **generation** of a task grows by one whenever its holder changes; whatever still arrives from an older one is
//! refused everywhere. The **cursor** of a slot counts its rounds applied so far. A **batch** is (slot, cursor, step).
//!
//! ## How work flows
//!
//! 1. **Submit** ([`submit`]): bundle, base model and data set become CIDs; the data is shuffled by the job's seed and
//!    cut at record boundaries ([`shard`]); the job goes to the ledger with its escrow.
//! 2. **Announce** ([`gossip`]): the submitter tells the mesh, signed, and offers tasks to peers directly
//!    (`/atlas/task/1`). Who hears it late finds it on the ledger.
//! 3. **Take** ([`validator`], [`resource`]): who can and may takes a lease; the ledger decides who got it.
//! 4. **Fetch** (`/atlas/shard/1`): content from whoever has it, each block checked against its name.
//! 5. **Run** ([`executor`]): the sandboxed script, in its own process group, under limits.
//! 6. **Keep** ([`recovery`]): checkpoints, signed, held by another node before the ledger hears of them.
//! 7. **Prove** ([`proof`], `/atlas/proof/1`): a receipt commits to inputs, trace and outputs; another node attests it.
//! 8. **Combine** ([`round`]): every holder recomputes the aggregate; one closes the round with the votes of the others.
//! 9. **Settle** ([`chain`]): the record stands, rewards follow after the audit window.
//! 10. **Recover**: a node that vanishes loses its lease; the next holder continues from the last acknowledged
//!     checkpoint, and because a bundle is a pure function of its inputs, arrives at the same model.
//!
//! Beside jobs, nodes keep content for its owners, as many copies as the ledger says ([`node::coordinator`]): who goes offline
//! is replaced by the next in line.
//!
//! Step 3 to 9 are level-triggered: [`node::coordinator`] compares what the ledger has committed with what this node
//! has done, and does the next missing thing. After a crash it therefore needs nothing but the ledger, its block store
//! and its outbox; there is no journal of intentions that could disagree with them.
//!
//! ## Map
//!
//! | module | what it decides or does |
//! | --- | --- |
//! | [`types`], [`codec`], [`identity`], [`clock`] | values, CBOR with limits, keys and addresses, the only clock |
//! | [`protocol`] | what the protocol modules share: the `State` trait and the one libp2p shim |
//! | [`executor`] | task processes: start, limits, signals, exit codes, restarts, sessions; inference workers |
//! | [`health`] | heartbeats, suspicion, probes, who is offline |
//! | [`proof`] | state roots, receipts, traces, level L0 checks |
//! | [`shard`], [`store`] | UnixFS, transfer of blocks, the block store, data sets cut at record boundaries |
//! | [`recovery`] | checkpoints, rollback, retention |
//! | [`round`], [`tensor`] | updates, aggregation to the byte, who closes a round |
//! | [`resource`], [`validator`], [`network`] | what the machine has, whether a task may be taken, measured speed and place |
//! | [`chain`] | the ledger's messages and records, the state machine, the embedded chain, the application of CometBFT, the client, which believes no endpoint of a chain |
//! | [`ipfs`] | an external Kubo daemon, asked only to pin |
//! | [`gossip`] | what nodes tell everybody |
//! | [`conduct`] | what peers do that no honest one does, and who is cut off for it |
//! | [`record`] | what the deciding parts were told and said, to be replayed |
//! | [`swarm`], [`node`] | the root behaviour, the event loop, the coordinator |
//! | [`api`], [`submit`], [`config`], [`cli`] | what an operator and a researcher touch |
//!
//! Protocol modules are siblings: each has `state.rs` (decisions), `wire.rs` (bytes), `behaviour.rs` (its place in the
//! swarm) and edge files. They never import each other; they meet in the coordinator. `tests/it/architecture.rs`
//! reads `src/` and fails, with the reason, where an arrow points the wrong way.
//!
//! ## Invariants
//!
//! - One holder per task and generation; the ledger decides, nobody else.
//! - No batch is lost or counted twice: a slot's cursor moves only with a round record that applies its update.
//! - Durable here, then held elsewhere, then said: a checkpoint is acknowledged only in that order.
//! - Every byte that arrives is checked against its name before it counts.
//! - Every request has one answer or a deadline; every queue has a named limit.
//!
//! ## What the node never does
//!
//! - It never pastes text from the network into code, a command line or a path.
//! - It never loads a pickle, never runs a script outside its sandbox without saying which protection is missing.
//! - It never acts on a transaction that is not in a block, or on a record of another generation.
//! - It never reads content from Kubo, and needs no third party to work.
//! - It never works inside the event loop.
//!
//! ## Where the origin's words live now
//!
//! | origin | here |
//! | --- | --- |
//! | `Executor` `new add_task get_task list_tasks start stop stop_task` | [`executor::State`] with `Input::Run`, `Input::Stop`; tasks are listed from the coordinator |
//! | `set_work_dir` `set_ipfs_api_url` | [`config`]: `WORK_DIR`, `--ipfs-api` |
//! | `initialize_training_executor` | [`executor`]'s edge: the work directory and the launcher |
//! | `initialize_inference_executor` | [`executor::inference`] |
//! | resource `Manager` `new detect_resources get_resources allocate_resources release_resources` | [`resource`]: `detect`, `Manager::{allocate, release, free}` |
//! | `Validator` `validate_assignment check_duplication` | [`validator`] |
//! | `Monitor` `new start send_heartbeat` | [`health::State`]: its first beat goes out at once |
//! | `save_checkpoint load_checkpoint validate_checkpoint` | [`recovery`]: `keep`, `load` |
//! | `handle_rollback cleanup_task_state` | [`recovery::State`] and the coordinator's `on_gossip` |
//! | `setup_graceful_shutdown` | the coordinator's shutdown: stop intake, checkpoint, hand back, leave |
//! | `generate_proof verify_proof` | [`proof`]: `receipt` and its checks; `atlas-node proof verify` |
//! | `speed_test get_geolocation` | [`health`]'s speed test and [`network`] |

pub mod api;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod conduct;
pub mod config;
pub mod executor;
pub mod gossip;
pub mod health;
pub mod identity;
pub mod ipfs;
pub mod network;
pub mod node;
pub mod proof;
pub mod protocol;
pub mod record;
pub mod recovery;
pub mod resource;
pub mod round;
pub mod shard;
pub mod sim;
pub mod store;
pub mod submit;
pub mod swarm;
pub mod tensor;
pub mod types;
pub mod validator;
