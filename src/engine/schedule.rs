//! Which rows of which sequence go into the next step.

/// Rows of each sequence in the next step, for sequences that wait with `pending` rows.
///
/// Whoever waits with one row gets it: a stream that generates never waits for another's prompt. The others, prompts
/// being read, share `chunk` rows evenly; what one of them does not need goes to the next. With more prompts than rows
/// the turn goes round: `turn` counts steps.
pub(super) fn rows(pending: &[usize], chunk: usize, turn: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = pending.iter().map(|&waiting| waiting.min(1)).collect();
    let mut prompts: Vec<usize> = (0..pending.len()).filter(|&i| pending[i] > 1).collect();
    let mut left = chunk.max(1);
    if prompts.is_empty() {
        return rows;
    }
    let first = turn % prompts.len();
    prompts.rotate_left(first);
    // From the shortest to the longest, so that what short prompts leave is shared by all longer ones; the sort keeps the
    // order of turns among equals.
    let shortest_share = left / prompts.len();
    if shortest_share > 0 {
        prompts.sort_by_key(|&i| pending[i]);
    }
    for (served, &i) in prompts.iter().enumerate() {
        let share = left.div_ceil(prompts.len() - served);
        rows[i] = share.min(pending[i]).min(left);
        left -= rows[i];
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn generating_streams_always_get_their_row() {
        assert_eq!(rows(&[1, 500, 1, 1], 64, 0), [1, 64, 1, 1]);
        assert_eq!(rows(&[1, 1], 64, 3), [1, 1]);
        assert_eq!(rows(&[], 64, 0), [0; 0]);
    }

    #[test]
    fn prompts_share_a_step_and_leave_what_they_do_not_need() {
        assert_eq!(rows(&[500, 500], 64, 0), [32, 32]);
        assert_eq!(rows(&[500, 10, 500], 64, 0), [27, 10, 27]);
        assert_eq!(rows(&[5, 6, 7], 64, 1), [5, 6, 7]);
    }

    #[test]
    fn no_step_exceeds_its_rows_and_every_prompt_ends() {
        for (count, chunk) in [(1, 1), (3, 1), (3, 2), (5, 7), (2, 64), (7, 3)] {
            let mut pending: Vec<usize> = (0..count).map(|i| 2 + 13 * i % 40).collect();
            let total: usize = pending.iter().sum();
            for turn in 0..=total {
                let step = rows(&pending, chunk, turn);
                let prompts = pending.iter().zip(&step).filter(|(waiting, _)| **waiting > 1);
                assert!(prompts.map(|(_, rows)| rows).sum::<usize>() <= chunk);
                pending.iter_mut().zip(&step).for_each(|(waiting, rows)| *waiting -= rows);
                if pending.iter().all(|waiting| *waiting == 0) {
                    break;
                }
                assert!(step.iter().sum::<usize>() > 0, "a step without rows: {pending:?}");
            }
            assert_eq!(pending.iter().sum::<usize>(), 0);
        }
    }
}
