//! The engine over a backend that chooses tokens itself and has steps queued before it hears of their tokens: see
//! `support/fake.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qwen3moe::{Error, Event, FinishReason, GenerateOptions, Model, Prompt, Result, Stream};
use support::fake::{self, Control, EOS, Sizes, continuation};

const STEPS: usize = 2;

fn model(sizes: Sizes) -> (Model, Arc<Control>) {
    fake::model(&Sizes { ahead: STEPS, ..sizes })
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, temperature: Some(0.0), ..GenerateOptions::default() }
}

fn prompt(tokens: usize, key: u32) -> Vec<u32> {
    (0..tokens as u32).map(|i| (i * 7 + key * 13) % 256).collect()
}

fn open(model: &Model, tokens: &[u32], options: &GenerateOptions) -> Stream {
    model.stream(&Prompt::Tokens(tokens.to_vec()), options).unwrap()
}

/// Reads a stream to its end.
fn finish(stream: &Stream) -> Result<FinishReason> {
    loop {
        match stream.next(None)? {
            Event::Done(reason) => return Ok(reason),
            Event::Text(_) | Event::Pending => {}
        }
    }
}

/// Every page and slot is free: prompts that fill all of them are read.
fn everything_came_back(model: &Model) {
    let (slots, positions) = (model.info().streams, model.info().kv_tokens / model.info().streams);
    let prompts: Vec<Vec<u32>> = (0..slots).map(|i| prompt(positions, 90 + i as u32)).collect();
    let streams: Vec<Stream> = prompts.iter().map(|prompt| open(model, prompt, &greedy(1))).collect();
    for (stream, prompt) in streams.iter().zip(&prompts) {
        assert_eq!(finish(stream), Ok(FinishReason::Length));
        assert_eq!(stream.tokens(), continuation(prompt, 1));
    }
}

#[test]
fn tokens_are_those_of_a_backend_that_waits_for_each_step() {
    let options = |seed: u64| GenerateOptions {
        max_tokens: 10 + seed as usize * 3,
        temperature: Some(0.4 * seed as f32),
        top_k: Some(30 * (seed as u32 % 3)),
        repetition_penalty: Some(1.0 + seed as f32 / 20.0),
        presence_penalty: 0.1,
        seed,
        ..GenerateOptions::default()
    };
    let run = |ahead: usize| {
        let (model, control) = fake::model(&Sizes { ahead, ..Sizes::default() });
        let open = |i: u64| open(&model, &prompt(1 + 9 * i as usize % 23, i as u32), &options(i));
        let streams: Vec<Stream> = (0..9).map(open).collect();
        let tokens: Vec<Vec<u32>> = streams
            .iter()
            .map(|stream| {
                assert_eq!(finish(stream), Ok(FinishReason::Length));
                stream.tokens()
            })
            .collect();
        everything_came_back(&model);
        assert_eq!(control.most_queued.load(Ordering::SeqCst), ahead.max(1));
        tokens
    };
    let expected = run(0);
    assert_eq!(run(1), expected);
    assert_eq!(run(2), expected);
    assert_eq!(run(3), expected);
}

#[test]
fn the_next_step_is_queued_before_a_token_is_read_and_none_that_nobody_needs() {
    let (model, control) = model(Sizes::default());
    control.close();
    let stream = open(&model, &prompt(5, 1), &greedy(4));
    control.wait_for_steps(2);
    assert_eq!(stream.stats().generated_tokens, 0);
    control.open();
    assert_eq!(finish(&stream), Ok(FinishReason::Length));
    assert_eq!(stream.tokens(), continuation(&prompt(5, 1), 4));
    assert_eq!(*control.batches.lock().unwrap(), [[(0, 5)], [(5, 1)], [(6, 1)], [(7, 1)]], "four tokens, four steps");
}

