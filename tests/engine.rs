//! The engine over a backend that remembers like a network and computes nothing: see `support/fake.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qwen3moe::engine::LogLevel;
use qwen3moe::{Error, Event, FinishReason, GenerateOptions, Model, Prompt, Result, Stream};
use support::fake::{self, Control, EOS, EOT, Sizes, VOCAB, continuation};

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
fn finish(stream: &Stream) -> (String, Result<FinishReason>) {
    let mut text = String::new();
    loop {
        match stream.next(None) {
            Ok(Event::Text(more)) => text.push_str(&more),
            Ok(Event::Pending) => panic!("a wait without end says nothing"),
            Ok(Event::Done(reason)) => return (text, Ok(reason)),
            Err(error) => return (text, Err(error)),
        }
    }
}

/// Makes every sequence continue with `text`, and then with the end of sequence.
fn script(control: &Control, text: &str) {
    *control.script.lock().unwrap() = text.bytes().map(u32::from).chain([EOS]).collect();
}

/// A prompt after which a scripted sequence stands at the script's first byte.
fn script_start(control: &Control) -> Vec<u32> {
    vec![b'>'.into(); control.script.lock().unwrap().len()]
}

#[test]
fn a_bound_on_steps_cuts_prompts_into_pieces_that_end_in_time() {
    let ms = Duration::from_millis;
    let rows = |max_step| {
        let sizes = Sizes { streams: 2, context: 400, chunk: 64, max_step, ..Sizes::default() };
        let (model, control) = fake::model(&sizes);
        *control.cost.lock().unwrap() = (ms(2), ms(1));
        let long = prompt(250, 3);
        let stream = open(&model, &long, &greedy(3));
        control.wait_for_steps(4);
        *control.cost.lock().unwrap() = (ms(4), ms(2));
        assert_eq!(finish(&stream).1, Ok(FinishReason::Length));
        assert_eq!(stream.tokens(), continuation(&long, 3));
        let batches = control.batches.lock().unwrap();
        batches.iter().map(|batch| batch.iter().map(|(_, rows)| rows).sum::<usize>()).collect::<Vec<_>>()
    };
    assert_eq!(rows(None), [64, 64, 64, 58, 1, 1]);
    // Sleeping takes longer than asked for, and never shorter, so the first guess is the largest step there is.
    let bounded = rows(Some(ms(20)));
    assert!(bounded[0] == 16 && bounded.iter().all(|rows| *rows <= 16), "{bounded:?}");
    let prompt_steps = &bounded[6..bounded.len() - 2];
    assert!(prompt_steps.iter().all(|rows| (1..=8).contains(rows)), "{bounded:?}");
}

#[test]
fn streams_that_run_together_get_what_they_get_alone() {
    for chunk in [1, 3, 8, 64] {
        let (model, _) = fake::model(&Sizes { streams: 5, chunk, ..Sizes::default() });
        let prompts: Vec<Vec<u32>> = (0..12).map(|i| prompt(1 + i * 5 % 31, i as u32)).collect();
        let streams: Vec<Stream> = prompts.iter().map(|p| open(&model, p, &greedy(20))).collect();
        for (stream, prompt) in streams.iter().zip(&prompts) {
            assert_eq!(finish(stream).1, Ok(FinishReason::Length));
            assert_eq!(stream.tokens(), continuation(prompt, 20), "chunk {chunk}, prompt of {}", prompt.len());
        }
    }
}

#[test]
fn a_seeded_draw_does_not_depend_on_the_neighbours() {
    let options = |seed| GenerateOptions { max_tokens: 20, temperature: Some(1.5), top_k: Some(50), seed, ..greedy(0) };
    let alone: Vec<Vec<u32>> = (0..6)
        .map(|i| {
            let (model, _) = fake::model(&Sizes::default());
            let stream = open(&model, &prompt(9, i), &options(i.into()));
            finish(&stream).1.unwrap();
            stream.tokens()
        })
        .collect();
    let (model, _) = fake::model(&Sizes::default());
    let streams: Vec<Stream> = (0..6).map(|i| open(&model, &prompt(9, i), &options(i.into()))).collect();
    let together: Vec<Vec<u32>> = streams
        .iter()
        .map(|stream| {
            finish(stream).1.unwrap();
            stream.tokens()
        })
        .collect();
    assert_eq!(together, alone);
    let (model, _) = fake::model(&Sizes::default());
    let other = open(&model, &prompt(9, 0), &options(77));
    finish(&other).1.unwrap();
    assert_ne!(other.tokens(), alone[0], "another seed draws otherwise");
}

