//! Runs a template that nobody vouches for, so that it can neither exhaust the stack nor the memory, nor run for ever.
//!
//! `minijinja` counts instructions, which bounds neither what one instruction makes nor how deep values nest. So the
//! compiled instructions are rewritten before they run: what makes a text (`~`, `+`, `*`, slices, output, also into
//! `{% set %}` blocks and macros) goes through filters that charge its bytes to a budget, and what keeps a value (`{% set %}`,
//! loop variables, arguments of macros, attributes of namespaces) goes through one that measures the value. Filters
//! and methods are charged alike. What recurses over values (printing, comparing, dropping) then has a bounded depth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, Vm, WhitespaceConfig, make_string_output,
    tokenize,
};
use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, filters};

use super::python;

/// Longest template accepted; those of the Qwen family have 4 to 10 KiB.
pub(super) const MAX_SOURCE: usize = 128 << 10;
/// Tokens of one tag, and `elif`s of a template: the parser and the compiler recurse over both.
const MAX_TAG_TOKENS: usize = 1000;
const MAX_ELIFS: usize = 500;
/// Bytes that the constants of a template may fold to.
const MAX_FOLDED: f64 = (1 << 20) as f64;
/// Depth of nested macros and loops.
const MAX_RECURSION: usize = 100;
/// Depth of a value that is kept. What is not kept is deeper by less than [`MAX_TAG_TOKENS`].
const MAX_DEPTH: usize = 200;
/// Largest width or count that a filter takes.
const MAX_WIDTH: usize = 4096;
/// Instructions that a rendering may take: some, and more for each message and each byte of input. Qwen3's template takes
/// less than 300 a message.
const FUEL: u64 = 300_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
const FUEL_PER_BYTE: u64 = 4;
/// Bytes of text and lists that a rendering may make in all, and more for each byte of input.
const BYTES: u64 = 64 << 20;
const BYTES_PER_BYTE: u64 = 64;
/// Bytes charged for a value in a list or map.
const BYTES_PER_VALUE: u64 = 32;
/// Rendering takes milliseconds.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Bytes of stack for a tag of [`MAX_TAG_TOKENS`] and a value of as many levels, with room.
const STACK: usize = 64 << 20;

/// Kind given to errors that the template itself raises, so that they can be told from its faults.
const RAISED: &str = "raise_exception: ";
/// And to those of a template that asks for too much.
const EXHAUSTED: &str = "too much: ";

const KEEP: &str = "keep:local";
const KEEP_ATTRIBUTE: &str = "keep:attribute";
/// Stands for no slot in the cache of filters.
const UNCACHED: u8 = !0;

/// Why a template did not render.
pub(super) enum Fault {
    /// By its own `raise_exception`.
    Raised(String),
    /// It takes more instructions, memory or time than a chat can need.
    Exhausted(String),
    /// An error in the template or in what it was given.
    Failed(String),
    /// No thread to render on, or a panic.
    Internal(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::OutOfFuel {
            return Fault::Exhausted("instructions".into());
        }
        if let Some(what) = detail_after(&error, EXHAUSTED) {
            return Fault::Exhausted(what.to_owned());
        }
        match detail_after(&error, RAISED) {
            Some(message) => Fault::Raised(message.to_owned()),
            None => Fault::Failed(describe(&error)),
        }
    }
}

/// Whether `source` is a template, and one of a size that can be compiled.
pub(super) fn check(source: &str) -> Result<(), Fault> {
    on_large_stack(|| {
        scan(source)?;
        compile(source)?;
        Ok(())
    })
}

/// What `source` makes of `variables`, read from `input_bytes` bytes with `messages` messages.
pub(super) fn render(
    source: &str,
    variables: &serde_json::Map<String, serde_json::Value>,
    input_bytes: usize,
    messages: usize,
) -> Result<String, Fault> {
    on_large_stack(|| {
        let (input, messages) = (input_bytes as u64, messages as u64);
        let budget = Arc::new(Budget {
            left: AtomicU64::new(BYTES + BYTES_PER_BYTE * input),
            largest: BYTES + BYTES_PER_BYTE * input,
            end: Instant::now() + MAX_TIME,
        });
        let environment = environment(FUEL + FUEL_PER_MESSAGE * messages + FUEL_PER_BYTE * input, &budget);
        let (instructions, blocks) = compile(source)?;
        let mut text = String::new();
        let root = Value::from_serialize(variables);
        let mut output = make_string_output(&mut text);
        Vm::new(&environment).eval(&instructions, root, &blocks, &mut output, AutoEscape::None)?;
        Ok(text)
    })
}

