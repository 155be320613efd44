//! How the next token is chosen, settled from what the caller says and what the model's files suggest.

use std::path::Path;

use serde_json::Value as Json;

use super::GenerateOptions;

use crate::error::{Error, Result};
use crate::model::{GgufSampling, Sampling};

/// What a model's `generation_config.json` or GGUF metadata says on sampling; `None` where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SamplingDefaults {
    /// 0 where the file says `do_sample: false`.
    pub temperature: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<u32>,
    /// In (0, 1].
    pub top_p: Option<f32>,
    /// In [0, 1].
    pub min_p: Option<f32>,
    /// Positive.
    pub repetition_penalty: Option<f32>,
}

impl SamplingDefaults {
    /// From the contents of `generation_config.json`; `path`, that of the file, is for messages. A file that says
    /// `do_sample: false` asks for the most likely token: its other fields are for callers that set a temperature. A
    /// `top_k` of -1 keeps all, as vLLM writes it.
    ///
    /// # Errors
    /// [`Error::BadFile`] with the name of a field that has another type or is out of range.
    pub fn from_generation_config(path: &Path, contents: &[u8]) -> Result<Self> {
        let json: Json =
            serde_json::from_slice(contents).map_err(|e| Error::bad_file(path, format!("is no JSON: {e}")))?;
        let config = GenerationConfig { path, json };
        let number = |name| config.field(name, "a number", |value| Some(value.as_f64()? as f32));
        let sample = config.field("do_sample", "true or false", Json::as_bool)?;
        let temperature = number("temperature")?;
        let defaults = Self {
            temperature: if sample == Some(false) { Some(0.0) } else { temperature },
            top_k: config.field("top_k", "an integer from -1 to 4294967295", |value| match value.as_i64()? {
                -1 => Some(0),
                k => u32::try_from(k).ok(),
            })?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
        };
        Sampling::settle(&GenerateOptions::default(), &defaults).check().map_err(|what| Error::bad_file(path, what))?;
        Ok(defaults)
    }
}

impl SamplingDefaults {
    /// From the metadata of the GGUF file at `path`, which is for messages.
    ///
    /// # Errors
    /// [`Error::BadFile`] with the name of a value that is out of range.
    pub fn from_gguf(path: &Path, metadata: &GgufSampling) -> Result<Self> {
        let number = |value: Option<f64>| value.map(|value| value as f32);
        let defaults = Self {
            temperature: number(metadata.temperature),
            top_k: metadata.top_k.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX)),
            top_p: number(metadata.top_p),
            min_p: number(metadata.min_p),
            repetition_penalty: number(metadata.repetition_penalty),
        };
        let checked = Sampling::settle(&GenerateOptions::default(), &defaults).check();
        checked.map_err(|what| Error::bad_file(path, format!("general.sampling: {what}")))?;
        Ok(defaults)
    }
}

struct GenerationConfig<'a> {
    path: &'a Path,
    json: Json,
}

impl GenerationConfig<'_> {
    /// A field that may be missing or null.
    fn field<T>(&self, name: &str, expected: &str, read: impl Fn(&Json) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.json.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let wrong = || Error::bad_file(self.path, format!("{name} is {value}, expected {expected}"));
        read(value).map(Some).ok_or_else(wrong)
    }
}

impl Sampling {
    /// What the caller says, else what the model's files say, else no change to the model's probabilities.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the name and range of an option that is out of range.
    pub fn resolve(options: &GenerateOptions, defaults: &SamplingDefaults) -> Result<Self> {
        if options.min_tokens > options.max_tokens {
            let (min, max) = (options.min_tokens, options.max_tokens);
            return Err(Error::InvalidArgument(format!("min_tokens is {min}, expected max_tokens ({max}) at most")));
        }
        let sampling = Self::settle(options, defaults);
        sampling.check().map_err(Error::InvalidArgument)?;
        Ok(sampling)
    }

    fn settle(options: &GenerateOptions, defaults: &SamplingDefaults) -> Self {
        Self {
            temperature: options.temperature.or(defaults.temperature).unwrap_or(1.0),
            top_k: options.top_k.or(defaults.top_k).unwrap_or(0),
            top_p: options.top_p.or(defaults.top_p).unwrap_or(1.0),
            min_p: options.min_p.or(defaults.min_p).unwrap_or(0.0),
            repetition_penalty: options.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
            min_tokens: options.min_tokens,
            seed: options.seed,
        }
    }

