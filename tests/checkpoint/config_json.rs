//! Fields of config.json: honoured, or refused by name.

use qwen3moe::model::{FeedForward, Mixer, ModelSpec, RopeScaling};
use serde_json::{Value, json};

use crate::build::{get, golden, put, read_all, refused};

/// The golden `case` with fields of its config replaced; `null` removes the field.
fn with(case: &str, fields: Value) -> Vec<(String, Vec<u8>)> {
    let mut files = golden(case);
    let mut config: Value = serde_json::from_slice(&get(&files, "config.json")).unwrap();
    for (field, value) in fields.as_object().unwrap() {
        let target = field.split('.').fold(&mut config, |at, name| &mut at[name]);
        *target = value.clone();
    }
    put(&mut files, "config.json", config.to_string().into_bytes());
    files
}

fn spec(case: &str, fields: Value) -> ModelSpec {
    read_all(with(case, fields)).unwrap().spec
}

const MOE: &str = "qwen3_moe_bf16";
const NEXT: &str = "qwen3_next_bf16";
const WRAPPED: &str = "qwen3_5_moe_bf16_wrapper";

#[test]
fn absurd_sizes_are_refused_with_field_value_and_expectation() {
    for field in [
        "hidden_size",
        "vocab_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "max_position_embeddings",
        "linear_num_key_heads",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
    ] {
        for value in [json!(0), json!(-1), json!(1e300), json!(u64::MAX), json!(2.5), json!("many"), json!([1])] {
            refused(with(NEXT, json!({field: value})), &["config.json", field, &value.to_string(), "expected"]);
        }
        refused(with(NEXT, json!({field: null})), &["config.json", field, "expected"]);
    }
    for (field, value) in [
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(-1e-6)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(-5)),
        ("partial_rotary_factor", json!(0)),
        ("partial_rotary_factor", json!(1.5)),
        ("head_dim", json!(1 << 20)),
        ("full_attention_interval", json!(0)),
        ("decoder_sparse_step", json!(0)),
        ("mlp_only_layers", json!([99])),
        ("mlp_only_layers", json!("none")),
        ("layer_types", json!(["full_attention"])),
        ("tie_word_embeddings", json!("no")),
        ("eos_token_id", json!("</s>")),
    ] {
        let mut files = with(NEXT, json!({field: value}));
        files.retain(|f| f.0 != "generation_config.json");
        refused(files, &["config.json", field]);
    }
}

#[test]
fn sizes_must_agree_with_each_other_and_with_the_tensors() {
    refused(with(MOE, json!({"num_key_value_heads": 4})), &["num_key_value_heads is 4", "num_attention_heads"]);
    refused(with(MOE, json!({"num_experts_per_tok": 8})), &["num_experts_per_tok is 8", "num_experts"]);
    refused(with(MOE, json!({"hidden_size": 50})), &["model.embed_tokens.weight", "expected", "hidden_size"]);
    refused(with(MOE, json!({"vocab_size": 300})), &["model.embed_tokens.weight", "vocab_size"]);
    refused(with(MOE, json!({"num_hidden_layers": 1})), &["model.layers.1", "no place", "num_hidden_layers"]);
    refused(with(MOE, json!({"num_hidden_layers": 3})), &["model.layers.2", "missing"]);
    refused(with(NEXT, json!({"linear_num_value_heads": 3})), &["linear_num_value_heads", "multiple"]);
    refused(with(NEXT, json!({"head_dim": 36})), &["rotary dimensions", "9"]);
    refused(with(NEXT, json!({"full_attention_interval": 2})), &["missing"]);
    refused(with(NEXT, json!({"mlp_only_layers": [0]})), &["model.layers.0.mlp.gate_proj.weight is missing"]);
}

