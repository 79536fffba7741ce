//! The plan: which window each slot of each step reads. Pure: no paths, no clock, no IO.
//!
//! A [`PlanSpec`] becomes a [`Plan`]. [`proof`] walks all of it, [`compare`] compares two.
//! README.md next to this crate's sources has the mathematics.
//!
//! **Invariant:** equal specs give equal plans on every machine.

pub mod compare;
mod epoch_order;
mod error;
pub mod interleave;
mod mixture;
pub mod permutation;
mod plan;
pub mod proof;
mod sizes;
mod spec;
mod stream;
mod window;

pub use error::PlanError;
pub use plan::{ALGORITHM_VERSION, Cursor, Plan, check_shares};
pub use spec::{PhaseSpec, PlanSpec, SetSpec};
pub use stream::Stream;
pub use window::{Phase, Reading, Window};