/// Runs `work` on a thread of its own: hosts call from threads with stacks of any size.
fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Fault> + Send) -> Result<T, Fault> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("qm-template".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Fault::Internal(format!("no thread for the chat template: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(Fault::Internal("a chat template made its engine panic".into())))
    })
}

const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

/// Refuses tags over which the parser, the compiler or the folding of constants would take too much.
fn scan(source: &str) -> Result<(), Fault> {
    let too_much = |line: u16, what: &str| Err(Fault::Exhausted(format!("line {line}: {what}")));
    let (mut elifs, mut folded) = (0, 0.0);
    let mut tag = Tag::default();
    for token in tokenize(source, false, Default::default(), WHITESPACE) {
        let (token, span) = token?;
        tag.tokens += 1;
        match token {
            Token::VariableStart | Token::BlockStart => tag = Tag::default(),
            Token::VariableEnd | Token::BlockEnd if tag.multiplies && tag.repeatable => {
                folded += tag.product;
                if tag.divides || folded > MAX_FOLDED {
                    return too_much(span.start_line, "a multiplication of texts or lists");
                }
            }
            Token::Ident("elif") => elifs += 1,
            Token::Ident("true" | "True") => tag.product *= 3.0,
            Token::Str(text) => tag.text(text.len()),
            Token::String(text) => tag.text(text.len()),
            Token::BracketOpen | Token::BraceOpen => tag.text(1),
            Token::Int(number) => tag.product *= number as f64 + 2.0,
            Token::Int128(number) => tag.product *= *number as f64 + 2.0,
            Token::Float(number) => tag.product *= number + 2.0,
            Token::Mul => tag.multiplies = true,
            Token::Div | Token::FloorDiv | Token::Pow => tag.divides = true,
            _ => {}
        }
        if tag.tokens > MAX_TAG_TOKENS {
            return too_much(span.start_line, "tokens in one tag");
        }
        if elifs > MAX_ELIFS {
            return too_much(span.start_line, "elif");
        }
    }
    Ok(())
}

/// What is known of a tag before it is parsed. The compiler folds constants: `product`, of all literals and each a bit
/// larger than it is, is more than any text, list or number can become that is made of them by `+`, `-`, `~`, `%`
/// and `*`.
struct Tag {
    tokens: usize,
    product: f64,
    multiplies: bool,
    divides: bool,
    repeatable: bool,
}

impl Default for Tag {
    fn default() -> Self {
        Self { tokens: 0, product: 1.0, multiplies: false, divides: false, repeatable: false }
    }
}

impl Tag {
    fn text(&mut self, len: usize) {
        self.repeatable = true;
        self.product *= len as f64 + 2.0;
    }
}

type Blocks<'a> = BTreeMap<&'a str, Instructions<'a>>;

/// The instructions of `source`, rewritten.
fn compile(source: &str) -> Result<(Instructions<'_>, Blocks<'_>), Error> {
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: WHITESPACE,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let compiled = CompiledTemplate::new("chat_template", source, &config)?;
    let blocks = compiled.blocks.iter().map(|(name, block)| Ok((*name, rewrite(block)?)));
    Ok((rewrite(&compiled.instructions)?, blocks.collect::<Result<_, Error>>()?))
}