#[test]
fn computations_that_are_not_done_are_refused_by_name() {
    for (case, field, value) in [
        (MOE, "model_type", json!("llama")),
        (MOE, "model_type", json!("qwen3_5_moe")),
        (MOE, "hidden_act", json!("gelu")),
        (MOE, "use_sliding_window", json!(true)),
        (MOE, "is_encoder_decoder", json!(true)),
        (MOE, "per_layer_config", json!({"0": {"num_experts": 2}})),
        (MOE, "layer_types", json!(["full_attention", "linear_attention"])),
        (MOE, "layer_types", json!(["full_attention", "sliding_attention"])),
        (MOE, "partial_rotary_factor", json!(0.5)),
        (MOE, "attn_output_gate", json!(true)),
        (NEXT, "attn_output_gate", json!(false)),
        (NEXT, "output_gate_type", json!("sigmoid")),
        (NEXT, "mamba_ssm_dtype", json!("bfloat16")),
        (NEXT, "rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0})),
        (NEXT, "rope_scaling", json!({"type": "longrope", "factor": 2.0})),
        (NEXT, "rope_scaling", json!({"rope_type": "llama3", "factor": 2.0})),
        (WRAPPED, "text_config.norm_topk_prob", json!(false)),
        (WRAPPED, "text_config.decoder_sparse_step", json!(2)),
        (WRAPPED, "text_config.mlp_only_layers", json!([0])),
        (WRAPPED, "text_config.model_type", json!("qwen4")),
    ] {
        let name = field.rsplit('.').next().unwrap();
        let word = if name == "rope_scaling" {
            "rope_scaling."
        } else if value == json!("qwen3_5_moe") {
            "text_config"
        } else {
            name
        };
        refused(with(case, json!({field: value})), &["config.json", word]);
    }
}

#[test]
fn computations_of_other_families_are_refused_by_name() {
    for (field, value, harmless) in [
        ("use_qk_norm", json!(false), json!(true)),
        ("qk_layernorm", json!(false), json!(true)),
        ("router_logit_softcap", json!(30), json!(null)),
        ("attn_logit_softcapping", json!(50.0), json!(0)),
        ("final_logit_softcapping", json!(30.0), json!(0.0)),
        ("rope_interleaved", json!(true), json!(false)),
        ("use_attention_sinks", json!(true), json!(false)),
        ("no_rope_layers", json!([0, 1]), json!([])),
        ("routed_scaling_factor", json!(2.5), json!(1.0)),
        ("n_group", json!(8), json!(1)),
        ("scoring_func", json!("sigmoid"), json!("softmax")),
        ("attention_multiplier", json!(0.0078125), json!(null)),
        ("logits_scaling", json!("x"), json!(1)),
    ] {
        refused(with(MOE, json!({field: value})), &["config.json", "not supported", field, &value.to_string()]);
        let report = read_all(with(MOE, json!({field: harmless}))).unwrap();
        assert_eq!(report.unrecognised, Vec::<String>::new(), "{field}");
    }
    refused(with(WRAPPED, json!({"use_qk_norm": false})), &["not supported", "use_qk_norm is false"]);
    refused(with(WRAPPED, json!({"text_config.use_qk_norm": false})), &["text_config.use_qk_norm is false"]);
    let rope = json!({"rope_scaling": {"rope_type": "default", "rope_interleaved": true}});
    refused(with(MOE, rope), &["rope_scaling.rope_interleaved is true"]);
}

#[test]
fn both_spellings_of_the_rotary_fields_work_and_must_agree() {
    let old = spec(NEXT, json!({})).attention.rope;
    let parameters = json!({"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25});
    let new = json!({"rope_theta": null, "partial_rotary_factor": null, "rope_parameters": parameters});
    assert_eq!(spec(NEXT, new).attention.rope, old);
    assert_eq!(spec(NEXT, json!({"rope_parameters": parameters})).attention.rope, old);

    let other = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}});
    refused(with(NEXT, other), &["rope_theta", "the other spelling"]);
    let kinds = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_scaling": {"type": "yarn"}});
    refused(with(NEXT, kinds), &["the other spelling"]);
    let kinds = json!({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}});
    refused(with(NEXT, kinds), &["rope_scaling.type", "'linear', as rope_type says"]);
}

