//! Flags that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use qwen3moe::{Device, DevicePriority, GenerateOptions, KvFormat, LoadOptions};

/// Which model, and how to load it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArguments {
    /// Hugging Face directory or GGUF file (the first one of a split file); without it the bundled model answers
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Where to run: cpu, or the number of a CUDA device (qm doctor lists them)
    #[arg(long, value_parser = parse_device, default_value = "cpu")]
    pub device: Device,
    /// Positions one conversation can hold [default: the smaller of the model's own and 4096]
    #[arg(long, value_name = "TOKENS", default_value_t = 0, hide_default_value = true)]
    pub context: usize,
    /// Worker threads [default: one a physical core]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Memory the model may take, such as 12GiB [default: what is available]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0", hide_default_value = true)]
    pub ram_budget: u64,
    /// Device memory the model may take, such as 12GiB [default: what is free]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0", hide_default_value = true)]
    pub vram_budget: u64,
    /// Whose work goes first where others use the device, too: default, low or high
    #[arg(long, value_name = "PRIORITY", default_value_t = DevicePriority::default())]
    pub device_priority: DevicePriority,
    /// Milliseconds that one step may occupy the device, or the processor: prompts are read in pieces that fit [default: no
    /// bound]
    #[arg(long, value_name = "MILLISECONDS", value_parser = parse_milliseconds)]
    pub max_step: Option<Duration>,
    /// Compute with float32 activations and KV, for comparisons with a reference
    #[arg(long)]
    pub exact: bool,
    /// How keys and values are stored: f16, q8_0 or f32
    #[arg(long, value_name = "FORMAT", default_value_t = KvFormat::default())]
    pub kv: KvFormat,
    /// Folder of pack caches, from which a model loads in seconds; the first load fills it
    #[arg(long, value_name = "FOLDER")]
    pub cache_dir: Option<PathBuf>,
    /// Tell what the load does
    #[arg(short, long)]
    pub verbose: bool,
}

impl ModelArguments {
    /// Options for a program that runs one stream at a time.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            device_priority: self.device_priority,
            max_step: self.max_step,
            vram_budget: self.vram_budget,
            context_length: self.context,
            threads: self.threads,
            ram_budget: self.ram_budget,
            exact: self.exact,
            kv: self.kv,
            streams: 1,
            cache_dir: self.cache_dir.clone(),
            ..LoadOptions::default()
        }
    }
}

/// How to choose tokens and when to stop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerateArguments {
    /// Tokens to generate at most
    #[arg(short = 'n', long, default_value_t = 512)]
    pub max_tokens: usize,
    /// Tokens before which the answer does not end
    #[arg(long, default_value_t = 0)]
    pub min_tokens: usize,
    /// Divides the logits; 0 always takes the most likely token [default: the model's]
    #[arg(short, long, alias = "temp")]
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all [default: the model's]
    #[arg(long)]
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with this probability [default: the model's]
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one [default: the model's]
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens seen [default: the model's]
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens generated
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens generated, once for each time
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// The same seed gives the same text [default: another one each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Text that ends the answer and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Generate past end-of-sequence tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Seconds until the answer ends, finished or not
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub deadline: Option<Duration>,
}

impl GenerateArguments {
    /// The options of one generation with the seed given, or a fresh one.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed.unwrap_or_else(fresh_seed),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            deadline: self.deadline,
        }
    }
}

fn fresh_seed() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |t| t.as_nanos() as u64)
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// A time, not 0.
fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of milliseconds"))?;
    let time = Duration::try_from_secs_f64(milliseconds / 1e3).map_err(|e| e.to_string())?;
    if time.is_zero() { Err("expected more than 0".into()) } else { Ok(time) }
}

/// `cpu`, or the number of a CUDA device.
pub fn parse_device(text: &str) -> Result<Device, String> {
    match text {
        "cpu" => Ok(Device::Cpu),
        number => {
            number.parse().map(Device::Cuda).map_err(|_| format!("{text:?} is neither cpu nor a device's number"))
        }
    }
}

/// A number of bytes, with a unit of 1000 (kB, MB, GB) or 1024 (KiB, MiB, GiB) where one is given.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => f64::from(1u32 << 10),
        "mib" => f64::from(1u32 << 20),
        "gib" => f64::from(1u32 << 30),
        _ => return Err(format!("{text:?} is no number of bytes, such as 12GiB")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no number of bytes, such as 12GiB"))?;
    if !number.is_finite() || number < 0.0 {
        return Err(format!("{text:?} is no number of bytes, such as 12GiB"));
    }
    Ok((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{parse_bytes, parse_milliseconds};

    #[test]
    fn bounds_of_steps_are_milliseconds_and_not_nothing() {
        assert_eq!(parse_milliseconds("2.5"), Ok(Duration::from_micros(2500)));
        for wrong in ["0", "-1", "nan", "1e30", "5ms", ""] {
            assert!(parse_milliseconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn byte_counts_take_decimal_and_binary_units() {
        assert_eq!(parse_bytes("12GiB"), Ok(12 << 30));
        assert_eq!(parse_bytes("1.5 gb"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for wrong in ["", "GiB", "-1", "12 parsecs", "1e400", "nan"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