/// Puts filters of the same effect on the stack in place of operators, and others before what keeps a value.
fn rewrite<'a>(instructions: &Instructions<'a>) -> Result<Instructions<'a>, Error> {
    let all: Vec<&Instruction<'a>> = (0..).map_while(|i| instructions.get(i)).collect();
    let filter = |name, arguments| Instruction::ApplyFilter(name, Some(arguments), UNCACHED);
    let mut place = 0;
    let mut places = Vec::with_capacity(all.len() + 1);
    let mut rewritten = Vec::with_capacity(all.len());
    for instruction in all {
        let new = match instruction {
            Instruction::Add => vec![filter("+", 2)],
            Instruction::Mul => vec![filter("*", 2)],
            Instruction::StringConcat => vec![filter("~", 2)],
            Instruction::Slice => vec![filter("[:]", 4)],
            Instruction::EmitRaw(text) => vec![Instruction::LoadConst(Value::from(*text)), Instruction::Emit],
            Instruction::StoreLocal(_) => vec![filter(KEEP, 1), instruction.clone()],
            Instruction::SetAttr(_) => {
                vec![Instruction::Swap, filter(KEEP_ATTRIBUTE, 1), Instruction::Swap, instruction.clone()]
            }
            other => vec![other.clone()],
        };
        places.push(place);
        place += new.len() as u32;
        rewritten.push(new);
    }
    places.push(place);

    let moved = |target: u32| {
        let place = places.get(target as usize).copied();
        place.ok_or_else(|| Error::new(ErrorKind::SyntaxError, "a jump out of the template"))
    };
    let mut out = Instructions::new(instructions.name(), instructions.source());
    for (i, new) in rewritten.into_iter().enumerate() {
        let line = instructions.get_line(i as u32).and_then(|line| u16::try_from(line).ok());
        for mut instruction in new {
            match &mut instruction {
                Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::Iterate(target)
                | Instruction::BuildMacro(_, target, _) => *target = moved(*target)?,
                _ => {}
            }
            match line {
                Some(line) => out.add_with_line(instruction, line),
                None => out.add(instruction),
            };
        }
    }
    Ok(out)
}

/// What a rendering may still take.
struct Budget {
    left: AtomicU64,
    /// Bytes of the largest value.
    largest: u64,
    end: Instant,
}

fn exhausted(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{EXHAUSTED}{what}"))
}

impl Budget {
    fn charge(&self, bytes: u64) -> Result<(), Error> {
        if Instant::now() > self.end {
            return Err(exhausted("time"));
        }
        let left = self.left.load(Relaxed).checked_sub(bytes).ok_or_else(|| exhausted("memory"))?;
        self.left.store(left, Relaxed);
        Ok(())
    }

    /// The bytes of `value`, shared parts as often as they occur.
    fn measure(&self, value: &Value) -> Result<u64, Error> {
        let mut bytes = 0;
        self.add_size(value, 0, &mut bytes)?;
        Ok(bytes)
    }

    fn add_size(&self, value: &Value, depth: usize, bytes: &mut u64) -> Result<(), Error> {
        *bytes += BYTES_PER_VALUE + value.as_str().map_or(0, |text| text.len() as u64);
        if *bytes > self.largest {
            return Err(exhausted("memory"));
        }
        if depth > MAX_DEPTH + MAX_TAG_TOKENS {
            return Err(exhausted("depth of a value"));
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                value.try_iter()?.try_for_each(|item| self.add_size(&item, depth + 1, bytes))
            }
            ValueKind::Map if depth > 0 && is_namespace(value) => {
                Err(Error::new(ErrorKind::InvalidOperation, "a namespace inside of another value"))
            }
            ValueKind::Map => value.try_iter()?.try_for_each(|key| {
                self.add_size(&key, depth + 1, bytes)?;
                self.add_size(&value.get_item(&key)?, depth + 1, bytes)
            }),
            ValueKind::Plain if depth > 0 => {
                Err(Error::new(ErrorKind::InvalidOperation, "a function inside of another value"))
            }
            _ => Ok(()),
        }
    }

    /// Checks a value before it is kept. What is computed while it is read, such as a slice, is computed now: kept and read
    /// by the next one again and again it would nest without limit.
    fn keep(&self, value: Value) -> Result<Value, Error> {
        self.charge(0)?;
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
            let mut bytes = 0;
            self.add_size(&value, 0, &mut bytes)?;
            if depth(&value) > MAX_DEPTH {
                return Err(exhausted("depth of a value"));
            }
        }
        match value.kind() {
            ValueKind::Iterable => self.list(value.try_iter()?),
            _ => Ok(value),
        }
    }

    fn list(&self, items: impl Iterator<Item = Value>) -> Result<Value, Error> {
        let mut list = Vec::new();
        for item in items {
            self.charge(BYTES_PER_VALUE)?;
            list.push(item);
        }
        Ok(Value::from(list))
    }

    fn text(&self, value: &Value) -> Result<String, Error> {
        self.charge(4 * self.measure(value)?)?;
        Ok(python::str(value))
    }
}

