//! The learning rate of a phase's steps. Pure: numbers in, numbers out.
//!
//! The formulae are those of Hugging Face's `get_cosine_schedule_with_warmup`,
//! `get_linear_schedule_with_warmup`, `get_constant_schedule_with_warmup` and `get_wsd_schedule`
//! (transformers, `optimization.py`), with an absolute final rate in place of a ratio, and with a
//! warm-up from 0 for any final rate.
//!
//! **Invariant:** the rate of step 0 of a warm-up is 0, the rate of step `warmup_steps` is the
//! peak, it never rises afterwards, and the rate of the step after the last would be `final`.

use schemas::run::{Decay, Schedule};

/// The reason a schedule does not fit its phase.
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
    /// The decay has no steps, or would begin within the warm-up.
    #[error(
        "schedule.decay_steps is {decay_steps}; expected 1 to {}, \
         the phase's {step_count} steps without its \
         {warmup_steps} of warm-up",
        step_count - warmup_steps
    )]
    Decay {
        /// Steps of the decay.
        decay_steps: u64,
        /// Steps of warm-up.
        warmup_steps: u64,
        /// Steps of the phase.
        step_count: u64,
    },
    /// An invalid rate.
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
    /// `schedule` over `step_count` steps. A phase without steps takes any schedule.
    pub fn new(schedule: Schedule, step_count: u64) -> Result<PhaseSchedule, ScheduleError> {
        for (field, found) in [("peak", schedule.peak()), ("final", schedule.end())] {
            if !(found.is_finite() && 0.0 <= found) {
                return Err(ScheduleError::Rate { field, found });
            }
        }
        let warmup_steps = schedule.warmup_steps();
        if 0 < step_count && step_count <= warmup_steps {
            return Err(ScheduleError::Warmup { warmup_steps, step_count });
        }
        if let Some(decay_steps) = schedule.decay_steps()
            && 0 < step_count
            && !(1..=step_count - warmup_steps).contains(&decay_steps)
        {
            return Err(ScheduleError::Decay { decay_steps, warmup_steps, step_count });
        }
        Ok(PhaseSchedule { schedule, step_count })
    }

    /// Rate of step `step` of the phase, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        assert!(step < self.step_count, "step {step} of a phase of {}", self.step_count);
        let (peak, warmup_steps) = (self.schedule.peak(), self.schedule.warmup_steps());
        if step < warmup_steps {
            return peak * step as f64 / warmup_steps as f64;
        }
        let (form, decay_steps) = match self.schedule {
            Schedule::Constant { .. } => return peak,
            Schedule::Cosine { .. } => (Decay::Cosine, self.step_count - warmup_steps),
            Schedule::Linear { .. } => (Decay::Linear, self.step_count - warmup_steps),
            Schedule::Wsd { decay, decay_steps, .. } => (decay, decay_steps),
        };
        let first_decay_step = self.step_count - decay_steps;
        let progress = step.saturating_sub(first_decay_step) as f64 / decay_steps as f64;
        let end = self.schedule.end();
        end + (peak - end) * left(form, progress)
    }
}

