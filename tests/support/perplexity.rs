//! How well a model predicts a text.

use qwen3moe::Model;

/// `exp` of the mean negative log-likelihood of tokens 1.. of every sequence.
pub fn perplexity(model: &Model, sequences: &[Vec<u32>]) -> f64 {
    let vocab = model.info().spec.vocab;
    let (mut sum, mut count) = (0.0f64, 0u32);
    for ids in sequences {
        let logits = model.eval(ids).unwrap();
        for (row, &next) in logits.chunks_exact(vocab).zip(&ids[1..]) {
            let most = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
            let total: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
            sum += total.ln() - f64::from(row[next as usize] - most);
            count += 1;
        }
    }
    (sum / f64::from(count)).exp()
}
