//! Every golden checkpoint opens, and what its files say arrives in the model's sizes.

use std::path::PathBuf;

use qwen3moe::checkpoint::{Checkpoint, Kind, LayerTensor, Role, Source, Unused};
use qwen3moe::error::Error;
use qwen3moe::model::{HeadOrder, ModelSpec, check_shapes, read_config};
use qwen3moe::quant::Format;

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn cases() -> Vec<serde_json::Value> {
    let index = std::fs::read(goldens().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["cases"].as_array().unwrap().clone()
}

#[test]
fn every_golden_opens_with_all_its_fields_known_and_its_shapes_right() {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let source = Source::Path(goldens().join(case["path"].as_str().unwrap()));
        let checkpoint = Checkpoint::open(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = read_config(&checkpoint).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(report.unrecognised, Vec::<String>::new(), "{name}");
        assert_eq!(report.spec.family.name(), case["family"].as_str().unwrap(), "{name}");
        assert_eq!(report.spec.vocab as u64, case["vocab"].as_u64().unwrap(), "{name}");
        check_shapes(&checkpoint, &report.spec).unwrap_or_else(|e| panic!("{name}: {e}"));
        for tensor in checkpoint.tensors() {
            let mut last = [0u8];
            checkpoint.read(tensor, tensor.bytes - 1, &mut last).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        checkpoint.text_files().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

fn open(case: &str) -> (Checkpoint, ModelSpec) {
    let checkpoint = Checkpoint::open(&Source::Path(goldens().join(case))).unwrap();
    let spec = read_config(&checkpoint).unwrap().spec;
    (checkpoint, spec)
}

fn unused(checkpoint: &Checkpoint, reason: Unused) -> usize {
    checkpoint.unused().iter().filter(|t| t.reason == reason).count()
}

#[test]
fn sizes_are_those_of_the_config() {
    // The values of tests/goldens/configs.py and of llama.cpp's conversion rules.
    let (checkpoint, next) = open("qwen3_next_bf16");
    assert_eq!(checkpoint.kind(), Kind::HuggingFace);
    assert_eq!((next.attention.head_dim, next.attention.rope.dim, next.attention.rope.theta), (32, 8, 1e7));
    assert!(next.attention.gated && !next.attention.bias && !next.tied_head);
    let delta = next.delta.unwrap();
    assert_eq!((delta.key_heads, delta.value_heads, delta.conv_kernel), (2, 4, 4));
    assert_eq!(delta.head_order, HeadOrder::Grouped);
    assert_eq!(next.mtp_layers, 1);
    assert!(unused(&checkpoint, Unused::Mtp) > 0);

    let (checkpoint, q8) = open("qwen35moe_gguf_q8/model.gguf");
    assert_eq!(checkpoint.kind(), Kind::Gguf);
    assert_eq!(q8.delta.unwrap().head_order, HeadOrder::Tiled);
    assert_eq!(q8.mtp_layers, 1);
    assert!(unused(&checkpoint, Unused::Mtp) > 0, "the block behind the trunk");

    let (checkpoint, _) = open("qwen3_5_moe_bf16_wrapper");
    assert!(unused(&checkpoint, Unused::Vision) > 0 && unused(&checkpoint, Unused::Mtp) > 0);
}

#[test]
fn a_file_in_the_directory_stands_for_the_directory() {
    for file in ["", "config.json", "model.safetensors"] {
        open(&format!("qwen3_moe_bf16/{file}"));
    }
}

#[test]
fn only_files_of_the_model_stand_for_its_directory() {
    let folder = tempfile::tempdir().unwrap();
    let write = |case: &str| {
        for (name, contents) in crate::build::golden(case) {
            std::fs::write(folder.path().join(name), contents).unwrap();
        }
    };
    let open = |name: &str| Checkpoint::open(&Source::Path(folder.path().join(name)));
    let refused = |name: &str| match open(name).unwrap_err() {
        Error::BadFile { path, what } => {
            assert!(path.ends_with(name) && what.contains("no file of the model"), "{}: {what}", path.display());
        }
        other => panic!("{name}: {other}"),
    };
    write("qwen3_moe_bf16");
    std::fs::copy(folder.path().join("model.safetensors"), folder.path().join("adapter.safetensors")).unwrap();
    refused("adapter.safetensors");
    refused("generation_config.json");

    // With an index beside the single file, a shard stands for the index.
    write("qwen3_moe_f16_sharded_yarn");
    for name in ["model.safetensors.index.json", "model-00002-of-00003.safetensors"] {
        assert_eq!(open(name).unwrap().tensors().iter().map(|t| t.file).max(), Some(2), "{name}");
    }
    refused("adapter.safetensors");
    refused("generation_config.json");
}

#[test]
fn paths_that_lead_nowhere_are_input_output_errors() {
    for path in ["", "no/such/directory", "no/such/model.gguf", "tests/goldens"] {
        let error = Checkpoint::open(&Source::Path(path.into())).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{path}: {error}");
    }
    let error = Checkpoint::open(&Source::Path(goldens().join("weights.py"))).unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }), "{error}");
    #[cfg(unix)]
    {
        let error = Checkpoint::open(&Source::Path("/dev/zero".into())).unwrap_err();
        assert!(matches!(error, Error::BadFile { .. }), "{error}");
    }
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in crate::build::golden("qwen3_moe_bf16") {
        std::fs::write(folder.path().join(name), contents).unwrap();
    }
    let checkpoint = Checkpoint::open(&Source::Path(folder.path().to_path_buf())).unwrap();
    let last = checkpoint.tensors().last().unwrap();
    let mut bytes = vec![0; last.bytes as usize];
    checkpoint.read(last, 0, &mut bytes).unwrap();
    let weights = folder.path().join("model.safetensors");
    let file = std::fs::File::options().write(true).open(weights).unwrap();
    file.set_len(last.offset + 1).unwrap();
    let error = checkpoint.read(last, 0, &mut bytes).unwrap_err();
    assert!(error.to_string().contains("model.safetensors: ends before byte"), "{error}");
}

#[test]
fn four_bit_tensors_have_their_logical_shape() {
    let (checkpoint, spec) = open("qwen3_next_nf4");
    let output = checkpoint.require(Role::Layer(1, LayerTensor::Output)).unwrap();
    assert_eq!(output.format, Format::Bnb4);
    assert_eq!(output.shape, [spec.hidden, spec.attention.heads * spec.attention.head_dim]);
    assert_eq!(output.bytes, output.elements() / 2);
}
