//! `qm doctor`: what this program was built with, and what the machine offers.

use std::io::{self, Write};

use clap::Args;
use indicatif::HumanBytes;
use qwen3moe::doctor::{Device, Report, report};
use serde_json::{Value, json};

use crate::failure::Outcome;

/// Arguments of `qm doctor`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let report = report();
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", to_json(&report))?;
    } else {
        write!(out, "{}", to_text(&report))?;
    }
    Ok(())
}

fn to_text(report: &Report) -> String {
    let isas: Vec<&str> = report.isas.iter().map(|isa| isa.name()).collect();
    let isa = report.isa.as_ref().map_or_else(ToString::to_string, |isa| isa.name().to_owned());
    let memory = report.memory.map_or_else(|| "unknown".into(), |bytes| HumanBytes(bytes).to_string());
    let mut text = format!(
        "library       {}, {}, {}\nprocessor     {} threads, {isa} kernels (of {})\nmemory        {memory} available\n",
        env!("CARGO_PKG_VERSION"),
        report.target,
        report.profile,
        report.threads,
        isas.join(", "),
    );
    text += &match report.cuda {
        Some(((major, minor), architectures)) => {
            format!("CUDA          built with {major}.{minor}, for architectures {}\n", architectures.join(", "))
        }
        None => "CUDA          not in this build\n".into(),
    };
    match &report.devices {
        Err(why) => text += &format!("driver        {why}\n"),
        Ok(((major, minor), devices)) => {
            text += &format!("driver        supports CUDA {major}.{minor}\n");
            devices.iter().for_each(|device| text += &device_text(device));
        }
    }
    text
}

fn device_text(Device { info, free }: &Device) -> String {
    let (major, minor) = info.capability;
    let state = match free {
        Ok(free) => format!("{} free", HumanBytes(*free)),
        Err(why) => format!("not usable: {why}"),
    };
    format!(
        "device {:<7}{}, compute capability {major}.{minor}, {} multiprocessors, {}, {state}\n",
        info.ordinal,
        info.name,
        info.multiprocessors,
        HumanBytes(info.memory)
    )
}

fn to_json(report: &Report) -> Value {
    let devices = |devices: &[Device]| -> Vec<Value> {
        let device = |Device { info, free }: &Device| {
            json!({
                "device": info.ordinal,
                "name": info.name,
                "compute_capability": [info.capability.0, info.capability.1],
                "multiprocessors": info.multiprocessors,
                "memory": info.memory,
                "free": free.as_ref().ok(),
                "error": free.as_ref().err().map(ToString::to_string),
            })
        };
        devices.iter().map(device).collect()
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "target": report.target,
        "profile": report.profile,
        "threads": report.threads,
        "cpu_isas": report.isas.iter().map(|isa| isa.name()).collect::<Vec<_>>(),
        "cpu_isa": report.isa.as_ref().ok().map(|isa| isa.name()),
        "memory_available": report.memory,
        "cuda": report.cuda.map(|((major, minor), _)| [major, minor]),
        "cuda_architectures": report.cuda.map_or(&[][..], |(_, architectures)| architectures),
        "driver": report.devices.as_ref().ok().map(|((major, minor), _)| [major, minor]),
        "driver_error": report.devices.as_ref().err().map(ToString::to_string),
        "devices": report.devices.as_ref().map_or(Vec::new(), |(_, all)| devices(all)),
    })
}