#[test]
fn an_evaluation_gives_every_position_beside_running_streams() {
    let (model, _) = fake::model(&Sizes { chunk: 5, ..Sizes::default() });
    let stream = open(&model, &prompt(11, 1), &greedy(40));
    let ids = prompt(33, 2);
    let logits = model.eval(&ids).unwrap();
    let expected: Vec<f32> = (1..=ids.len()).flat_map(|seen| fake::logits(&ids[..seen], &[])).collect();
    assert_eq!(logits.len(), ids.len() * VOCAB);
    assert!(logits == expected);
    assert_eq!(finish(&stream).1, Ok(FinishReason::Length));
    assert_eq!(stream.tokens(), continuation(&prompt(11, 1), 40));
}

#[test]
fn a_generating_stream_has_a_row_in_every_step_while_prompts_are_read() {
    let (model, control) = fake::model(&Sizes { context: 200, chunk: 8, ..Sizes::default() });
    control.close();
    let stream = open(&model, &prompt(2, 1), &greedy(30));
    control.wait_for_steps(1);
    let readers: Vec<Stream> = (0..2).map(|i| open(&model, &prompt(100, i), &greedy(2))).collect();
    control.open();
    assert_eq!(finish(&stream).1, Ok(FinishReason::Length));
    readers.iter().for_each(|reader| assert_eq!(finish(reader).1, Ok(FinishReason::Length)));

    let batches = control.batches.lock().unwrap();
    let with_prompts = batches.iter().filter(|batch| batch.len() > 1);
    assert!(with_prompts.clone().count() > 20);
    for batch in with_prompts.take(25) {
        assert_eq!(batch[0].1, 1, "{batch:?}");
        assert_eq!(batch[1].1, 4, "two prompts share eight rows: {batch:?}");
        assert_eq!(batch[2].1, 4, "{batch:?}");
    }
}

#[test]
fn a_cancelled_stream_ends_while_its_prompt_is_read_and_the_others_go_on() {
    let (model, control) = fake::model(&Sizes { chunk: 2, ..Sizes::default() });
    control.close();
    let cancelled = open(&model, &prompt(50, 1), &greedy(5));
    let other = open(&model, &prompt(20, 2), &greedy(5));
    control.wait_for_steps(1);
    cancelled.cancel();
    control.open();
    assert_eq!(finish(&cancelled), (String::new(), Err(Error::Cancelled)));
    assert_eq!(cancelled.stats().generated_tokens, 0);
    assert!(cancelled.stats().prefilled_tokens < 50);
    assert_eq!(finish(&other).1, Ok(FinishReason::Length));
    assert_eq!(other.tokens(), continuation(&prompt(20, 2), 5));
}

#[test]
fn a_cancelled_stream_ends_while_it_generates_and_keeps_its_text() {
    let (model, control) = fake::model(&Sizes::default());
    script(&control, "abcdefghijklmnop");
    control.close();
    let stream = open(&model, &script_start(&control), &greedy(1000));
    control.wait_for_steps(1);
    control.open();
    let Ok(Event::Text(mut text)) = stream.next(None) else { panic!("text comes first") };
    std::thread::scope(|scope| {
        scope.spawn(|| stream.cancel());
    });
    let (rest, end) = finish(&stream);
    text.push_str(&rest);
    assert!("abcdefghijklmnop".starts_with(&text), "{text}");
    assert!(matches!(end, Err(Error::Cancelled) | Ok(FinishReason::EndOfSequence)), "{end:?}");
    assert_eq!(stream.next(Some(Duration::ZERO)).err(), end.err(), "the end stays the end");
}

