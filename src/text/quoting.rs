//! Keeps special tokens that a chat's messages spell out apart from those that the template writes.
//!
//! Before rendering, a mark is put behind the first character of each special token in the messages; after rendering,
//! the marks are taken out and their places kept. A special token in the rendered text that had a mark inside was quoted
//! from a message. What a message's string ends with is marked as well where it may be the beginning of a special token,
//! so that two strings that a template joins cannot make one. The mark is a noncharacter of Unicode that occurs in no
//! message; templates copy it like any other character.

use serde_json::Value;

/// A special token in a text: where, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

/// Orders special tokens for matching: where one is the beginning of another, the longer is meant.
pub(super) fn longest_first(mut special: Vec<(String, u32)>) -> Vec<(String, u32)> {
    special.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    special
}

/// The special tokens of `text` from left to right that have none of the places of `quoted` (ascending) inside.
pub(super) fn find_unquoted(text: &str, special: &[(String, u32)], quoted: &[usize]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut position = 0;
    while position < text.len() {
        let next = at(text, position, special).filter(|next| {
            let after = quoted.partition_point(|place| *place <= next.start);
            quoted.get(after).is_none_or(|place| *place >= next.end)
        });
        match next {
            Some(next) => {
                position = next.end;
                found.push(next);
            }
            None => position += 1,
        }
    }
    found
}

fn at(text: &str, start: usize, special: &[(String, u32)]) -> Option<Found> {
    let rest = &text.as_bytes()[start..];
    let (token, id) = special.iter().find(|(token, _)| rest.starts_with(token.as_bytes()))?;
    Some(Found { start, end: start + token.len(), id: *id })
}

/// A noncharacter that is in no string of `value`; `None` where all 32 of the block U+FDD0 are.
pub(super) fn unused_mark(value: &Value) -> Option<char> {
    let mut used = [false; 32];
    visit(value, &mut |text| {
        for character in text.chars().filter(|c| ('\u{FDD0}'..='\u{FDEF}').contains(c)) {
            used[character as usize - 0xFDD0] = true;
        }
    });
    let free = used.iter().position(|used| !used)?;
    char::from_u32(0xFDD0 + u32::try_from(free).ok()?)
}

fn visit(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| visit(item, look)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            look(key);
            visit(item, look);
        }),
        _ => {}
    }
}

/// Marks the special tokens in all strings of `value`, keys included. Returns whether there was any.
pub(super) fn mark_special(value: &mut Value, special: &[(String, u32)], mark: char) -> bool {
    match value {
        Value::String(text) => match marked(text, special, mark) {
            Some(with_marks) => {
                *text = with_marks;
                true
            }
            None => false,
        },
        Value::Array(items) => items.iter_mut().fold(false, |any, item| mark_special(item, special, mark) | any),
        Value::Object(map) => {
            let mut any = map.values_mut().fold(false, |any, item| mark_special(item, special, mark) | any);
            if map.keys().any(|key| marked(key, special, mark).is_some()) {
                any = true;
                let old = std::mem::take(map);
                map.extend(old.into_iter().map(|(key, item)| (marked(&key, special, mark).unwrap_or(key), item)));
            }
            any
        }
        _ => false,
    }
}

/// `text` with its marks; `None` where it needs none.
fn marked(text: &str, special: &[(String, u32)], mark: char) -> Option<String> {
    let mut places = Vec::new();
    for (position, first) in text.char_indices() {
        let rest = &text.as_bytes()[position..];
        let begins = |token: &str| rest.starts_with(token.as_bytes()) || token.as_bytes().starts_with(rest);
        if special.iter().any(|(token, _)| begins(token)) {
            places.push(position + first.len_utf8());
        }
    }
    if places.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(text.len() + places.len() * mark.len_utf8());
    let mut start = 0;
    for place in places {
        out.push_str(&text[start..place]);
        out.push(mark);
        start = place;
    }
    out.push_str(&text[start..]);
    Some(out)
}

/// Takes the marks out of a rendered text; gives the text and the places where they were, ascending.
pub(super) fn take_marks(rendered: &str, mark: char) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(rendered.len());
    let mut places = Vec::new();
    for (i, piece) in rendered.split(mark).enumerate() {
        if i > 0 {
            places.push(text.len());
        }
        text.push_str(piece);
    }
    (text, places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn special() -> Vec<(String, u32)> {
        longest_first(vec![("<|end|>".into(), 1), ("<|end|>x".into(), 2), ("<|start|>".into(), 3)])
    }

    #[test]
    fn quoted_tokens_are_not_found() {
        let mut value = json!(["a <|end|> b", "<|st", {"<|end|>x": 1}, "plain <b"]);
        let mark = unused_mark(&value).unwrap();
        assert!(mark_special(&mut value, &special(), mark));
        let strings = value.as_array().unwrap();
        let key = strings[2].as_object().unwrap().keys().next().unwrap();
        let joined = format!(
            "<|start|>{}<|end|>{}art|>{key}{}",
            strings[0].as_str().unwrap(),
            strings[1].as_str().unwrap(),
            strings[3].as_str().unwrap()
        );
        let (text, quoted) = take_marks(&joined, mark);
        assert_eq!(text, "<|start|>a <|end|> b<|end|><|start|><|end|>xplain <b");
        let found: Vec<_> = find_unquoted(&text, &special(), &quoted).iter().map(|f| (f.start, f.end, f.id)).collect();
        assert_eq!(found, [(0, 9, 3), (20, 27, 1)]);
    }

    #[test]
    fn text_without_special_tokens_is_left_alone() {
        let mut value = json!({"content": "1 < 2, a | b", "n": 3});
        let before = value.clone();
        assert!(!mark_special(&mut value, &special(), '\u{FDD0}'));
        assert_eq!(value, before);
    }

    #[test]
    fn the_mark_is_a_character_that_no_message_has() {
        assert_eq!(unused_mark(&json!(["\u{FDD0}", {"\u{FDD1}": "\u{FDD3}"}])), Some('\u{FDD2}'));
        let all: String = ('\u{FDD0}'..='\u{FDEF}').collect();
        assert_eq!(unused_mark(&json!([all])), None);
    }
}
