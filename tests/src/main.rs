//! Cross-crate tests: laws, goldens and breakage. This list is their table of contents.

mod presets;
mod tidy;