#[test]
fn a_poll_with_no_time_says_pending_while_a_step_is_in_progress() {
    let (model, control) = fake::model(&Sizes::default());
    control.close();
    let stream = open(&model, &prompt(3, 1), &greedy(3));
    assert_eq!(stream.next(Some(Duration::ZERO)), Ok(Event::Pending));
    control.wait_for_steps(1);
    for _ in 0..1000 {
        assert_eq!(stream.next(Some(Duration::ZERO)), Ok(Event::Pending));
    }
    assert_eq!(stream.next(Some(Duration::from_millis(1))), Ok(Event::Pending));
    assert_eq!(stream.stats().generated_tokens, 0);
    control.open();
    assert_eq!(finish(&stream).1, Ok(FinishReason::Length));
    assert_eq!(stream.stats().generated_tokens, 3);
    assert_eq!(stream.stats().prefilled_tokens, 3);
}

#[test]
fn more_streams_than_slots_wait_in_line_and_all_end() {
    let (model, control) = fake::model(&Sizes { streams: 2, ..Sizes::default() });
    control.close();
    let streams: Vec<Stream> = (0..9).map(|i| open(&model, &prompt(4, i), &greedy(3))).collect();
    control.wait_for_steps(1);
    control.open();
    for (i, stream) in streams.iter().enumerate() {
        assert_eq!(finish(stream).1, Ok(FinishReason::Length));
        assert_eq!(stream.tokens(), continuation(&prompt(4, i as u32), 3));
    }
    assert!(control.batches.lock().unwrap().iter().all(|batch| batch.len() <= 2));
}

#[test]
fn a_line_that_is_too_long_is_busy_and_a_cancel_makes_room() {
    let (model, control) = fake::model(&Sizes { streams: 1, ..Sizes::default() });
    control.close();
    let first = open(&model, &prompt(4, 0), &greedy(3));
    control.wait_for_steps(1);
    let mut waiting: Vec<Stream> = (0..1024).map(|i| open(&model, &prompt(4, i), &greedy(1))).collect();
    let refused = model.stream(&Prompt::Tokens(vec![1]), &greedy(1)).err();
    assert!(matches!(refused, Some(Error::Busy(_))), "{refused:?}");
    let dropped = waiting.split_off(512);
    drop(dropped);
    control.open();
    assert_eq!(finish(&first).1, Ok(FinishReason::Length));
    waiting.iter().for_each(|stream| assert_eq!(finish(stream).1, Ok(FinishReason::Length)));
    assert!(model.generate(&Prompt::Tokens(vec![1]), &greedy(1)).is_ok());
}

#[test]
fn a_full_pool_ends_one_stream_with_its_text_and_the_others_go_on() {
    // 12 pages of 4 positions. Both streams begin with 3 pages; the pool is out when each holds 6.
    let (model, control) = fake::model(&Sizes { streams: 2, kv_tokens: 48, ..Sizes::default() });
    control.close();
    let streams = [open(&model, &prompt(10, 1), &greedy(50)), open(&model, &prompt(10, 2), &greedy(50))];
    control.wait_for_steps(1);
    control.open();
    let ends: Vec<_> = streams.iter().map(|stream| finish(stream).1).collect();
    let full = ends.iter().filter(|end| matches!(end, Err(Error::ContextFull(_)))).count();
    assert!(full >= 1, "{ends:?}");
    for (stream, key) in streams.iter().zip([1, 2]) {
        let tokens = stream.tokens();
        assert!(tokens.len() > 10, "{}", tokens.len());
        assert_eq!(tokens, continuation(&prompt(10, key), tokens.len()));
    }
    let after = model.generate(&Prompt::Tokens(prompt(40, 3)), &greedy(8)).unwrap();
    assert_eq!(after.finish, FinishReason::Length, "everything came back to the pool");
}

#[test]
fn a_prompt_waits_for_pages_that_others_hold() {
    let (model, control) = fake::model(&Sizes { streams: 2, kv_tokens: 48, ..Sizes::default() });
    control.close();
    let first = open(&model, &prompt(30, 1), &greedy(4));
    control.wait_for_steps(1);
    let second = open(&model, &prompt(30, 2), &greedy(4));
    control.open();
    assert_eq!(finish(&first).1, Ok(FinishReason::Length));
    assert_eq!(finish(&second).1, Ok(FinishReason::Length));
    assert_eq!(second.tokens(), continuation(&prompt(30, 2), 4));
}

