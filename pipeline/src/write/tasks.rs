//! Shares the inputs among tasks, where several machines make one corpus.
//!
//! **Invariant:** the shares of all tasks are a function of the inputs' sizes and the number of
//! tasks; each input is in exactly one share.

use std::cmp::Reverse;

use crate::console::usage::UsageError;

/// One of several tasks that write a corpus together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its number, from 0.
    pub index: u64,
    /// The number of tasks; above `index`.
    pub count: u64,
}

impl Task {
    /// Parses `--task` and `--tasks`; `variable` looks up the environment for `--task auto`.
    pub fn parse(
        task: &str,
        tasks: Option<u64>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Task, UsageError> {
        let (index, count) =
            if task == "auto" { auto(tasks, variable)? } else { explicit(task, tasks)? };
        if index >= count {
            return Err(UsageError(format!(
                "task {index} of {count}: tasks are numbered from 0, so the last one is {}",
                count.saturating_sub(1)
            )));
        }
        Ok(Task { index, count })
    }

    /// Positions of this task's inputs, in rising order.
    ///
    /// The largest inputs are dealt first, each to the task with the fewest bytes. Equal inputs are
    /// dealt in their order, to the task with the lowest number.
    pub fn share(self, input_bytes: &[u64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..input_bytes.len()).collect();
        order.sort_by_key(|&input| (Reverse(input_bytes[input]), input));
        let mut loads = std::collections::BTreeSet::new();
        loads.extend((0..self.count.min(input_bytes.len() as u64)).map(|task| (0u64, task)));
        let mut share = Vec::new();
        for input in order {
            let (bytes, task) = loads.pop_first().expect("as many tasks as inputs, at least one");
            // An empty input counts too, so many of them are dealt out evenly.
            loads.insert((bytes.saturating_add(input_bytes[input].max(1)), task));
            if task == self.index {
                share.push(input);
            }
        }
        share.sort_unstable();
        share
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task {} of {}", self.index, self.count)
    }
}

fn explicit(task: &str, tasks: Option<u64>) -> Result<(u64, u64), UsageError> {
    let parsed = task
        .split_once('/')
        .and_then(|(index, count)| Some((index.parse::<u64>().ok()?, count.parse::<u64>().ok()?)));
    let Some((index, count)) = parsed else {
        return Err(UsageError(format!("--task {task:?}: expected \"i/n\" or \"auto\"")));
    };
    check_count(count, tasks, "--task")?;
    Ok((index, count))
}

fn auto(
    tasks: Option<u64>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(u64, u64), UsageError> {
    let number = |name: &str| {
        let Some(text) = variable(name) else { return Ok(None) };
        let parsed = text.trim().parse::<u64>();
        parsed
            .map(Some)
            .map_err(|err| UsageError(format!("{name} is {text:?}; expected a number: {err}")))
    };
    if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
        let need = |name: &str| {
            let missing = format!("SLURM_ARRAY_TASK_ID is set and {name} is not; use --task i/n");
            number(name)?.ok_or(UsageError(missing))
        };
        let (first, count) = (need("SLURM_ARRAY_TASK_MIN")?, need("SLURM_ARRAY_TASK_COUNT")?);
        let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
        check_count(count, tasks, "SLURM_ARRAY_TASK_COUNT")?;
        if let Some(last) = number("SLURM_ARRAY_TASK_MAX")? {
            check_gaps(first, last, step, count)?;
        }
        check_first(first, count)?;
        let behind = id.checked_sub(first).filter(|behind| behind % step == 0);
        let unfit = format!(
            "SLURM_ARRAY_TASK_ID {id} is none of {first}, {}, …",
            first.saturating_add(step)
        );
        return Ok((behind.ok_or(UsageError(unfit))? / step, count));
    }
    if let Some(index) = number("JOB_COMPLETION_INDEX")? {
        let missing = "JOB_COMPLETION_INDEX does not give the number of tasks; add --tasks n";
        return Ok((index, tasks.ok_or_else(|| UsageError(missing.to_owned()))?));
    }
    Err(UsageError(
        "--task auto finds neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX; use --task i/n"
            .to_owned(),
    ))
}

/// Refuses a list such as `--array=3,7`: repeating part of an array does not reveal the array it
/// repeats.
fn check_gaps(first: u64, last: u64, step: u64, count: u64) -> Result<(), UsageError> {
    if last.checked_sub(first).is_some_and(|span| span / step + 1 == count) {
        return Ok(());
    }
    Err(UsageError(format!(
        "the array has {count} tasks between {first} and {last}, with gaps, so the share of each \
         task is unknown; submit the whole array again (finished work stays), or name the share \
         with --task i/n"
    )))
}

/// Refuses an array such as `--array=3` or `--array=3-7`, which looks like part of another one.
fn check_first(first: u64, count: u64) -> Result<(), UsageError> {
    if first <= 1 {
        return Ok(());
    }
    Err(UsageError(format!(
        "the array has {count} tasks from {first} on; whole arrays begin with 0 or 1, and part of \
         an array would divide the inputs differently: submit the whole array again (finished work \
         stays), or name the share with --task i/n"
    )))
}

fn check_count(count: u64, tasks: Option<u64>, source: &str) -> Result<(), UsageError> {
    match tasks {
        Some(tasks) if tasks != count => {
            Err(UsageError(format!("--tasks is {tasks}; {source} says {count}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        task: &str,
        tasks: Option<u64>,
        env: &[(&str, &str)],
        expected: Result<(u64, u64), &str>,
    ) {
        let variable =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        let found = Task::parse(task, tasks, variable).map(|task| (task.index, task.count));
        match expected {
            Ok(expected) => assert_eq!(found.unwrap(), expected),
            Err(expected) => {
                let found = found.unwrap_err().to_string();
                assert!(found.contains(expected), "{found}");
            }
        }
    }

    #[test]
    fn tasks_are_found_where_array_engines_say_them() {
        check("2/5", None, &[], Ok((2, 5)));
        check("2/5", Some(5), &[], Ok((2, 5)));
        check("2/5", Some(6), &[], Err("--tasks is 6; --task says 5"));
        check("5/5", None, &[], Err("the last one is 4"));
        check("0/0", None, &[], Err("numbered from 0"));
        check("x", None, &[], Err("expected \"i/n\" or \"auto\""));
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
        ];
        check("auto", None, &slurm, Ok((3, 4)));
        check("auto", None, &slurm[..3], Err("task 6 of 4"));
        check("auto", None, &slurm[..1], Err("SLURM_ARRAY_TASK_MIN is not"));
        let with_last = |last| [&slurm[..], &[("SLURM_ARRAY_TASK_MAX", last)]].concat();
        check("auto", None, &with_last("7"), Ok((3, 4)));
        check("auto", None, &with_last("9"), Err("between 1 and 9, with gaps"));
        for (first, count) in [("3", "1"), ("2", "4")] {
            let part = [
                ("SLURM_ARRAY_TASK_ID", first),
                ("SLURM_ARRAY_TASK_MIN", first),
                ("SLURM_ARRAY_TASK_COUNT", count),
            ];
            check("auto", None, &part, Err("whole arrays begin with 0 or 1"));
        }
        let one = |id| ["ID", "MIN", "MAX"].map(|name| (format!("SLURM_ARRAY_TASK_{name}"), id));
        for id in ["0", "1"] {
            let one = one(id);
            let one = one.iter().map(|(name, id)| (name.as_str(), *id));
            let one: Vec<_> = one.chain([("SLURM_ARRAY_TASK_COUNT", "1")]).collect();
            check("auto", None, &one, Ok((0, 1)));
        }
        let indexed = [("JOB_COMPLETION_INDEX", "1")];
        check("auto", Some(3), &indexed, Ok((1, 3)));
        check("auto", None, &indexed, Err("add --tasks n"));
        check("auto", None, &[("JOB_COMPLETION_INDEX", "x")], Err("expected a number"));
        check("auto", Some(3), &[], Err("finds neither"));
    }

    #[test]
    fn every_input_is_in_one_share_and_shares_are_even() {
        let input_bytes: Vec<u64> = (0..37u64).map(|n| n * n % 11 * 100).collect();
        for count in [1, 2, 3, 6, 50] {
            let shares: Vec<Vec<usize>> =
                (0..count).map(|index| Task { index, count }.share(&input_bytes)).collect();
            let mut all: Vec<usize> = shares.concat();
            all.sort_unstable();
            assert_eq!(all, (0..37).collect::<Vec<_>>());
            let loads = shares.iter().map(|s| s.iter().map(|&at| input_bytes[at]).sum::<u64>());
            let (least, most) = (loads.clone().min().unwrap(), loads.max().unwrap());
            assert!(count > 6 || most - least <= 1000, "{count}: {least} to {most}");
        }
    }
}