#[test]
fn yarn_takes_the_reference_defaults_and_attention_factor() {
    let scaling = |fields: Value| spec(NEXT, json!({"rope_scaling": fields})).attention.rope.scaling;
    let context = 1024;
    let yarn = |factor: f64, beta_fast, beta_slow, attention_factor, original_context| RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast,
        beta_slow,
        attention_factor,
        truncate: true,
    };
    // 0.1 ln 4 + 1 and its variants, by _compute_yarn_parameters of transformers 5.17.
    let plain = 1.138_629_436_111_989;
    let fields = json!({"rope_type": "yarn", "factor": 4.0});
    assert_eq!(scaling(fields), yarn(4.0, 32.0, 1.0, plain, context));
    let fields = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 16});
    assert_eq!(scaling(fields), yarn(4.0, 16.0, 1.0, plain, 256));
    let fields = json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_slow": 0});
    assert_eq!(scaling(fields), yarn(4.0, 32.0, 1.0, 1.5, context));
    let fields = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0});
    assert_eq!(scaling(fields), yarn(4.0, 32.0, 1.0, 1.0, context));
    let fields = json!({"rope_type": "yarn", "original_max_position_embeddings": 512});
    assert_eq!(scaling(fields), yarn(2.0, 32.0, 1.0, 0.1 * 2.0f64.ln() + 1.0, 512));

    let refuse = |fields: Value, words: &[&str]| refused(with(NEXT, json!({"rope_scaling": fields})), words);
    refuse(json!({"rope_type": "yarn", "factor": -1}), &["rope_scaling.factor is -1"]);
    refuse(json!({"rope_type": "linear"}), &["rope_scaling.factor is missing"]);
    refuse(json!({"rope_type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}), &["beta_fast is 1"]);
    refuse(json!({"rope_type": "yarn", "factor": 2, "attention_factor": 0}), &["attention_factor is 0"]);
    refuse(json!({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0}), &["original_max"]);
}

#[test]
fn yarn_extends_the_context_and_linear_scaling_does_not() {
    let context = |fields: Value| spec(NEXT, json!({"rope_scaling": fields})).context_length;
    // max_position_embeddings is 1024. As the model cards of Qwen3 advise: factor 4 over the training's context.
    let original = |n: u64| json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": n});
    assert_eq!(context(original(1024)), 4096);
    assert_eq!(context(original(819)), 3276);
    assert_eq!(context(original(100)), 1024);
    assert_eq!(context(json!({"rope_type": "yarn", "factor": 1.5})), 1536);
    assert_eq!(context(json!({"rope_type": "yarn", "factor": 1e6, "original_max_position_embeddings": 1e9})), 1 << 30);
    assert_eq!(context(json!({"rope_type": "linear", "factor": 4.0})), 1024);
}

#[test]
fn yarn_parameters_that_have_no_finite_frequencies_are_refused() {
    let refuse = |fields: Value, words: &[&str]| refused(with(NEXT, fields), words);
    let yarn = |beta: &str, value: f64| json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, beta: value}});
    let theta = json!({"rope_theta": 1.000_000_1, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}});
    refuse(theta, &["rope_theta is 1.0000001", "from 2 on"]);
    refuse(yarn("beta_slow", 1e-320), &["beta_slow is", "from 0.001"]);
    refuse(yarn("beta_fast", 1e300), &["beta_fast is", "to 1e6"]);
}

