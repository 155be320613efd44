//! How many rows a step may have, so that it does not take longer than the host allows.
//!
//! A step costs something by itself and something for each row, and neither is known before. But a step of more rows never
//! takes longer than in proportion to them: if `r` rows took `t`, then `r * room / t` rows, where that is more than `r`, end
//! within `room`. Going there from few rows therefore approaches the most that fit from below. Where a step took too long
//! the way back is taken twice as far, because what it costs by itself does not shrink with its rows.

use std::time::Duration;

/// Rows of the first step: few enough for any GPU.
const FIRST_ROWS: f64 = 16.0;

/// Share of the bound that is aimed at. The rest is for what varies from one step to the next.
const ROOM: f64 = 0.8;

/// A step that took surprisingly long leaves this share of the rows at least: it may have been a single one.
const MOST_CUT: f64 = 0.25;

/// Share of the way to more rows that one fast step is worth, and how many times the rows it leaves at most.
const CAUTION: f64 = 0.25;
const MOST_GROWTH: f64 = 2.0;

/// How many rows the next step may have, learnt from those before it.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Seconds that are aimed at; `None`: no bound.
    room: Option<f64>,
    /// Rows of prompts in one step at most, whatever time allows.
    chunk: usize,
    /// Rows that fit into the time.
    rows: f64,
}

impl Pace {
    /// Steps of `chunk` rows of prompts and `bound` of time at most.
    pub(super) fn new(bound: Option<Duration>, chunk: usize) -> Self {
        let room = bound.map(|bound| ROOM * bound.as_secs_f64());
        Self { room, chunk, rows: FIRST_ROWS }
    }

    /// Rows of prompts in the next step at most, 1 or more, where sequences wait with `pending` rows. Those that wait with
    /// one get it in any case, and the prompts what is left.
    pub(super) fn chunk(&self, pending: &[usize]) -> usize {
        if self.room.is_none() {
            return self.chunk;
        }
        let single = pending.iter().filter(|&&waiting| waiting == 1).count();
        (self.rows as usize).saturating_sub(single).min(self.chunk).max(1)
    }