#[test]
fn a_full_context_is_an_error_after_the_text() {
    let (model, control) = fake::model(&Sizes { context: 20, ..Sizes::default() });
    script(&control, "0123456789abcdefg");
    let start = script_start(&control);
    assert_eq!(start.len(), 18);
    let (text, end) = finish(&open(&model, &start, &greedy(100)));
    assert_eq!(text, "012", "two more positions, and the token after the last");
    assert!(matches!(end, Err(Error::ContextFull(_))), "{end:?}");
    let (text, end) = finish(&open(&model, &start, &greedy(3)));
    assert_eq!((text.as_str(), end), ("012", Ok(FinishReason::Length)), "a generation that fits exactly is none");
}

#[test]
fn prompts_that_can_never_run_are_refused_at_once_with_numbers() {
    let (model, _) = fake::model(&Sizes { context: 20, kv_tokens: 16, ..Sizes::default() });
    let refuse = |tokens: Vec<u32>| {
        let eval = model.eval(&tokens).unwrap_err();
        assert_eq!(model.stream(&Prompt::Tokens(tokens), &greedy(1)).err(), Some(eval.clone()));
        eval
    };
    assert!(matches!(refuse(vec![]), Error::InvalidArgument(_)));
    assert!(matches!(refuse(vec![1, VOCAB as u32]), Error::InvalidArgument(what) if what.contains("258 at 1")));
    assert!(matches!(refuse(prompt(21, 0)), Error::ContextFull(what) if what.contains("21") && what.contains("20")));
    assert!(matches!(refuse(prompt(17, 0)), Error::ContextFull(what) if what.contains("17") && what.contains("16")));
    let invalid = |options: GenerateOptions| {
        let error = model.stream(&Prompt::Tokens(vec![1]), &options).err();
        assert!(matches!(error, Some(Error::InvalidArgument(_))), "{error:?}");
    };
    invalid(greedy(0));
    invalid(GenerateOptions { stop: vec![String::new()], ..greedy(1) });
    invalid(GenerateOptions { min_tokens: 2, ..greedy(1) });
    invalid(GenerateOptions { top_p: Some(0.0), ..greedy(1) });
    assert!(matches!(model.stream(&Prompt::Chat("[]".into()), &greedy(1)), Err(Error::Unsupported { .. })));
}

#[test]
fn what_is_wrong_with_a_text_is_the_end_of_its_stream() {
    let (model, _) = fake::model(&Sizes { context: 20, ..Sizes::default() });
    let text = |text: &str| model.stream(&Prompt::Text(text.into()), &greedy(1)).unwrap();
    for (prompt, expected) in [(String::new(), "no tokens"), ("a".repeat(21), "21 tokens, the context 20")] {
        let stream = text(&prompt);
        let (_, end) = finish(&stream);
        assert!(end.as_ref().is_err_and(|error| error.to_string().contains(expected)), "{end:?}");
        assert_eq!(stream.next(Some(Duration::ZERO)).err(), end.clone().err(), "the end stays the end");
        assert_eq!(model.generate(&Prompt::Text(prompt), &greedy(1)).err(), end.err());
    }
    assert_eq!(finish(&text(&"a".repeat(20))).1, Ok(FinishReason::Length));

    // 20 tokens of at most eight bytes: `<|turn|>` is the longest.
    assert_eq!(finish(&text(&"<|turn|>".repeat(20))).1, Ok(FinishReason::Length));
    let refused = model.stream(&Prompt::Text("<|turn|>".repeat(20) + "a"), &greedy(1)).err();
    assert!(matches!(&refused, Some(Error::ContextFull(what)) if what.contains("161 bytes")), "{refused:?}");
}