#[test]
fn layer_kinds_follow_the_list_or_the_interval() {
    let attention = |spec: &ModelSpec| spec.layers.iter().map(|l| l.mixer == Mixer::Attention).collect::<Vec<_>>();
    assert_eq!(attention(&spec(NEXT, json!({}))), [false, false, false, true]);
    let types = json!(["linear_attention", "linear_attention", "linear_attention", "full_attention"]);
    assert_eq!(
        attention(&spec(NEXT, json!({"layer_types": types, "full_attention_interval": null}))),
        [false, false, false, true]
    );
    assert_eq!(attention(&spec(NEXT, json!({"layer_types": types}))), [false, false, false, true]);
    let contradiction = json!({"layer_types": types, "full_attention_interval": 3});
    refused(with(NEXT, contradiction), &["full_attention_interval is 3", "layer_types"]);

    let yarn = spec("qwen3_moe_f16_sharded_yarn", json!({}));
    let moe: Vec<bool> = yarn.layers.iter().map(|l| l.feed_forward == FeedForward::Moe).collect();
    let config: Value = serde_json::from_slice(&get(&golden("qwen3_moe_f16_sharded_yarn"), "config.json")).unwrap();
    let only: Vec<u64> = config["mlp_only_layers"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    let step = config["decoder_sparse_step"].as_u64().unwrap();
    let expected: Vec<bool> = (0..moe.len() as u64).map(|i| (i + 1) % step == 0 && !only.contains(&i)).collect();
    assert_eq!(moe, expected);
    assert!(yarn.attention.bias && yarn.tied_head);
}

#[test]
fn router_normalisation_has_the_default_of_each_family() {
    let normalise = |case, fields| spec(case, fields).moe.unwrap().normalise_top_k;
    assert!(!normalise(MOE, json!({"norm_topk_prob": null})));
    assert!(normalise(MOE, json!({"norm_topk_prob": true})));
    assert!(normalise(NEXT, json!({"norm_topk_prob": null})));
    assert!(!normalise(NEXT, json!({"norm_topk_prob": false})));
    assert!(normalise(WRAPPED, json!({})));
}

#[test]
fn experts_may_be_counted_by_the_name_of_transformers_5() {
    let moe = spec(MOE, json!({"num_experts": null, "num_local_experts": 6})).moe.unwrap();
    assert_eq!(moe.experts, 6);
    refused(with(MOE, json!({"num_local_experts": 8})), &["num_local_experts is 8", "6, as num_experts says"]);
}

#[test]
fn the_wrapper_and_its_text_must_agree() {
    refused(with(WRAPPED, json!({"text_config": null})), &["text_config is null", "an object"]);
    refused(with(WRAPPED, json!({"text_config": 3})), &["text_config is 3"]);
    refused(
        with(WRAPPED, json!({"tie_word_embeddings": true, "text_config.tie_word_embeddings": false})),
        &["tie_word_embeddings is true", "text_config"],
    );
    refused(
        with(WRAPPED, json!({"text_config.rope_parameters.mrope_section": [2, 1, 2]})),
        &["mrope_section is [2,1,2]", "add up to"],
    );
}

#[test]
fn a_head_in_the_file_is_used_even_where_the_config_ties_it() {
    assert!(!spec(MOE, json!({"tie_word_embeddings": true})).tied_head);
}

#[test]
fn fields_nobody_knows_are_reported_and_harmless() {
    let report = read_all(with(MOE, json!({"frobnicate": 1, "rope_scaling": {"rope_type": "default", "x": 1}})));
    assert_eq!(report.unwrap().unrecognised, ["rope_scaling.x", "frobnicate"]);
}

#[test]
fn a_config_that_is_no_object_is_refused() {
    for text in ["", "[]", "{", "nul", "{\"a\": NaN}", &"[".repeat(100_000)] {
        let mut files = golden(MOE);
        put(&mut files, "config.json", text.as_bytes().to_vec());
        refused(files, &["config.json", "is no JSON object"]);
    }
    let mut files = golden(MOE);
    files.retain(|f| f.0 != "config.json");
    refused(files, &["config.json", "no such file"]);
}