    fn check(&self) -> Result<(), String> {
        let expect = |name: &str, value: f32, fits: bool, range: &str| {
            if fits { Ok(()) } else { Err(format!("{name} is {value}, expected {range}")) }
        };
        let (t, p, m, r) = (self.temperature, self.top_p, self.min_p, self.repetition_penalty);
        let (presence, frequency) = (self.presence_penalty, self.frequency_penalty);
        expect("temperature", t, t.is_finite() && t >= 0.0, "a finite number, 0 or more")?;
        expect("top_p", p, p > 0.0 && p <= 1.0, "more than 0, 1 at most")?;
        expect("min_p", m, (0.0..=1.0).contains(&m), "0 to 1")?;
        expect("repetition_penalty", r, r.is_finite() && r > 0.0, "a finite number, more than 0")?;
        expect("presence_penalty", presence, presence.is_finite(), "a finite number")?;
        expect("frequency_penalty", frequency, frequency.is_finite(), "a finite number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(json: &str) -> Result<SamplingDefaults> {
        SamplingDefaults::from_generation_config(Path::new("generation_config.json"), json.as_bytes())
    }

    #[test]
    fn the_caller_comes_before_the_model() {
        let model = defaults(
            r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2], "min_p": null}"#,
        );
        let options = GenerateOptions { temperature: Some(0.9), top_k: Some(0), ..Default::default() };
        let sampling = Sampling::resolve(&options, &model.unwrap()).unwrap();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p), (0.9, 0, 0.95, 0.0));
        assert_eq!(sampling.repetition_penalty, 1.0);
    }

    #[test]
    fn a_model_that_does_not_sample_takes_the_most_likely() {
        let model = defaults(r#"{"do_sample": false, "temperature": 0.6}"#).unwrap();
        assert_eq!(Sampling::resolve(&GenerateOptions::default(), &model).unwrap().temperature, 0.0);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let none = SamplingDefaults::default();
        let cases: [(&str, GenerateOptions); 10] = [
            ("temperature is -0.5", GenerateOptions { temperature: Some(-0.5), ..Default::default() }),
            ("temperature is NaN", GenerateOptions { temperature: Some(f32::NAN), ..Default::default() }),
            ("temperature is inf", GenerateOptions { temperature: Some(f32::INFINITY), ..Default::default() }),
            ("top_p is 0", GenerateOptions { top_p: Some(0.0), ..Default::default() }),
            ("top_p is 1.5", GenerateOptions { top_p: Some(1.5), ..Default::default() }),
            ("min_p is -1", GenerateOptions { min_p: Some(-1.0), ..Default::default() }),
            ("repetition_penalty is 0", GenerateOptions { repetition_penalty: Some(0.0), ..Default::default() }),
            ("presence_penalty is NaN", GenerateOptions { presence_penalty: f32::NAN, ..Default::default() }),
            (
                "frequency_penalty is -inf",
                GenerateOptions { frequency_penalty: f32::NEG_INFINITY, ..Default::default() },
            ),
            ("min_tokens is 9", GenerateOptions { min_tokens: 9, max_tokens: 8, ..Default::default() }),
        ];
        for (expected, options) in cases {
            match Sampling::resolve(&options, &none) {
                Err(Error::InvalidArgument(what)) => assert!(what.starts_with(expected), "{what}"),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_field_of_the_file_that_is_wrong_is_named_with_the_file() {
        for (json, expected) in [
            (r#"{"top_p": 2}"#, "top_p is 2, expected"),
            (r#"{"top_k": "many"}"#, "top_k is \"many\", expected an integer"),
            (r#"{"top_k": -2}"#, "top_k is -2, expected an integer"),
            (r#"{"top_k": 4294967296}"#, "top_k is 4294967296, expected an integer"),
            (r#"{"temperature": [1]}"#, "temperature is [1], expected a number"),
            (r#"{"temperature": 1e300}"#, "temperature is inf, expected"),
            (r#"{"do_sample": 1}"#, "do_sample is 1, expected true or false"),
            (r#"{"do_sample": "#, "is no JSON: "),
        ] {
            let text = defaults(json).unwrap_err().to_string();
            assert!(text.starts_with(&format!("generation_config.json: {expected}")), "{text}");
        }
    }

    #[test]
    fn a_file_may_say_that_all_tokens_are_kept() {
        for json in [r#"{"top_k": -1}"#, r#"{"top_k": 0}"#] {
            assert_eq!(defaults(json).unwrap().top_k, Some(0), "{json}");
        }
    }
}