#[test]
fn opening_a_stream_does_not_wait_for_the_tokenizer() {
    let (model, _) = fake::model(&Sizes { context: 1 << 20, kv_tokens: 1 << 20, ..Sizes::default() });
    let running = open(&model, &prompt(4, 1), &greedy(1 << 19));
    let long = "a".repeat(1 << 20);
    let called = Instant::now();
    model.tokenize(&long, true).unwrap();
    let tokenizing = called.elapsed();
    let called = Instant::now();
    let streams: Vec<Stream> = (0..8).map(|_| model.stream(&Prompt::Text(long.clone()), &greedy(1)).unwrap()).collect();
    let opened = called.elapsed();
    assert_eq!(streams[7].next(Some(Duration::ZERO)), Ok(Event::Pending));
    let expired = GenerateOptions { deadline: Some(Duration::from_nanos(1)), ..greedy(1) };
    let expired = model.stream(&Prompt::Text("late".into()), &expired).unwrap();
    streams.iter().for_each(Stream::cancel);
    for stream in &streams {
        assert_eq!(finish(stream), (String::new(), Err(Error::Cancelled)));
    }
    assert!(opened < tokenizing, "eight calls took {opened:?}, the tokenizer {tokenizing:?} for one text");
    assert!(streams[7].stats().prompt_tokens == 0, "it was cancelled before its turn");
    assert_eq!(finish(&expired).1, Ok(FinishReason::Deadline));
    let generated = running.stats().generated_tokens;
    drop(streams);
    assert!(matches!(running.next(None), Ok(Event::Text(_))) && running.stats().generated_tokens >= generated);
}

#[test]
fn streams_with_texts_that_nobody_reads_end_with_the_model() {
    let (model, control) = fake::model(&Sizes { context: 1 << 16, ..Sizes::default() });
    for _ in 0..20 {
        drop(model.stream(&Prompt::Text("a".repeat(1 << 16)), &greedy(5)).unwrap());
    }
    let last = model.stream(&Prompt::Text("ab".into()), &greedy(2)).unwrap();
    drop(model);
    assert_eq!(finish(&last).1, Ok(FinishReason::Length));
    assert_eq!(last.stats().prompt_tokens, 2);
    drop(last);
    assert!(control.dropped.load(Ordering::SeqCst));
}

#[test]
fn an_evaluation_takes_no_step_with_more_logits_than_were_planned() {
    let (model, control) = fake::model(&Sizes { context: 300, chunk: 200, ..Sizes::default() });
    let ids = prompt(250, 2);
    let logits = model.eval(&ids).unwrap();
    let expected: Vec<f32> = (1..=ids.len()).flat_map(|seen| fake::logits(&ids[..seen], &[])).collect();
    assert!(logits == expected);
    let batches = control.batches.lock().unwrap();
    let rows: Vec<usize> = batches.iter().map(|batch| batch[0].1).collect();
    assert_eq!(rows, [65, 65, 65, 55]);
}

#[test]
fn a_deadline_ends_a_stream_in_line_and_a_running_one() {
    let (model, control) = fake::model(&Sizes { streams: 1, ..Sizes::default() });
    control.close();
    let soon = Some(Duration::from_secs(1));
    let running = open(&model, &prompt(4, 0), &GenerateOptions { deadline: soon, ..greedy(50) });
    control.wait_for_steps(1);
    let waiting = open(&model, &prompt(4, 1), &GenerateOptions { deadline: soon, ..greedy(50) });
    let patient = open(&model, &prompt(4, 2), &GenerateOptions { deadline: Some(Duration::MAX), ..greedy(5) });
    std::thread::sleep(Duration::from_millis(1010));
    control.open();
    assert_eq!(finish(&running).1, Ok(FinishReason::Deadline));
    assert_eq!(running.stats().generated_tokens, 1, "the step in progress was completed");
    assert_eq!(finish(&waiting), (String::new(), Ok(FinishReason::Deadline)));
    assert_eq!(finish(&patient).1, Ok(FinishReason::Length));
}

