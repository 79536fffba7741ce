//! The differences between two plans, and how far they read the same.
//!
//! Only changes to the shares, K, T, the number of phases and the number of epochs leave earlier
//! steps unchanged: both plans read the same windows up to the first phase that differs or ends
//! elsewhere. Any other change affects the order from the first step on; a seed does only if the
//! plan shuffles.
//!
//! **Invariant:** the steps counted as the same read the same windows in the same slots, in phases
//! of the same K and T.

use schemas::run::Shuffle;
use serde_json::Value;

use crate::plan::Plan;
use crate::window::Phase;

/// A value of the identity that differs between two plans.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// As in [`Plan::identity`].
    pub name: String,
    /// Of the first plan; `None` if it lacks the value.
    pub first: Option<Value>,
    /// Of the second plan.
    pub second: Option<Value>,
}

/// Two plans side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// In order of their names; empty exactly if the plans have the same order.
    pub differences: Vec<Difference>,
    /// Steps, from the first one on, both plans read alike.
    pub same_steps: u64,
}

/// Compares two plans. The order up to a step depends on the lengths of the phases before it, but
/// not on anything later; all else changes it from the first step on, except a seed that shuffles
/// nothing.
pub fn compare(first: &Plan, second: &Plan) -> Comparison {
    let (a, b) = (first.identity(), second.identity());
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differences: Vec<Difference> = names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| Difference {
            name: name.clone(),
            first: a.get(name).cloned(),
            second: b.get(name).cloned(),
        })
        .collect();
    let uses_seed = [first, second].iter().any(|plan| plan.spec().shuffle != Shuffle::None);
    let only_later = |difference: &Difference| {
        difference.name == "plan.epochs"
            || difference.name.starts_with("phases.")
            || difference.name == "plan.seed" && !uses_seed
    };
    let same_data =
        differences.iter().all(only_later) && first.block_tokens() == second.block_tokens();
    let same_steps = if same_data { same_steps(first, second) } else { 0 };
    Comparison { differences, same_steps }
}

fn same_steps(first: &Plan, second: &Plan) -> u64 {
    let used = |plan: &'_ Plan| -> Vec<Phase> {
        plan.phases().iter().filter(|phase| phase.steps > 0).copied().collect()
    };
    let mut same = 0;
    for (a, b) in used(first).iter().zip(&used(second)) {
        if (a.patch_size, a.window_units) != (b.patch_size, b.window_units) {
            return same;
        }
        let ends = (a.step_range().end, b.step_range().end);
        same = ends.0.min(ends.1);
        if ends.0 != ends.1 {
            return same;
        }
    }
    same
}
