//! Steps that are queued, and what their rows chose.

use std::ops::Range;

use crate::model::MoeSpec;

/// A step that is queued, and not collected.
pub struct Queued {
    /// Where it reports.
    pub side: usize,
    /// Choices of experts of one layer.
    pub per_layer: usize,
    pub sequences: Vec<QueuedSequence>,
}

pub struct QueuedSequence {
    /// Of the step.
    pub rows: Range<usize>,
    /// Of its logits.
    pub logits: Range<usize>,
    pub chooses: bool,
}

/// How often the rows of a step chose each expert of one layer.
pub struct Visits {
    top_k: usize,
    /// By rows of sequences that are counted.
    counted: Vec<u64>,
    /// By any row.
    visited: Vec<bool>,
}

impl Visits {
    pub fn new(moe: &MoeSpec) -> Self {
        Self { top_k: moe.top_k, counted: vec![0; moe.experts], visited: vec![false; moe.experts] }
    }

    /// Takes those of `step` in one layer, `choices`, `top_k` a row. `wanted`: whether each sequence is counted; `None`: all are.
    pub fn of_layer(&mut self, step: &Queued, choices: &[u32], wanted: Option<&[bool]>) {
        self.counted.fill(0);
        self.visited.fill(false);
        let experts = self.visited.len();
        for (i, sequence) in step.sequences.iter().enumerate() {
            let counts = wanted.is_none_or(|wanted| wanted.get(i).copied().unwrap_or(true));
            let own = choices.get(sequence.rows.start * self.top_k..sequence.rows.end * self.top_k).unwrap_or_default();
            for expert in own.iter().map(|choice| *choice as usize).filter(|expert| *expert < experts) {
                self.counted[expert] += u64::from(counts);
                self.visited[expert] = true;
            }
        }
    }

    /// Experts that any row chose.
    pub fn experts(&self) -> u64 {
        self.visited.iter().filter(|visited| **visited).count() as u64
    }

    /// Each expert that was counted, and how often.
    pub fn counted(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counted.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_counted_for_wanted_sequences_and_read_for_all() {
        let sequence = |rows: Range<usize>| QueuedSequence { logits: rows.clone(), rows, chooses: true };
        let step = Queued { side: 0, per_layer: 6, sequences: vec![sequence(0..1), sequence(1..3)] };
        let mut visits = Visits { top_k: 2, counted: vec![0; 5], visited: vec![false; 5] };
        // A choice of an expert that is not there, as a defect would leave it, is nobody's.
        let choices = [0, 3, 3, 1, 3, u32::MAX];
        visits.of_layer(&step, &choices, Some(&[false, true]));
        assert_eq!(visits.counted().collect::<Vec<_>>(), [(1, 1), (3, 2)]);
        assert_eq!(visits.experts(), 3);
        visits.of_layer(&step, &choices, None);
        assert_eq!(visits.counted().collect::<Vec<_>>(), [(0, 1), (1, 1), (3, 3)]);
    }
}
