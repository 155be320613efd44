//! What the text side needs: tokenizer, chat template, end-of-sequence ids.

use serde_json::Value as Json;

use super::folder::Folder;
use super::gguf::Value;
use super::{Checkpoint, Config, GgufSampling, GgufTokenizer, Metadata, TextFiles};
use crate::error::{Error, Result};

/// Bytes of tokenizer.json at most. The largest published is 20 MB.
const MAX_TOKENIZER: u64 = 1 << 26;

/// Bytes of the other files at most: as parsed JSON they take up to 30 times as much. The largest published take 1 MB.
const MAX_TEXT: u64 = 1 << 22;

/// Value of `tokenizer.ggml.token_type` for a control token.
const CONTROL: i32 = 3;

/// Control tokens that end a generation whatever ids the metadata names, as in llama.cpp (`llama-vocab.cpp`,
/// `special_eog_ids`): a chat model ends a turn by one and a text by another, and `eos_token_id` names one of them.
const ENDS: [&str; 9] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "_<EOT>",
];

/// Reads what `checkpoint` carries.
pub(super) fn read(checkpoint: &Checkpoint) -> Result<TextFiles> {
    match &checkpoint.config {
        Config::Gguf(metadata) => from_metadata(metadata),
        Config::Json { path, fields } => {
            let mut files = from_folder(&checkpoint.folder)?;
            if files.eos_ids.is_empty() {
                let text = fields.get("text_config").and_then(|t| t.get("eos_token_id"));
                let id = text.or_else(|| fields.get("eos_token_id"));
                files.eos_ids = eos_ids(id, |what| Error::bad_file(path, what))?;
            }
            Ok(files)
        }
    }
}

fn from_folder(folder: &Folder) -> Result<TextFiles> {
    let mut files = TextFiles {
        tokenizer_json: folder.read("tokenizer.json", MAX_TOKENIZER)?,
        tokenizer_config: folder.read("tokenizer_config.json", MAX_TEXT)?,
        generation_config: folder.read("generation_config.json", MAX_TEXT)?,
        ..TextFiles::default()
    };
    files.chat_template = chat_template(folder, files.tokenizer_config.as_deref())?;
    if let Some(bytes) = &files.generation_config {
        let bad = |what: String| Error::bad_file(folder.path_of("generation_config.json"), what);
        let config: Json = serde_json::from_slice(bytes).map_err(|e| bad(format!("is no JSON: {e}")))?;
        files.eos_ids = eos_ids(config.get("eos_token_id"), bad)?;
    }
    Ok(files)
}

/// In the order in which transformers prefers them: the file of its own, then the field.
fn chat_template(folder: &Folder, tokenizer_config: Option<&[u8]>) -> Result<Option<String>> {
    const FILE: &str = "chat_template.jinja";
    if let Some(bytes) = folder.read(FILE, MAX_TEXT)? {
        let text = String::from_utf8(bytes).map_err(|_| Error::bad_file(folder.path_of(FILE), "is no UTF-8"))?;
        return Ok(Some(text));
    }
    let older = folder.read("chat_template.json", MAX_TEXT)?;
    for (name, bytes) in [("chat_template.json", older.as_deref()), ("tokenizer_config.json", tokenizer_config)] {
        let Some(bytes) = bytes else { continue };
        let bad = |what: String| Error::bad_file(folder.path_of(name), what);
        let config: Json = serde_json::from_slice(bytes).map_err(|e| bad(format!("is no JSON: {e}")))?;
        match config.get("chat_template") {
            None | Some(Json::Null) => {}
            Some(Json::String(text)) => return Ok(Some(text.clone())),
            // Several templates, each {"name", "template"}: transformers takes the one called "default".
            Some(Json::Array(list)) => {
                let default = list.iter().find(|t| t.get("name").is_some_and(|n| n == "default"));
                let text = default.and_then(|t| t.get("template")).and_then(Json::as_str);
                return Ok(text.map(str::to_string));
            }
            Some(_) => return Err(bad("chat_template must be a string or a list of templates".into())),
        }
    }
    Ok(None)
}

fn eos_ids(value: Option<&Json>, bad: impl Fn(String) -> Error) -> Result<Vec<u32>> {
    let id = |v: &Json| {
        let id = v.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| bad(format!("eos_token_id holds {v}, where a token id must be")))
    };
    match value {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(ids)) => ids.iter().map(id).collect(),
        Some(one) => Ok(vec![id(one)?]),
    }
}

fn from_metadata(metadata: &Metadata) -> Result<TextFiles> {
    let token = |name: &str| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        let id = metadata.unsigned(&key)?;
        id.map(|id| u32::try_from(id).map_err(|_| metadata.bad(&key, "a token id"))).transpose()
    };
    let mut eos_ids = Vec::new();
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        eos_ids.extend(token(name)?.filter(|id| !eos_ids.contains(id)));
    }
    let text = |key: &str| metadata.string(key).map(|t| t.unwrap_or_default().to_string());
    let list = |key: &str| metadata.strings(key).map(|t| t.unwrap_or_default().to_vec());
    let gguf = match metadata.get("tokenizer.ggml.model") {
        None => None,
        Some(_) => Some(GgufTokenizer {
            model: text("tokenizer.ggml.model")?,
            pre: text("tokenizer.ggml.pre")?,
            tokens: list("tokenizer.ggml.tokens")?,
            types: token_types(metadata)?,
            merges: list("tokenizer.ggml.merges")?,
            bos_id: token("bos_token_id")?,
            eos_id: token("eos_token_id")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        }),
    };
    if let Some(gguf) = &gguf {
        for (id, (token, kind)) in (0..).zip(gguf.tokens.iter().zip(&gguf.types)) {
            if *kind == CONTROL && ENDS.contains(&token.as_str()) && !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
    }
    let chat_template = metadata.string("tokenizer.chat_template")?.map(str::to_string);
    let gguf_sampling = sampling(metadata)?;
    Ok(TextFiles { gguf, gguf_sampling, eos_ids, chat_template, ..TextFiles::default() })
}

/// The defaults that llama.cpp takes from a file too (`llama_model_meta_key`).
fn sampling(metadata: &Metadata) -> Result<GgufSampling> {
    let number = |name: &str| metadata.float(&format!("general.sampling.{name}"));
    const TOP_K: &str = "general.sampling.top_k";
    let top_k = match metadata.get(TOP_K) {
        None => None,
        Some(Value::Signed(k)) => Some(*k),
        Some(Value::Unsigned(k)) => Some(i64::try_from(*k).map_err(|_| metadata.bad(TOP_K, "a number of tokens"))?),
        Some(_) => return Err(metadata.bad(TOP_K, "an integer")),
    };
    Ok(GgufSampling {
        temperature: number("temp")?,
        top_k,
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
    })
}

fn token_types(metadata: &Metadata) -> Result<Vec<i32>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = metadata.integers(KEY)?.unwrap_or_default();
    types.iter().map(|&t| i32::try_from(t).map_err(|_| metadata.bad(KEY, "small integers"))).collect()
}
