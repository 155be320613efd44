//! Chat templates: the messages of a chat into the one text that a model continues.

use std::io;
use std::path::{Path, PathBuf};

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

use super::Tokenizer;
use super::python;
use super::quoting::{mark_special, take_marks, unused_mark};
use crate::error::{Error, Result};

/// Longest template accepted; those of the Qwen family have 4 to 10 KiB.
const MAX_SOURCE: usize = 1 << 20;
/// Depth of nested macros and loops.
const MAX_RECURSION: usize = 100;
/// Instructions that a rendering may take: some, and more for each message and each byte of input. Qwen3's template takes
/// less than 200 a message.
const FUEL: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
const FUEL_PER_BYTE: u64 = 4;
/// Bytes that a rendering may give beyond sixteen times its input.
const MAX_OUTPUT: usize = 16 << 20;
/// Kind given to errors that the template itself raises, so that they can be told from its faults.
const RAISED: &str = "raise_exception: ";

/// A model's own chat template, in Jinja as `transformers` runs it: `trim_blocks`, `lstrip_blocks`, loop controls,
/// `raise_exception`, `strftime_now`, Python's string methods and `tojson` by `json.dumps`.
///
/// A template comes with a model file and is not trusted: the instructions it may run, its depth and its output are
/// bounded, and it can reach nothing but its arguments and the clock. Not bounded are strings that it builds and does not
/// write: one that doubles a string again and again can take all memory.
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
        environment(0)
            .template_from_named_str("chat_template", source)
            .map_err(|e| Error::bad_file(path, format!("chat template: {}", describe(&e))))?;
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

        let fuel = FUEL + FUEL_PER_MESSAGE * messages as u64 + FUEL_PER_BYTE * chat.len() as u64;
        let environment = environment(fuel);
        let mut out = Bounded { bytes: Vec::new(), left: MAX_OUTPUT.saturating_add(chat.len().saturating_mul(16)) };
        environment
            .template_from_named_str("chat_template", &self.source)
            .and_then(|template| template.render_captured_to(&variables, &mut out).map(drop))
            .map_err(|e| self.failed(&e))?;
        let rendered =
            String::from_utf8(out.bytes).map_err(|e| Error::Internal(format!("a template's output: {e}")))?;

        let (text, quoted) = if marked { take_marks(&rendered, mark) } else { (rendered, Vec::new()) };
        Ok(RenderedChat { text, quoted })
    }

    fn failed(&self, error: &minijinja::Error) -> Error {
        let bad = |what: &str| Error::bad_file(&self.path, format!("chat template: {what}"));
        match error.kind() {
            ErrorKind::OutOfFuel => bad("it takes more instructions than such a chat can need"),
            ErrorKind::WriteFailure => bad("it writes more than such a chat can need"),
            _ => match raised(error) {
                Some(message) => {
                    Error::InvalidArgument(format!("the model's chat template refuses the chat: {message}"))
                }
                None => {
                    Error::InvalidArgument(format!("the model's chat template fails on the chat: {}", describe(error)))
                }
            },
        }
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

fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_fuel(Some(fuel));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None => Ok(out.write_str(&python::str(value))?),
    });
    environment.add_filter("string", |value: Value| match value.as_str() {
        Some(_) => value,
        None => Value::from(python::str(&value)),
    });
    environment.add_filter("tojson", |value: Value, options| python::tojson(&value, options));
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// The local time by the format of `strftime`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    use std::fmt::Write;
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown format {format:?}"))
    })?;
    Ok(out)
}

/// The message of `raise_exception`, where that is the cause.
fn raised(error: &minijinja::Error) -> Option<&str> {
    let mut error = error;
    loop {
        if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
            return Some(message);
        }
        error = std::error::Error::source(error)?.downcast_ref()?;
    }
}

/// What, and in which line.
fn describe(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// Refuses to take more than `left` bytes.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("too much output"))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
