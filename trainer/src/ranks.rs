//! The processes that train one model together: their ranks and their collectives.
//!
//! Ranks are data parallel, by c10d. Each rank holds the whole model and reads its part of each
//! step. The gradients are one flat tensor, summed together with the loss by one all-reduce after
//! the last micro-batch (NCCL on GPUs, Gloo on CPUs). Each rank then clips and updates by itself,
//! from the same bits, so nothing else has to move. Before a save, the norms of the weights are
//! compared bit for bit.
//!
//! Before each step, ranks agree on the host whether somebody asked to stop, so a GPU is not waited
//! for. The first rank locks the folder and writes; the others wait for it. Before the first step,
//! ranks compare every setting that decides which collectives they make. If one rank cannot start,
//! none does.
//!
//! A lost rank ends the others with an error, and the run resumes from its last checkpoint. Each
//! step meets on the host by Gloo, which notices the loss and aborts the NCCL call that would still
//! wait. A GPU waited for in between is meant to end its process after 10 minutes (this part has
//! not run). The launcher kills ranks still alive 5 minutes after one failed.
//!
//! The all-reduce does not overlap the backward pass: our own functions add weight gradients in
//! place, unseen by autograd's hooks. One all-reduce of 1.5 GB (370M parameters) every 2 million
//! tokens should cost little in comparison; no GPU has shown it yet.
//!
//! `--ranks` is the launcher for one machine; [`environment`] reads the variables of the others.
//!
//! **Invariant:** a process training alone takes the same path as one of many; its collectives
//! return their input.

pub mod environment;

pub mod process_group;