#[test]
fn generations_end_as_their_options_say() {
    let (model, control) = fake::model(&Sizes::default());
    script(&control, "one two three");
    let start = script_start(&control);
    let run = |options: GenerateOptions| finish(&open(&model, &start, &options));
    let text = |text: &str, reason| (text.to_owned(), Ok(reason));

    assert_eq!(run(greedy(40)), text("one two three", FinishReason::EndOfSequence));
    assert_eq!(run(greedy(5)), text("one t", FinishReason::Length));
    let stop = |stop: &str| GenerateOptions { stop: vec!["never".into(), stop.into()], ..greedy(40) };
    assert_eq!(run(stop("two")), text("one ", FinishReason::Stop));
    assert_eq!(run(stop("three and")), text("one two three", FinishReason::EndOfSequence), "held text comes out");
    assert_eq!(run(GenerateOptions { stop: vec!["two".into()], ..greedy(6) }), text("one tw", FinishReason::Length));
    let special = vec!["three and".into(), "<|end|>".into()];
    let special = GenerateOptions { stop: special, ignore_eos: true, ..greedy(40) };
    assert_eq!(run(special), text("one two three", FinishReason::Stop), "a stop string that is a special token");
    let past = GenerateOptions { ignore_eos: true, ..greedy(20) };
    assert_eq!(run(past), text("one two threeone tw", FinishReason::Length), "the end has no text");

    // The script asks for the end 13 tokens in; until 15 another token must be drawn.
    let stream = open(&model, &start, &GenerateOptions { min_tokens: 15, ..greedy(40) });
    assert_eq!(finish(&stream).1, Ok(FinishReason::EndOfSequence));
    let tokens = stream.tokens();
    assert!(![EOS, EOT].contains(&tokens[13]), "{tokens:?}");
    assert_eq!((tokens.len(), tokens.last()), (28, Some(&EOS)), "the end that comes round again is taken");

    *control.script.lock().unwrap() = vec![u32::from(b'x'), EOT];
    let generation = model.generate(&Prompt::Text("ab".into()), &greedy(40)).unwrap();
    assert_eq!((generation.text.as_str(), generation.finish), ("x", FinishReason::EndOfSequence), "either id ends it");
    assert_eq!((generation.stats.prompt_tokens, generation.stats.generated_tokens), (2, 2));
}

#[test]
fn text_comes_in_whole_code_points() {
    let (model, control) = fake::model(&Sizes::default());
    script(&control, "né 🙂");
    let stream = open(&model, &script_start(&control), &greedy(40));
    let mut text = String::new();
    loop {
        match stream.next(None).unwrap() {
            Event::Text(more) => text.push_str(&more),
            Event::Done(_) => break,
            Event::Pending => {}
        }
    }
    assert_eq!(text, "né 🙂");
    let (text, _) = finish(&open(&model, &script_start(&control), &greedy(2)));
    assert_eq!(text, "n\u{fffd}", "what is cut for good is replaced");
}

#[test]
fn a_failed_step_ends_its_streams_and_the_engine_goes_on() {
    let (model, control) = fake::model(&Sizes { streams: 2, ..Sizes::default() });
    control.close();
    let streams: Vec<Stream> = (0..3).map(|i| open(&model, &prompt(4, i), &greedy(3))).collect();
    control.wait_for_steps(1);
    control.fail_next.store(true, Ordering::SeqCst);
    control.open();
    let ends: Vec<_> = streams.iter().map(|stream| finish(stream).1).collect();
    assert!(matches!(ends[0], Err(Error::DeviceLost(_))), "{ends:?}");
    assert_eq!(ends[2], Ok(FinishReason::Length), "it was not part of the step");
    assert_eq!(streams[2].tokens(), continuation(&prompt(4, 2), 3));
    assert!(model.eval(&[1, 2, 3]).is_ok());
}

#[test]
fn a_panic_ends_all_streams_and_the_model_answers_with_errors() {
    let (model, control) = fake::model(&Sizes { streams: 1, ..Sizes::default() });
    control.close();
    control.panic_next.store(true, Ordering::SeqCst);
    let streams: Vec<Stream> = (0..3).map(|i| open(&model, &prompt(4, i), &greedy(3))).collect();
    control.open();
    for stream in &streams {
        let (text, end) = finish(stream);
        assert!(text.is_empty());
        assert!(matches!(&end, Err(Error::Panic(what)) if what.starts_with("the test asked for it at ")), "{end:?}");
    }
    assert!(matches!(model.eval(&[1]), Err(Error::Panic(_))));
    assert!(matches!(finish(&open(&model, &[1], &greedy(1))).1, Err(Error::Panic(_))));
    assert!(model.tokenize("abc", true).is_ok());
    drop(streams);
    drop(model);
    assert!(control.dropped.load(Ordering::SeqCst), "the memory is freed");
}

