//! `qm inspect`: what a model file is, and what of it will be used.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;
use qwen3moe::{
    Checkpoint, CheckpointKind, ConfigReport, FeedForward, LayerTensor, LoadOptions, Mixer, ModelSpec, Role,
    TensorInfo, Unused, read_config,
};
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::{fit, load};

/// Arguments of `qm inspect`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Hugging Face directory or GGUF file; without it the bundled model
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let source = load::source(arguments.model.as_deref());
    let checkpoint = Checkpoint::open(&source)?;
    let ConfigReport { spec, unrecognised } = read_config(&checkpoint)?;
    let fit = qwen3moe::fit(&source, &LoadOptions { streams: 1, ..LoadOptions::default() })?;
    let path = arguments.model.as_ref().map_or_else(|| "bundled".into(), |path| path.display().to_string());
    let report = Report { path, checkpoint: &checkpoint, spec: &spec, unrecognised: &unrecognised };
    let mut out = io::stdout().lock();
    if arguments.json {
        let mut value = report.json(arguments.tensors);
        value["memory"] = fit::to_json(&fit);
        writeln!(out, "{value:#}")?;
        return Ok(());
    }
    report.text(&mut out)?;
    write!(out, "{}", fit::to_text(&fit))?;
    if arguments.tensors {
        writeln!(out)?;
        report.tensor_list(&mut out)?;
    }
    Ok(())
}

/// What part of the model a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Embedding,
    Head,
    Attention,
    DeltaNet,
    Router,
    Experts,
    SharedExpert,
    Dense,
    Norms,
}

impl Part {
    fn of(role: Role) -> Self {
        match role {
            Role::Embedding => Part::Embedding,
            Role::Head => Part::Head,
            Role::FinalNorm => Part::Norms,
            Role::Layer(_, tensor) => match tensor {
                LayerTensor::InputNorm
                | LayerTensor::PostAttentionNorm
                | LayerTensor::QueryNorm
                | LayerTensor::KeyNorm => Part::Norms,
                LayerTensor::Query
                | LayerTensor::Key
                | LayerTensor::Value
                | LayerTensor::Output
                | LayerTensor::QueryBias
                | LayerTensor::KeyBias
                | LayerTensor::ValueBias
                | LayerTensor::OutputBias => Part::Attention,
                LayerTensor::Delta(_) => Part::DeltaNet,
                LayerTensor::Router => Part::Router,
                LayerTensor::Expert(..) | LayerTensor::Experts(_) | LayerTensor::ExpertsGateUp => Part::Experts,
                LayerTensor::SharedExpert(_) | LayerTensor::SharedExpertGate => Part::SharedExpert,
                LayerTensor::Dense(_) => Part::Dense,
            },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Part::Embedding => "embedding",
            Part::Head => "head",
            Part::Attention => "attention",
            Part::DeltaNet => "delta_net",
            Part::Router => "router",
            Part::Experts => "experts",
            Part::SharedExpert => "shared_expert",
            Part::Dense => "dense",
            Part::Norms => "norms",
        }
    }
}

/// Sums over tensors.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, parameters: u64, bytes: u64) {
        self.tensors += 1;
        self.parameters = self.parameters.saturating_add(parameters);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

struct Report<'a> {
    path: String,
    checkpoint: &'a Checkpoint,
    spec: &'a ModelSpec,
    unrecognised: &'a [String],
}

