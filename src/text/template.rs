//! Chat templates: the messages of a chat into the one text that a model continues.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::Tokenizer;
use super::quoting::{mark_special, take_marks, unused_mark};
use super::sandbox::{self, Fault, MAX_SOURCE};
use crate::error::{Error, Result};

/// A model's own chat template, in Jinja as `transformers` runs it: `trim_blocks`, `lstrip_blocks`, loop controls,
/// `raise_exception`, `strftime_now`, Python's string methods and `tojson` by `json.dumps`.
///
/// A template comes with a model file and is not trusted. It runs on a thread of its own with a large stack, and the size
/// of its tags, the instructions it runs, the bytes of all texts and lists it makes, the depth of its values and its time
/// (10 seconds) are bounded: one that wants more is an error. It can reach nothing but its arguments and the clock. The filter
/// and method `format` are missing, and namespaces keep neither functions nor other namespaces. What one may take is
/// considerable: 64 MiB and sixty-four times the chat's own size of memory; and time is looked at between operations, of
/// which one on texts of that size can take seconds.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    path: PathBuf,
    special: Vec<(String, u32)>,
    named: Vec<(&'static str, String)>,
}

/// A chat as text. [`Tokenizer::encode_chat`] makes ids of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    text: String,
    quoted: Vec<usize>,
}

impl RenderedChat {
    /// The text, exactly as `transformers` renders it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Places inside of special tokens that come from messages, and not from the template; ascending.
    pub(super) fn quoted(&self) -> &[usize] {
        &self.quoted
    }
}

impl ChatTemplate {
    /// Checks the template `source` of the model at `path`. The tokenizer gives it `bos_token` and so on, and the special
    /// tokens that messages cannot forge.
    ///
    /// # Errors
    /// [`Error::BadFile`] with the line where it is no template.
    pub fn new(path: &Path, source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let what = format!("the chat template has {} bytes, expected {MAX_SOURCE} at most", source.len());
            return Err(Error::bad_file(path, what));
        }
        sandbox::check(source)
            .map_err(|fault| failed(path, fault, |what| Error::bad_file(path, format!("chat template: {what}"))))?;
        Ok(Self {
            source: source.to_owned(),
            path: path.to_owned(),
            special: tokenizer.special_tokens().to_vec(),
            named: tokenizer.named_tokens().to_vec(),
        })
    }

    /// The error of a model that comes without a template.
    pub fn missing(path: &Path) -> Error {
        Error::unsupported(path, "a chat, because the model has no chat template; a plain prompt is supported")
    }

    /// Renders a chat.
    ///
    /// `chat` is a JSON array of messages, `[{"role": "user", "content": "Hello"}]`, or an object
    /// `{"messages": [...], "tools": [...], "add_generation_prompt": true, "enable_thinking": false, ...}`, of which all
    /// but `messages` may be absent; further members reach the template as variables. `add_generation_prompt` is true
    /// unless said otherwise. Messages are passed on as they are: a `content` of several text parts,
    /// `tool_calls` and `reasoning_content` are the template's affair.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where `chat` is not that, or the template refuses it; [`Error::BadFile`] where the
    /// template takes too long or writes too much.
    pub fn render(&self, chat: &str) -> Result<RenderedChat> {
        let mut variables = parse(chat)?;
        let messages = variables.get("messages").and_then(Json::as_array).map_or(0, Vec::len);

        let mut variables_value = Json::Object(std::mem::take(&mut variables));
        let Some(mark) = unused_mark(&variables_value) else {
            let what = "the messages use every noncharacter from U+FDD0 to U+FDEF, of which rendering needs one";
            return Err(Error::InvalidArgument(what.into()));
        };
        let marked = mark_special(&mut variables_value, &self.special, mark);
        let Json::Object(mut variables) = variables_value else {
            return Err(Error::Internal("a chat's variables are no object".into()));
        };
        for (name, token) in &self.named {
            variables.entry(*name).or_insert_with(|| Json::String(token.clone()));
        }

        let rendered = sandbox::render(&self.source, &variables, chat.len(), messages).map_err(|fault| {
            failed(&self.path, fault, |what| {
                Error::InvalidArgument(format!("the model's chat template fails on the chat: {what}"))
            })
        })?;
        let (text, quoted) = if marked { take_marks(&rendered, mark) } else { (rendered, Vec::new()) };
        Ok(RenderedChat { text, quoted })
    }
}

fn failed(path: &Path, fault: Fault, other: impl FnOnce(String) -> Error) -> Error {
    match fault {
        Fault::Raised(message) => {
            Error::InvalidArgument(format!("the model's chat template refuses the chat: {message}"))
        }
        Fault::Exhausted(what) => {
            Error::bad_file(path, format!("chat template: it takes more than a chat can need: {what}"))
        }
        Fault::Failed(what) => other(what),
        Fault::Internal(what) => Error::Internal(what),
    }
}

/// The variables of a chat, with those that `transformers` always sets.
fn parse(chat: &str) -> Result<Map<String, Json>> {
    let invalid = |what: String| Error::InvalidArgument(what);
    let value: Json = serde_json::from_str(chat).map_err(|e| invalid(format!("the chat is not valid JSON: {e}")))?;
    let mut variables = match value {
        Json::Array(messages) => Map::from_iter([("messages".to_owned(), Json::Array(messages))]),
        Json::Object(variables) => variables,
        _ => return Err(invalid("the chat is neither an array of messages nor an object with one".into())),
    };
    let messages = match variables.get("messages") {
        Some(Json::Array(messages)) => messages,
        Some(_) => return Err(invalid("\"messages\" of the chat is not an array".into())),
        None => return Err(invalid("the chat has no \"messages\"".into())),
    };
    if messages.is_empty() {
        return Err(invalid("the chat has no message".into()));
    }
    for (i, message) in messages.iter().enumerate() {
        let Json::Object(message) = message else {
            return Err(invalid(format!("message {i} of the chat is not an object with a \"role\" and a \"content\"")));
        };
        match message.get("role") {
            Some(Json::String(_)) => {}
            Some(other) => {
                return Err(invalid(format!("message {i} of the chat has the role {other}, expected a string")));
            }
            None => return Err(invalid(format!("message {i} of the chat has no \"role\""))),
        }
        for part in message.get("content").and_then(Json::as_array).into_iter().flatten() {
            if let Some(kind) = other_than_text(part) {
                let what = format!("message {i} of the chat has a part of the type {kind}; supported: \"text\"");
                return Err(invalid(what));
            }
        }
    }
    if !matches!(variables.get("tools"), None | Some(Json::Null | Json::Array(_))) {
        return Err(invalid("\"tools\" of the chat is not an array".into()));
    }
    variables.entry("tools").or_insert(Json::Null);
    variables.entry("documents").or_insert(Json::Null);
    variables.entry("add_generation_prompt").or_insert(Json::Bool(true));
    Ok(variables)
}

/// What a part of a message is, where it is no text. Templates of multimodal models would write a place for it that
/// nothing fills.
fn other_than_text(part: &Json) -> Option<String> {
    match part.get("type") {
        None => {
            ["image", "image_url", "video", "audio"].into_iter().find(|kind| part.get(kind).is_some()).map(String::from)
        }
        Some(Json::String(kind)) if kind == "text" => None,
        Some(kind) => Some(kind.to_string()),
    }
}