/// Levels of lists and maps; for values that were measured.
fn depth(value: &Value) -> usize {
    let below = |items: &mut dyn Iterator<Item = Value>| 1 + items.map(|item| depth(&item)).max().unwrap_or(0);
    match (value.kind(), value.try_iter()) {
        (ValueKind::Seq | ValueKind::Iterable, Ok(mut items)) => below(&mut items),
        (ValueKind::Map, Ok(keys)) => below(&mut keys.filter_map(|key| value.get_item(&key).ok())),
        _ => 0,
    }
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// An operator that was not rewritten, on small values.
fn operate(state: &State, expression: &'static str, operands: &[(&'static str, &Value)]) -> Result<Value, Error> {
    let variables: Value = operands.iter().map(|(name, value)| (*name, (*value).clone())).collect();
    state.env().compile_expression(expression)?.eval(variables)
}

fn add(budget: &Budget, state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    match (a.as_str(), b.as_str()) {
        (Some(left), Some(right)) => {
            budget.charge((left.len() + right.len()) as u64)?;
            Ok(Value::from([left, right].concat()))
        }
        _ if is_list(a) && is_list(b) => budget.list(a.try_iter()?.chain(b.try_iter()?)),
        _ => operate(state, "a + b", &[("a", a), ("b", b)]),
    }
}

fn multiply(budget: &Budget, state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let (repeated, times) = if a.is_number() { (b, a) } else { (a, b) };
    let times = times.as_usize();
    match (repeated.as_str(), times) {
        (Some(text), Some(times)) => {
            budget.charge((text.len() as u64).saturating_mul(times as u64))?;
            Ok(Value::from(text.repeat(times)))
        }
        (None, Some(times)) if is_list(repeated) => {
            let items: Vec<Value> = repeated.try_iter()?.collect();
            let copies = if items.is_empty() { 0 } else { times };
            budget.list((0..copies).flat_map(|_| items.iter().cloned()))
        }
        _ => operate(state, "a * b", &[("a", a), ("b", b)]),
    }
}

fn concatenate(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    let mut text = budget.text(a)?;
    text.push_str(&budget.text(b)?);
    Ok(Value::from(text))
}

fn slice(budget: &Budget, state: &State, args: &[Value; 4]) -> Result<Value, Error> {
    let [value, start, stop, step] = args;
    budget.charge(4 * value.as_str().map_or(0, |text| text.len() as u64))?;
    let sliced = operate(
        state,
        "value[start:stop:step]",
        &[("value", value), ("start", start), ("stop", stop), ("step", step)],
    )?;
    if is_list(&sliced) { budget.list(sliced.try_iter()?) } else { Ok(sliced) }
}

/// Charges what the filter or method `name` is about to make of `args`.
fn charge_call(budget: &Budget, name: &str, args: &[Value]) -> Result<(), Error> {
    let text = |i: usize| args.get(i).and_then(Value::as_str);
    let len = |i: usize| text(i).map_or(0, |text| text.len() as u64);
    budget.charge(args.iter().filter_map(Value::as_str).map(|text| 3 * text.len() as u64).sum())?;
    match name {
        "replace" => {
            let (whole, from) = (text(0).unwrap_or_default(), text(1).unwrap_or_default());
            budget.charge((whole.matches(from).count() as u64).saturating_mul(len(2)))
        }
        "join" => {
            // The filter has the list first, the method the text.
            let (list, between) = if text(0).is_some() && args.len() > 1 { (1, len(0)) } else { (0, len(1)) };
            let Some(list) = args.get(list) else { return Ok(()) };
            budget.charge(budget.measure(list)?.saturating_mul(4))?;
            let items = list.try_iter().map_or(0, |items| items.count() as u64);
            budget.charge(items.saturating_mul(between))
        }
        "indent" | "batch" | "slice" => {
            let (positional, named): (&[Value], Kwargs) = from_args(args)?;
            let width = named.get::<Option<usize>>("width")?;
            let widths = positional.iter().skip(1).filter(|v| v.is_number()).map(Value::as_usize);
            let width = widths.chain(width.map(Some)).map(|w| w.unwrap_or(usize::MAX)).max().unwrap_or(4);
            if width > MAX_WIDTH {
                return Err(exhausted("width"));
            }
            let lines = text(0).map_or(1, |text| 1 + text.matches('\n').count());
            budget.charge((lines * width) as u64 * BYTES_PER_VALUE)
        }
        // These look at a part, or only pass their argument on.
        "length" | "count" | "first" | "last" | "default" | "d" | "attr" | "items" | "safe" => Ok(()),
        _ => {
            let containers = args.iter().filter(|arg| is_list(arg) || arg.kind() == ValueKind::Map);
            containers.map(|arg| budget.measure(arg)).try_for_each(|bytes| budget.charge(bytes?))
        }
    }
}