#[test]
fn handles_may_go_in_any_order() {
    // The stream last, running: it keeps the model alive, and its end is the model's.
    let (model, control) = fake::model(&Sizes::default());
    control.close();
    let stream = open(&model, &prompt(4, 0), &greedy(50));
    drop(model);
    assert!(!control.dropped.load(Ordering::SeqCst));
    control.open();
    assert_eq!(finish(&stream).1, Ok(FinishReason::Length));
    drop(stream);
    assert!(control.dropped.load(Ordering::SeqCst));

    // Both gone while a step is in progress: the last drop waits for the step and frees.
    let (model, control) = fake::model(&Sizes::default());
    control.close();
    let streams = [open(&model, &prompt(4, 0), &greedy(50)), open(&model, &prompt(4, 1), &greedy(50))];
    control.wait_for_steps(1);
    let opener = fake::open_later(&control);
    drop(model);
    drop(streams);
    assert!(control.dropped.load(Ordering::SeqCst));
    opener.join().unwrap();

    // The model alone, idle.
    let (model, control) = fake::model(&Sizes::default());
    let copy = model.clone();
    drop(model);
    assert!(!control.dropped.load(Ordering::SeqCst));
    drop(copy);
    assert!(control.dropped.load(Ordering::SeqCst));
}

#[test]
fn a_log_function_may_panic_and_may_drop_the_last_handle() {
    let held: Arc<Mutex<Option<Model>>> = Arc::default();
    let (mut parts, control) = fake::parts(&Sizes::default());
    let in_log = held.clone();
    parts.log = Some(Arc::new(move |level, line| {
        assert_eq!((level, line.contains("pulled it out")), (LogLevel::Error, true));
        drop(in_log.lock().unwrap().take());
        std::panic::resume_unwind(Box::new("a host's mistake"));
    }));
    let model = Model::start(parts).unwrap();
    *held.lock().unwrap() = Some(model.clone());
    control.fail_next.store(true, Ordering::SeqCst);
    assert!(matches!(model.eval(&[1]), Err(Error::DeviceLost(_))));
    assert!(held.lock().unwrap().is_none());
    assert!(model.eval(&[1]).is_ok(), "the engine survived its host's mistake");
}

#[test]
fn many_threads_use_one_model_and_two_models_run_at_once() {
    let (one, _) = fake::model(&Sizes::default());
    let (two, _) = fake::model(&Sizes { chunk: 3, ..Sizes::default() });
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let model = if thread % 4 == 0 { &two } else { &one };
            scope.spawn(move || {
                for round in 0..5 {
                    let prompt = prompt(3 + 2 * thread as usize, 10 * thread + round);
                    let stream = open(model, &prompt, &greedy(10));
                    if round == 2 {
                        drop(stream);
                        continue;
                    }
                    assert_eq!(finish(&stream).1, Ok(FinishReason::Length));
                    assert_eq!(stream.tokens(), continuation(&prompt, 10));
                }
            });
        }
    });
}

#[test]
fn tokens_and_texts_go_both_ways() {
    let (model, _) = fake::model(&Sizes::default());
    assert_eq!(model.tokenize("a<|end|>", true), Ok(vec![97, EOS]));
    assert_eq!(model.tokenize("a<|end|>", false).unwrap().len(), 8);
    assert_eq!(model.detokenize(&[97, EOS, 98], false), Ok("ab".into()));
    assert_eq!(model.detokenize(&[97, EOS, 98], true), Ok("a<|end|>b".into()));
    assert!(matches!(model.detokenize(&[5000], true), Err(Error::InvalidArgument(_))));
    assert!(matches!(model.render_chat("[]"), Err(Error::Unsupported { .. })));
}

#[test]
fn expert_counters_are_read_by_layer() {
    let (model, _) = fake::model(&Sizes::default());
    assert_eq!(model.expert_stats().hit_rate, 0.0);
    model.eval(&[1, 2, 3]).unwrap();
    let stats = model.expert_stats();
    assert_eq!((stats.activations, stats.hits, stats.experts, stats.resident_experts), (2, 2, 4, 4));
    assert_eq!(model.expert_counts(1), Ok(vec![1, 0]));
    assert!(matches!(model.expert_counts(2), Err(Error::InvalidArgument(what)) if what.contains("2 layers")));
}
