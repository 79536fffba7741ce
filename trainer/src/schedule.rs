//! The learning rate of a phase's steps. Pure: numbers in, numbers out.
//!
//! **Invariant:** the rate of step 0 of a warm-up is 0, that of step `warmup_steps` is the peak, and that of the step
//! after the last would be `final`, as in Hugging Face's cosine schedule.

use schemas::run::Schedule;

/// Why a schedule does not fit its phase.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The warm-up never ends.
    #[error(
        "schedule.warmup_steps is {warmup_steps}; expected less than the phase's {step_count} steps"
    )]
    Warmup {
        /// Steps of warm-up.
        warmup_steps: u64,
        /// Steps of the phase.
        step_count: u64,
    },
    /// A rate that can't be one.
    #[error("schedule.{field} is {found}; expected a finite rate of 0 or more")]
    Rate {
        /// `peak` or `final`.
        field: &'static str,
        /// Its value.
        found: f64,
    },
}

/// A schedule that fits the number of steps of its phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseSchedule {
    schedule: Schedule,
    step_count: u64,
}

impl PhaseSchedule {
    /// `schedule` over `step_count` steps. A phase of no steps takes any schedule.
    pub fn new(schedule: Schedule, step_count: u64) -> Result<PhaseSchedule, ScheduleError> {
        let Schedule::Cosine { peak, warmup_steps, end } = schedule;
        for (field, found) in [("peak", peak), ("final", end)] {
            if !(found.is_finite() && 0.0 <= found) {
                return Err(ScheduleError::Rate { field, found });
            }
        }
        if 0 < step_count && step_count <= warmup_steps {
            return Err(ScheduleError::Warmup { warmup_steps, step_count });
        }
        Ok(PhaseSchedule { schedule, step_count })
    }

    /// Rate of step `step` of the phase, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        assert!(step < self.step_count, "step {step} of a phase of {}", self.step_count);
        let Schedule::Cosine { peak, warmup_steps, end } = self.schedule;
        if step < warmup_steps {
            return peak * step as f64 / warmup_steps as f64;
        }
        let progress = (step - warmup_steps) as f64 / (self.step_count - warmup_steps) as f64;
        end + (peak - end) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(peak: f64, warmup_steps: u64, end: f64) -> Schedule {
        Schedule::Cosine { peak, warmup_steps, end }
    }

    #[test]
    fn cosine_warms_up_from_zero_and_falls_to_the_final_rate() {
        let schedule = PhaseSchedule::new(cosine(3e-4, 2000, 3e-5), 90_000).unwrap();
        assert_eq!(schedule.rate(0), 0.0);
        assert_eq!(schedule.rate(1000), 1.5e-4);
        assert_eq!(schedule.rate(2000), 3e-4);
        assert!((schedule.rate(46_000) - 1.65e-4).abs() < 1e-18); // halfway down
        assert!((schedule.rate(89_999) - 3e-5).abs() < 1e-12);
    }

    #[test]
    fn without_warmup_the_first_step_has_the_peak() {
        assert_eq!(PhaseSchedule::new(cosine(1e-3, 0, 0.0), 1).unwrap().rate(0), 1e-3);
    }

    #[test]
    fn a_warmup_as_long_as_the_phase_is_refused() {
        let error = PhaseSchedule::new(cosine(3e-4, 10, 0.0), 10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "schedule.warmup_steps is 10; expected less than the phase's 10 steps"
        );
        assert!(PhaseSchedule::new(cosine(3e-4, 10, 0.0), 0).is_ok()); // a phase of share 0/1
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        let error = PhaseSchedule::new(cosine(3e-4, 0, -1.0), 10).unwrap_err();
        assert_eq!(error, ScheduleError::Rate { field: "final", found: -1.0 });
    }
}