/// Share of the way from the final rate to the peak left when `progress`, from 0 to 1, of the decay
/// is done.
fn left(form: Decay, progress: f64) -> f64 {
    match form {
        Decay::Linear => 1.0 - progress,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        Decay::OneMinusSqrt => 1.0 - progress.sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEAK: f64 = 3e-4;

    fn cosine(peak: f64, warmup_steps: u64, end: f64) -> Schedule {
        Schedule::Cosine { peak, warmup_steps, end }
    }

    fn wsd(warmup_steps: u64, decay_steps: u64, decay: Decay, end: f64) -> Schedule {
        Schedule::Wsd { peak: PEAK, warmup_steps, decay_steps, decay, end }
    }

    const FORMS: [Decay; 3] = [Decay::Linear, Decay::Cosine, Decay::OneMinusSqrt];

    /// One schedule of each type and form.
    fn each_kind(warmup_steps: u64, decay_steps: u64, end: f64) -> Vec<Schedule> {
        let mut kinds = vec![
            cosine(PEAK, warmup_steps, end),
            Schedule::Linear { peak: PEAK, warmup_steps, end },
            Schedule::Constant { peak: PEAK, warmup_steps },
        ];
        kinds.extend(FORMS.map(|form| wsd(warmup_steps, decay_steps, form, end)));
        kinds
    }

    #[test]
    fn cosine_warms_up_from_zero_and_falls_to_the_final_rate() {
        let schedule = PhaseSchedule::new(cosine(3e-4, 2000, 3e-5), 90_000).unwrap();
        assert_eq!(schedule.learning_rate(0), 0.0);
        assert_eq!(schedule.learning_rate(1000), 1.5e-4);
        assert_eq!(schedule.learning_rate(2000), 3e-4);
        assert!((schedule.learning_rate(46_000) - 1.65e-4).abs() < 1e-18); // halfway down
        assert!((schedule.learning_rate(89_999) - 3e-5).abs() < 1e-12);
    }

    /// Printed by `get_last_lr()` of transformers 5.23.0 for 12 steps, 3 of warm-up, peak 3e-4, and
    /// for wsd 4 of decay. The last three rows have `min_lr_ratio` 0.1, our `final` 3e-5 from the
    /// end of the warm-up.
    #[test]
    fn rates_are_those_of_hugging_face() {
        #[rustfmt::skip]
        const LAST_EIGHT: [(usize, f64, [f64; 8]); 9] = [
            (0, 0.0, [2.909538931178862e-4, 2.6490666646784665e-4, 2.25e-4, 1.7604722665003956e-4,
                1.2395277334996044e-4, 7.5e-5, 3.509333353215331e-5, 9.046106882113751e-6]),
            (1, 0.0, [2.666666666666666e-4, 2.333333333333333e-4, 2e-4, 1.6666666666666666e-4,
                1.333333333333333e-4, 1e-4, 6.666666666666666e-5, 3.333333333333333e-5]),
            (2, 0.0, [3e-4; 8]),
            (3, 0.0, [3e-4, 3e-4, 3e-4, 3e-4, 3e-4, 2.25e-4, 1.5e-4, 7.5e-5]),
            (4, 0.0, [3e-4, 3e-4, 3e-4, 3e-4, 3e-4,
                2.5606601717798207e-4, 1.5e-4, 4.3933982822017876e-5]),
            (5, 0.0, [3e-4, 3e-4, 3e-4, 3e-4, 3e-4,
                1.5e-4, 8.786796564403573e-5, 4.0192378864668415e-5]),
            (3, 3e-5, [3e-4, 3e-4, 3e-4, 3e-4, 3e-4, 2.325e-4, 1.65e-4, 9.75e-5]),
            (4, 3e-5, [3e-4, 3e-4, 3e-4, 3e-4, 3e-4,
                2.604594154601839e-4, 1.65e-4, 6.954058453981609e-5]),
            (5, 3e-5, [3e-4, 3e-4, 3e-4, 3e-4, 3e-4,
                1.65e-4, 1.0908116907963214e-4, 6.617314097820157e-5]),
        ];
        for (kind, end, last_eight) in LAST_EIGHT {
            let schedule = PhaseSchedule::new(each_kind(3, 4, end)[kind], 12).unwrap();
            let expected = [0.0, 1e-4, 2e-4, 3e-4].into_iter().chain(last_eight);
            for (step, expected) in (0..12).zip(expected) {
                let found = schedule.learning_rate(step);
                assert!(
                    (found - expected).abs() < 1e-18,
                    "kind {kind}, step {step}: {found:e}, not {expected:e}"
                );
            }
        }
    }

    #[test]
    fn every_kind_rises_to_its_peak_and_falls_without_a_jump_to_its_final_rate() {
        let steps = 100_000;
        for (warmup_steps, decay_steps) in [(0, 50_000), (1000, 50_000), (1000, 99_000)] {
            for schedule in each_kind(warmup_steps, decay_steps, 1e-5) {
                let phase = PhaseSchedule::new(schedule, steps).unwrap();
                let learning_rates: Vec<f64> =
                    (0..steps).map(|step| phase.learning_rate(step)).collect();
                let top = usize::try_from(warmup_steps).unwrap();
                assert_eq!(
                    learning_rates[0],
                    if warmup_steps == 0 { PEAK } else { 0.0 },
                    "{schedule:?}"
                );
                assert_eq!(learning_rates[top], PEAK, "{schedule:?}");
                assert!(
                    learning_rates[..=top].is_sorted()
                        && learning_rates[top..].is_sorted_by(|a, b| a >= b)
                );
                // The steps of the warm-up and of the line are the steepest, except for the root's
                // first.
                let is_root = matches!(schedule, Schedule::Wsd { decay: Decay::OneMinusSqrt, .. });
                let largest = if is_root { PEAK / 200.0 } else { PEAK / 900.0 };
                let jump = learning_rates.windows(2).map(|pair| (pair[1] - pair[0]).abs());
                assert!(jump.fold(0.0, f64::max) < largest, "{schedule:?}");
                assert!(
                    (learning_rates[learning_rates.len() - 1] - schedule.end()).abs() < PEAK / 1e4,
                    "{schedule:?}"
                );
            }
        }
    }

    #[test]
    fn decay_forms_begin_at_one_and_end_at_zero() {
        for form in FORMS {
            assert_eq!((left(form, 0.0), left(form, 1.0)), (1.0, 0.0), "{form:?}");
        }
    }

    #[test]
    fn without_warmup_the_first_step_has_the_peak() {
        assert_eq!(PhaseSchedule::new(cosine(1e-3, 0, 0.0), 1).unwrap().learning_rate(0), 1e-3);
    }

    #[test]
    fn a_warmup_as_long_as_the_phase_is_refused() {
        for schedule in each_kind(10, 1, 0.0) {
            let error = PhaseSchedule::new(schedule, 10).unwrap_err();
            assert_eq!(
                error.to_string(),
                "schedule.warmup_steps is 10; expected less than the phase's 10 steps"
            );
            assert!(PhaseSchedule::new(schedule, 0).is_ok()); // a phase of share 0/1
        }
    }

    #[test]
    fn a_decay_that_is_none_or_reaches_into_the_warmup_is_refused() {
        for (decay_steps, is_legal) in [(0, false), (1, true), (7, true), (8, false)] {
            let found = PhaseSchedule::new(wsd(3, decay_steps, Decay::Linear, 0.0), 10);
            assert_eq!(found.is_ok(), is_legal, "{decay_steps}");
        }
        let error = PhaseSchedule::new(wsd(3, 8, Decay::Linear, 0.0), 10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "schedule.decay_steps is 8; expected 1 to 7, \
             the phase's 10 steps without its 3 of warm-up"
        );
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        let error = PhaseSchedule::new(cosine(3e-4, 0, -1.0), 10).unwrap_err();
        assert_eq!(error, ScheduleError::Rate { field: "final", found: -1.0 });
    }
}
