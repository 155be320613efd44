//! How the next token of a stream is chosen: settings in numbers.

/// How the next token is chosen. The default changes nothing of the model's probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token. Finite, not negative.
    pub temperature: f32,
    /// Keeps the k most likely tokens, and those as likely as the last of them; 0 keeps all.
    pub top_k: u32,
    /// Keeps the smallest set of most likely tokens with at least this probability; in (0, 1], 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one; in [0, 1], 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens of the prompt and the output. Finite, positive.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens of the output. Finite.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens of the output, once for each time. Finite.
    pub frequency_penalty: f32,
    /// Tokens before which no end-of-sequence token is chosen.
    pub min_tokens: usize,
    /// Key of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            min_tokens: 0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether the most likely token is taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Whether logits depend on the tokens before.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}
