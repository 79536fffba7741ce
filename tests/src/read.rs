//! Files become documents, all of them, or an error with the place and the reason.

mod awkward_inputs;
mod documents;