    /// Learns that a step of `rows` rows took `time`.
    pub(super) fn note(&mut self, rows: usize, time: Duration) {
        let Some(room) = self.room else { return };
        let (rows, spare) = (rows.max(1) as f64, room / time.as_secs_f64().max(1e-9));
        if spare < 1.0 {
            self.rows = self.rows.min(rows * (spare * spare).max(MOST_CUT)).max(1.0);
        } else {
            // A part of the way, because this one may have been a fast one.
            let more = CAUTION * (rows * spare - self.rows).max(0.0);
            self.rows = (self.rows + more).min(MOST_GROWTH * self.rows).min(f64::from(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::philox::bits;

    const BOUND: Duration = Duration::from_millis(4);

    /// A machine whose steps cost `fixed` and `per_row` microseconds, and up to `noise` times that more or less.
    struct Machine {
        fixed: f64,
        per_row: f64,
        noise: f64,
        steps: u64,
    }

    impl Machine {
        fn new(fixed: f64, per_row: f64, noise: f64) -> Self {
            Self { fixed, per_row, noise, steps: 0 }
        }

        /// Rows of a step that takes `BOUND` where nothing varies.
        fn most_rows(&self) -> f64 {
            (BOUND.as_secs_f64() * 1e6 - self.fixed) / self.per_row
        }

        /// Reads a long prompt beside `decoding` streams for `steps` steps; the rows and the time of each.
        fn read(&mut self, pace: &mut Pace, decoding: usize, steps: usize) -> Vec<(usize, Duration)> {
            let pending: Vec<usize> = [usize::MAX].into_iter().chain(std::iter::repeat_n(1, decoding)).collect();
            let step = |_| {
                let rows = pace.chunk(&pending) + decoding;
                self.steps += 1;
                let varying = 1.0 + self.noise * (2.0 * (bits(7, self.steps) as f64 / 2f64.powi(64)) - 1.0);
                let time = Duration::from_secs_f64(1e-6 * varying * (self.fixed + self.per_row * rows as f64));
                pace.note(rows, time);
                (rows, time)
            };
            (0..steps).map(step).collect()
        }
    }

    fn rows(steps: &[(usize, Duration)]) -> f64 {
        steps.iter().map(|(rows, _)| *rows as f64).sum::<f64>() / steps.len() as f64
    }

    fn late(steps: &[(usize, Duration)]) -> usize {
        steps.iter().filter(|(_, time)| *time > BOUND).count()
    }

    #[test]
    fn without_a_bound_steps_have_all_the_rows_that_are_asked_for() {
        let mut pace = Pace::new(None, 512);
        pace.note(512, Duration::from_secs(9));
        assert_eq!(pace.chunk(&[1000, 1, 1]), 512);
    }

    #[test]
    fn a_bound_that_is_never_met_changes_nothing_after_the_first_steps() {
        let mut pace = Pace::new(Some(BOUND), 512);
        let steps = Machine::new(100.0, 1.0, 0.1).read(&mut pace, 4, 30);
        assert!(steps[0].0 <= 16 + 4 && late(&steps) == 0);
        assert_eq!(steps.last().unwrap().0, 512 + 4);
    }

    #[test]
    fn steps_of_steady_machines_stay_within_the_bound_and_use_most_of_it() {
        // The share of the rows that would fit if nothing ever varied.
        let machines = [
            (100.0, 5.0, 0, 0.6),
            (1000.0, 10.0, 8, 0.55),
            (2000.0, 100.0, 0, 0.33),
            (0.0, 200.0, 3, 0.6),
            (2500.0, 2.0, 32, 0.22),
        ];
        for (fixed, per_row, decoding, share) in machines {
            for (noise, most_late) in [(0.0, 0), (0.1, 0), (0.2, 8)] {
                let mut machine = Machine::new(fixed, per_row, noise);
                let mut pace = Pace::new(Some(BOUND), 8192);
                let steps = machine.read(&mut pace, decoding, 800);
                let what = format!("{fixed} + {per_row} us, noise {noise}");
                assert!(late(&steps[10..]) <= most_late, "{what}: {} late", late(&steps[10..]));
                let used = rows(&steps[200..]) / machine.most_rows();
                assert!(used >= share, "{what}: {used} of the rows");
            }
        }
    }

    #[test]
    fn a_machine_that_gets_slower_is_late_for_a_few_steps_only() {
        for (fixed, per_row) in [(100.0, 5.0), (1000.0, 10.0), (500.0, 100.0)] {
            let mut pace = Pace::new(Some(BOUND), 8192);
            Machine::new(fixed, per_row, 0.1).read(&mut pace, 2, 200);
            let mut slow = Machine::new(3.0 * fixed, 3.0 * per_row, 0.1);
            let steps = slow.read(&mut pace, 2, 100);
            assert!(late(&steps[..4]) > 0 && late(&steps[4..]) == 0, "{fixed} + {per_row}: {steps:?}");
            // And when it is fast again, so are the prompts.
            let fast = Machine::new(fixed, per_row, 0.1).read(&mut pace, 2, 100);
            assert!(rows(&fast[50..]) > 2.0 * rows(&steps[50..]));
        }
    }

    #[test]
    fn one_slow_step_costs_little() {
        let mut machine = Machine::new(500.0, 10.0, 0.05);
        let mut pace = Pace::new(Some(BOUND), 8192);
        let before = rows(&machine.read(&mut pace, 0, 100)[50..]);
        pace.note(before as usize, 20 * BOUND);
        let after = machine.read(&mut pace, 0, 20);
        assert!(after[0].0 > 0 && rows(&after[15..]) > 0.8 * before, "{before}: {after:?}");
    }

    #[test]
    fn a_bound_that_one_row_breaks_leaves_one_row_of_a_prompt() {
        let mut pace = Pace::new(Some(BOUND), 512);
        let steps = Machine::new(6000.0, 10.0, 0.0).read(&mut pace, 5, 20);
        assert_eq!(steps.last().unwrap().0, 6);
        pace.note(0, Duration::ZERO);
        assert!(pace.chunk(&[9]) >= 1);
    }
}