#[test]
fn every_end_comes_at_its_token_and_what_was_queued_behind_it_is_dropped() {
    let (model, control) = model(Sizes { context: 24, ..Sizes::default() });
    *control.script.lock().unwrap() = "one two three".bytes().map(u32::from).chain([EOS]).collect();
    let start = vec![u32::from(b'>'); 14];
    let cases: [(GenerateOptions, &str, std::result::Result<FinishReason, ()>); 4] = [
        (GenerateOptions { stop: vec!["two".into()], ..greedy(40) }, "one ", Ok(FinishReason::Stop)),
        (greedy(5), "one t", Ok(FinishReason::Length)),
        (greedy(40), "one two thr", Err(())),
        (GenerateOptions { min_tokens: 2, ..greedy(40) }, "one two thr", Err(())),
    ];
    for (options, text, end) in cases {
        let stream = open(&model, &start, &options);
        let mut found = String::new();
        let ended = loop {
            match stream.next(None) {
                Ok(Event::Text(more)) => found.push_str(&more),
                Ok(Event::Pending) => {}
                Ok(Event::Done(reason)) => break Ok(reason),
                Err(Error::ContextFull(_)) => break Err(()),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!((found.as_str(), ended), (text, end), "{options:?}");
    }
    *control.script.lock().unwrap() = vec![u32::from(b'x'), EOS];
    let stream = open(&model, &[5, 6], &greedy(9));
    assert_eq!(finish(&stream), Ok(FinishReason::EndOfSequence));
    assert_eq!(stream.tokens(), [u32::from(b'x'), EOS]);
    control.script.lock().unwrap().clear();
    everything_came_back(&model);
    let wanted = control.wanted.lock().unwrap();
    assert!(wanted.contains(&vec![false]), "a step behind an end was collected, and nobody wanted it");
}

#[test]
fn a_stream_that_ends_leaves_its_neighbours_their_steps() {
    let (model, control) = model(Sizes { streams: 3, ..Sizes::default() });
    // One ends by a stop string, which the host alone knows of.
    let text = continuation(&prompt(6, 2), 40);
    let at = text.iter().position(|token| (97..123).contains(token)).unwrap();
    let stop = vec![char::from_u32(text[at]).unwrap().to_string()];
    control.close();
    let streams = [
        open(&model, &prompt(6, 1), &greedy(40)),
        open(&model, &prompt(6, 2), &GenerateOptions { stop, ..greedy(40) }),
        open(&model, &prompt(6, 3), &greedy(40)),
    ];
    control.wait_for_steps(1);
    control.open();
    let ends = streams.each_ref().map(finish);
    assert_eq!(ends, [Ok(FinishReason::Length), Ok(FinishReason::Stop), Ok(FinishReason::Length)]);
    assert_eq!(streams[0].tokens(), continuation(&prompt(6, 1), 40));
    assert_eq!(streams[1].tokens(), text[..=at]);
    assert_eq!(streams[2].tokens(), continuation(&prompt(6, 3), 40));
    everything_came_back(&model);
}

#[test]
fn a_cancel_and_a_deadline_with_steps_queued_free_their_memory_for_who_waits() {
    let (model, control) = model(Sizes { chunk: 64, streams: 2, ..Sizes::default() });
    control.close();
    let cancelled = open(&model, &prompt(6, 1), &greedy(50));
    let late =
        open(&model, &prompt(6, 2), &GenerateOptions { deadline: Some(Duration::from_millis(300)), ..greedy(50) });
    let next: Vec<Stream> = (3..6).map(|i| open(&model, &prompt(20, i), &greedy(30))).collect();
    control.wait_for_steps(2);
    cancelled.cancel();
    std::thread::sleep(Duration::from_millis(310));
    control.open();
    assert_eq!(finish(&cancelled), Err(Error::Cancelled));
    assert_eq!(finish(&late), Ok(FinishReason::Deadline));
    for (stream, key) in next.iter().zip(3..6) {
        assert_eq!(finish(stream), Ok(FinishReason::Length));
        assert_eq!(stream.tokens(), continuation(&prompt(20, key), 30));
    }
    everything_came_back(&model);
}

#[test]
fn every_stream_with_a_step_queued_hears_of_a_failed_device() {
    let (model, control) = model(Sizes { chunk: 64, streams: 3, ..Sizes::default() });
    control.close();
    let streams: Vec<Stream> = (0..4).map(|i| open(&model, &prompt(4, i), &greedy(30))).collect();
    control.wait_for_steps(2);
    control.fail_next.store(true, Ordering::SeqCst);
    control.open();
    let ends: Vec<_> = streams.iter().map(finish).collect();
    let failed = ends.iter().filter(|end| matches!(end, Err(Error::DeviceLost(_)))).count();
    assert!(failed >= 1 && matches!(ends[0], Err(Error::DeviceLost(_))), "{ends:?}");
    for (i, (stream, end)) in streams.iter().zip(&ends).enumerate() {
        if *end == Ok(FinishReason::Length) {
            assert_eq!(stream.tokens(), continuation(&prompt(4, i as u32), 30));
        }
    }
    assert_eq!(ends[3], Ok(FinishReason::Length), "it was in line");
    everything_came_back(&model);
}

#[test]
fn who_comes_while_steps_are_queued_is_let_in_at_once() {
    let (model, control) = model(Sizes { chunk: 64, streams: 2, context: 400, ..Sizes::default() });
    control.close();
    let running = open(&model, &prompt(4, 1), &greedy(300));
    control.wait_for_steps(2);
    let second = open(&model, &prompt(11, 2), &greedy(40));
    let third = open(&model, &prompt(11, 3), &greedy(40));
    control.open();
    for (stream, key) in [(&second, 2), (&third, 3)] {
        assert_eq!(finish(stream), Ok(FinishReason::Length));
        assert_eq!(stream.tokens(), continuation(&prompt(11, key), 40));
    }
    assert_eq!(finish(&running), Ok(FinishReason::Length));
    assert_eq!(running.tokens(), continuation(&prompt(4, 1), 300));
    let batches = control.batches.lock().unwrap();
    let begun = batches.iter().position(|batch| batch.len() == 2).unwrap();
    assert!(begun <= 4, "the second stream had to wait for {begun} steps");
}

#[test]
fn an_evaluation_beside_streams_has_its_logits() {
    let (model, _) = model(Sizes { chunk: 5, ..Sizes::default() });
    let stream = open(&model, &prompt(11, 1), &greedy(40));
    let ids = prompt(33, 2);
    let logits = model.eval(&ids).unwrap();
    let expected: Vec<f32> = (1..=ids.len()).flat_map(|seen| fake::logits(&ids[..seen], &[])).collect();
    assert!(logits == expected);
    assert_eq!(finish(&stream), Ok(FinishReason::Length));
    assert_eq!(stream.tokens(), continuation(&prompt(11, 1), 40));
    everything_came_back(&model);
}

#[test]
fn a_full_pool_ends_one_stream_at_its_last_position_and_the_others_go_on() {
    let (model, control) = model(Sizes { streams: 2, kv_tokens: 48, ..Sizes::default() });
    control.close();
    let streams = [open(&model, &prompt(10, 1), &greedy(50)), open(&model, &prompt(10, 2), &greedy(50))];
    control.wait_for_steps(1);
    control.open();
    let ends = streams.each_ref().map(finish);
    assert!(ends.iter().any(|end| matches!(end, Err(Error::ContextFull(_)))), "{ends:?}");
    for (stream, key) in streams.iter().zip([1, 2]) {
        let tokens = stream.tokens();
        assert!(tokens.len() > 10);
        assert_eq!(tokens, continuation(&prompt(10, key), tokens.len()));
    }
    everything_came_back(&model);
}

#[test]
fn profiles_count_the_rows_that_somebody_wanted() {
    let (model, control) = model(Sizes::default());
    *control.script.lock().unwrap() = "abcdefgh".bytes().map(u32::from).chain([EOS]).collect();
    let stream = open(&model, &[0; 9], &greedy(40));
    assert_eq!(finish(&stream), Ok(FinishReason::EndOfSequence));
    let generated = stream.tokens().len() as u64;
    let profile = model.profile();
    assert_eq!((profile.decode.steps, profile.decode.tokens), (generated - 1, generated - 1));
    assert_eq!(profile.prefill.tokens, 9);
}

#[test]
fn the_last_handle_may_go_while_steps_are_queued() {
    let (model, control) = model(Sizes::default());
    control.close();
    let stream = open(&model, &prompt(4, 1), &greedy(50));
    control.wait_for_steps(2);
    let opener = fake::open_later(&control);
    drop(model);
    drop(stream);
    assert!(control.dropped.load(Ordering::SeqCst));
    opener.join().unwrap();
}