impl Report<'_> {
    fn format(&self) -> &'static str {
        match self.checkpoint.kind() {
            CheckpointKind::HuggingFace => "Hugging Face",
            CheckpointKind::Gguf => "GGUF",
        }
    }

    fn files(&self) -> usize {
        self.checkpoint.tensors().iter().map(|t| t.file).collect::<BTreeSet<_>>().len()
    }

    fn storage(&self) -> BTreeMap<(Part, &'static str), Sum> {
        let mut sums = BTreeMap::<_, Sum>::new();
        for tensor in self.checkpoint.tensors() {
            let sum = sums.entry((Part::of(tensor.role), tensor.format.name())).or_default();
            sum.add(tensor.elements(), stored_bytes(tensor));
        }
        sums
    }

    fn parameters(&self) -> u64 {
        self.checkpoint.tensors().iter().fold(0, |sum, t| sum.saturating_add(t.elements()))
    }

    /// Parameters that one token visits: all but the routed experts that the router leaves out.
    fn active_parameters(&self) -> u64 {
        let experts = self.checkpoint.tensors().iter().filter(|t| Part::of(t.role) == Part::Experts);
        let experts = experts.fold(0u64, |sum, t| sum.saturating_add(t.elements()));
        let visited = self.spec.moe.as_ref().map_or(0, |m| (experts / m.experts.max(1) as u64) * m.top_k as u64);
        self.parameters() - experts + visited
    }

    fn unused(&self) -> BTreeMap<&'static str, Sum> {
        let mut sums = BTreeMap::<_, Sum>::new();
        for tensor in self.checkpoint.unused() {
            let elements = tensor.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
            sums.entry(unused_name(tensor.reason)).or_default().add(elements, tensor.bytes);
        }
        sums
    }

    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let spec = self.spec;
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        writeln!(out, "model         {}", self.path)?;
        writeln!(out, "format        {}, {}", self.format(), plural(self.files(), "file"))?;
        writeln!(out, "family        {}", spec.family.name())?;
        let billions = |n: u64| {
            if n < 1_000_000_000 { format!("{:.1} M", n as f64 / 1e6) } else { format!("{:.2} B", n as f64 / 1e9) }
        };
        writeln!(out, "parameters    {}, {} a token", billions(self.parameters()), billions(self.active_parameters()))?;
        let dense = spec.layers.len() - spec.moe_layers();
        let kinds = [(spec.delta_layers(), "DeltaNet"), (spec.attention_layers(), "attention"), (dense, "dense")];
        let kinds: Vec<String> = kinds.iter().filter(|k| k.0 > 0).map(|(n, what)| format!("{n} {what}")).collect();
        writeln!(out, "layers        {}: {}", spec.layers.len(), kinds.join(", "))?;
        writeln!(out, "width         {}, vocabulary {}, context {}", spec.hidden, spec.vocab, spec.context_length)?;
        let a = &spec.attention;
        let gated = if a.gated { ", gated" } else { "" };
        writeln!(
            out,
            "attention     {} heads, {} of keys and values, {} channels, {} rotary{gated}",
            a.heads, a.kv_heads, a.head_dim, a.rope.dim
        )?;
        if let Some(d) = &spec.delta {
            writeln!(
                out,
                "DeltaNet      {} heads of {}, {} of keys of {}",
                d.value_heads, d.value_dim, d.key_heads, d.key_dim
            )?;
        }
        if let Some(m) = &spec.moe {
            let shared = if m.shared_width > 0 { format!(", one shared of {}", m.shared_width) } else { String::new() };
            writeln!(out, "experts       {} of width {}, {} a token{shared}", m.experts, m.width, m.top_k)?;
        }
        writeln!(out, "stored as")?;
        for ((part, format), sum) in self.storage() {
            let tensors = plural(sum.tensors as usize, "tensor");
            writeln!(out, "  {:<14}{format:<10}{:>12}  {tensors}", part.name(), HumanBytes(sum.bytes).to_string())?;
        }
        for (name, sum) in self.unused() {
            let tensors = plural(sum.tensors as usize, "tensor");
            writeln!(out, "not used      {name}: {tensors}, {}", HumanBytes(sum.bytes))?;
        }
        if !self.unrecognised.is_empty() {
            writeln!(out, "not known     {}", self.unrecognised.join(", "))?;
        }
        Ok(())
    }

    fn tensor_list(&self, out: &mut impl Write) -> io::Result<()> {
        for t in self.checkpoint.tensors() {
            writeln!(out, "{:<10} {:<22} {}", t.format.name(), format!("{:?}", t.shape), t.name)?;
        }
        for t in self.checkpoint.unused() {
            let name = unused_name(t.reason);
            writeln!(out, "{:<10} {:<22} {} (not used: {name})", t.type_name, format!("{:?}", t.shape), t.name)?;
        }
        Ok(())
    }

    fn json(&self, tensors: bool) -> Value {
        let spec = self.spec;
        let sum = |s: &Sum| json!({ "tensors": s.tensors, "parameters": s.parameters, "bytes": s.bytes });
        let storage: Vec<Value> = self
            .storage()
            .iter()
            .map(|((part, format), s)| {
                let mut row = sum(s);
                row["part"] = json!(part.name());
                row["type"] = json!(format);
                row
            })
            .collect();
        let layers: Vec<Value> = spec
            .layers
            .iter()
            .map(|l| {
                let mixer = if l.mixer == Mixer::Attention { "attention" } else { "delta_net" };
                let feed_forward = if l.feed_forward == FeedForward::Moe { "moe" } else { "dense" };
                json!({ "mixer": mixer, "feed_forward": feed_forward })
            })
            .collect();
        let unused = self.unused();
        let unused_sum = |reason| unused.get(unused_name(reason)).map(sum);
        let mut value = json!({
            "path": self.path,
            "format": self.format(),
            "files": self.files(),
            "family": spec.family.name(),
            "parameters": self.parameters(),
            "active_parameters": self.active_parameters(),
            "hidden": spec.hidden,
            "vocab": spec.vocab,
            "context_length": spec.context_length,
            "norm_eps": spec.norm_eps,
            "tied_head": spec.tied_head,
            "layers": layers,
            "attention": {
                "heads": spec.attention.heads,
                "kv_heads": spec.attention.kv_heads,
                "head_dim": spec.attention.head_dim,
                "gated": spec.attention.gated,
                "rope_dim": spec.attention.rope.dim,
                "rope_theta": spec.attention.rope.theta,
                "rope_scaling": format!("{:?}", spec.attention.rope.scaling),
            },
            "delta_net": spec.delta.as_ref().map(|d| json!({
                "key_heads": d.key_heads,
                "value_heads": d.value_heads,
                "key_dim": d.key_dim,
                "value_dim": d.value_dim,
                "conv_kernel": d.conv_kernel,
            })),
            "moe": spec.moe.as_ref().map(|m| json!({
                "experts": m.experts,
                "top_k": m.top_k,
                "width": m.width,
                "shared_width": m.shared_width,
                "normalise_top_k": m.normalise_top_k,
            })),
            "dense_width": spec.dense_width,
            "storage": storage,
            "not_used": {
                "mtp": unused_sum(Unused::Mtp),
                "vision": unused_sum(Unused::Vision),
                "rope_tables": unused_sum(Unused::RopeTable),
            },
            "mtp_layers": spec.mtp_layers,
            "unrecognised_fields": self.unrecognised,
        });
        if tensors {
            value["tensors"] = self.checkpoint.tensors().iter().map(|t| self.tensor_json(t)).collect();
        }
        value
    }

    fn tensor_json(&self, tensor: &TensorInfo) -> Value {
        json!({
            "name": tensor.name,
            "part": Part::of(tensor.role).name(),
            "type": tensor.format.name(),
            "shape": tensor.shape,
            "bytes": stored_bytes(tensor),
            "file": self.checkpoint.file_path(tensor).display().to_string(),
            "offset": tensor.offset,
        })
    }
}

/// Bytes in the file, scales that lie beside the codes included.
fn stored_bytes(tensor: &TensorInfo) -> u64 {
    tensor.bytes.saturating_add(tensor.scale_bytes())
}

fn unused_name(reason: Unused) -> &'static str {
    match reason {
        Unused::Mtp => "multi-token prediction",
        Unused::Vision => "vision",
        Unused::RopeTable => "rotary tables",
    }
}