fn environment(fuel: u64, budget: &Arc<Budget>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_fuel(Some(fuel));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // Their sizes and depths cannot be foreseen, and no chat template needs them.
    for filter in ["format", "pprint", "chain", "zip"] {
        environment.remove_filter(filter);
    }
    environment.remove_global("debug");

    let charged = |environment: &mut Environment<'static>, name: &'static str, filter: Value| {
        let budget = budget.clone();
        environment.add_filter(name, move |state: &State, args: Rest<Value>| {
            charge_call(&budget, name, &args)?;
            let made = filter.call(state, &args)?;
            let items = if is_list(&made) { made.len().unwrap_or(0) } else { 0 };
            budget.charge(items as u64 * BYTES_PER_VALUE)?;
            Ok::<_, Error>(made)
        });
    };
    macro_rules! charge_filters {
        ($($name:ident)*) => {
            $(charged(&mut environment, stringify!($name), Value::from_function(filters::$name));)*
        };
    }
    charge_filters! {
        lower upper title capitalize replace length dictsort items reverse trim join split lines round abs int float
        attr first last min max sort list bool batch slice sum indent select reject selectattr rejectattr map groupby unique
    }
    let own = budget.clone();
    let tojson = move |value: Value, options| {
        let json = python::tojson(&value, options, own.left.load(Relaxed))?;
        own.charge(2 * json.as_str().map_or(0, |text| text.len() as u64))?;
        Ok::<_, Error>(json)
    };
    charged(&mut environment, "tojson", Value::from_function(tojson));

    let own = budget.clone();
    environment.add_filter("+", move |state: &State, a: Value, b: Value| add(&own, state, &a, &b));
    let own = budget.clone();
    environment.add_filter("*", move |state: &State, a: Value, b: Value| multiply(&own, state, &a, &b));
    let own = budget.clone();
    environment.add_filter("~", move |a: Value, b: Value| concatenate(&own, &a, &b));
    let own = budget.clone();
    environment.add_filter("[:]", move |state: &State, value: Value, start: Value, stop: Value, step: Value| {
        slice(&own, state, &[value, start, stop, step])
    });
    let own = budget.clone();
    environment.add_filter(KEEP, move |value: Value| own.keep(value));
    let own = budget.clone();
    environment.add_filter(KEEP_ATTRIBUTE, move |value: Value| {
        if is_namespace(&value) || value.kind() == ValueKind::Plain {
            return Err(Error::new(ErrorKind::InvalidOperation, "a namespace keeps neither namespaces nor functions"));
        }
        own.keep(value)
    });
    let own = budget.clone();
    environment.add_filter("string", move |value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => own.text(&value).map(Value::from),
    });
    let own = budget.clone();
    environment.set_formatter(move |out, _, value| {
        match value.as_str() {
            Some(text) => {
                own.charge(text.len() as u64)?;
                out.write_str(text)
            }
            None => out.write_str(&own.text(value)?),
        }
        .map_err(Error::from)
    });
    let own = budget.clone();
    environment.set_unknown_method_callback(move |state, value, method, args| {
        if method == "format" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let all: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
        charge_call(&own, method, &all)?;
        let made = minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)?;
        let items = if is_list(&made) { made.len().unwrap_or(0) } else { 0 };
        own.charge(items as u64 * BYTES_PER_VALUE)?;
        Ok(made)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    let own = budget.clone();
    environment.add_function("strftime_now", move |format: &str| {
        own.charge(64 * format.len() as u64)?;
        strftime_now(format)
    });
    environment
}

/// The local time by the format of `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    use std::fmt::Write;
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(format))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown format {format:?}")))?;
    Ok(out)
}

/// The detail of the cause that begins with `prefix`, without it.
fn detail_after<'a>(error: &'a Error, prefix: &str) -> Option<&'a str> {
    let mut error = error;
    loop {
        if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(prefix)) {
            return Some(message);
        }
        error = std::error::Error::source(error)?.downcast_ref()?;
    }
}

/// What, and in which line.
fn describe(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}
