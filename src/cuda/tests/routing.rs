//! The choice of experts, and the groups that many rows make.

use super::super::args::{Expert, Item, MoeArgs, QuantisedRow};
use super::super::memory::DevicePtr;
use super::{Bench, values};

/// Arguments of nothing.
pub fn no_moe() -> MoeArgs {
    MoeArgs {
        routed: Expert::NONE,
        shared: Expert::NONE,
        spacing: 0,
        table: DevicePtr::NULL,
        logits: DevicePtr::NULL,
        shared_gate: DevicePtr::NULL,
        input: DevicePtr::NULL,
        norm: DevicePtr::NULL,
        x: DevicePtr::NULL,
        choices: DevicePtr::NULL,
        shares: DevicePtr::NULL,
        entry_rows: DevicePtr::NULL,
        entry_of: DevicePtr::NULL,
        items: DevicePtr::NULL,
        item_count: DevicePtr::NULL,
        activations: DevicePtr::NULL,
        outputs: DevicePtr::NULL,
        row: QuantisedRow::NONE,
        eps: 1e-6,
        experts: 0,
        top_k: 0,
        width: 0,
        shared_width: 0,
        hidden: 0,
        count: 0,
        normalise: 1,
        max_items: 0,
        gate_up_forms: 0,
        down_forms: 0,
        item_rows: 1,
        gate_up_slots: 0,
        down_slots: 0,
    }
}

/// The best `top_k` of `logits` and their shares.
pub fn route(logits: &[f32], top_k: usize, normalise: bool) -> Vec<(u32, f64)> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |e: u32| logits[e as usize];
    order.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b)));
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let share = |e: u32| f64::from(logit(e) - largest).exp();
    let among = if normalise { &order[..top_k] } else { &order[..] };
    let total: f64 = among.iter().map(|e| share(*e)).sum();
    let finite = logits.iter().all(|l| l.is_finite());
    order[..top_k].iter().map(|e| (*e, if finite { share(*e) / total } else { f64::NAN })).collect()
}

/// Launches `moe_route`.
pub fn launch_route(bench: &Bench, args: MoeArgs) {
    bench.run(&bench.kernel("moe_route"), [args.count as usize, 1, 1], 256, 0, args);
}

fn check(
    bench: &mut Bench,
    experts: usize,
    top_k: usize,
    count: usize,
    normalise: bool,
    shared: bool,
    item_rows: usize,
) {
    let mut logits = values(experts as u32 + 5, count * experts);
    // Ties, and a row that is broken.
    logits.iter_mut().for_each(|l| *l = (*l * 40.0).round() / 8.0);
    if count > 2 {
        logits[experts + 1] = f32::NAN;
    }
    let entries = count * top_k + if shared { count } else { 0 };
    let max_items = entries.min(experts + entries) + count;
    let (choices, shares) = (bench.room::<u32>(count * top_k), bench.room::<f32>(count * top_k));
    let (entry_rows, entry_of) = (bench.room::<u32>(entries), bench.room::<u32>(count * top_k));
    let (items, item_count) = (bench.room::<Item>(max_items), bench.room::<u32>(1));
    let args = MoeArgs {
        logits: bench.put(&logits),
        choices: choices.slice.start(),
        shares: shares.slice.start(),
        entry_rows: entry_rows.slice.start(),
        entry_of: entry_of.slice.start(),
        items: items.slice.start(),
        item_count: item_count.slice.start(),
        experts: experts as u32,
        top_k: top_k as u32,
        shared_width: u32::from(shared),
        count: count as u32,
        normalise: normalise.into(),
        max_items: max_items as u32,
        item_rows: item_rows as u32,
        ..no_moe()
    };
    launch_route(bench, args);
    if count > 1 {
        bench.run(&bench.kernel("moe_group"), [1, 1, 1], 1024, 8 * (experts + 1), args);
    }
    let (choices, shares) = (bench.gpu.download(choices.slice), bench.gpu.download(shares.slice));
    for row in 0..count {
        let expected = route(&logits[row * experts..(row + 1) * experts], top_k, normalise);
        let found = choices[row * top_k..(row + 1) * top_k].iter().zip(&shares[row * top_k..]);
        for ((expert, share), (e, s)) in found.zip(expected) {
            if s.is_nan() {
                assert!(share.is_nan() && (*expert as usize) < experts, "row {row}: {expert} {share}");
                continue;
            }
            assert_eq!(*expert, e, "row {row}");
            assert!((f64::from(*share) - s).abs() < 1e-5, "row {row}: {share} for {s}");
        }
    }
    // Every entry belongs to exactly one item, of its own expert.
    let (entry_rows, entry_of) = (bench.gpu.download(entry_rows.slice), bench.gpu.download(entry_of.slice));
    let number = bench.gpu.download(item_count.slice)[0] as usize;
    let mut expert_of = vec![None; entries];
    for item in &bench.gpu.download(items.slice)[..number] {
        assert!(item.count >= 1 && item.count as usize <= item_rows);
        for entry in item.first..item.first + item.count {
            assert_eq!(expert_of[entry as usize].replace(item.expert), None);
        }
    }
    for (i, entry) in entry_of.iter().enumerate() {
        assert_eq!(expert_of[*entry as usize], Some(choices[i]));
        assert_eq!(entry_rows[*entry as usize] as usize, i / top_k);
    }
    for row in 0..if shared { count } else { 0 } {
        assert_eq!(expert_of[count * top_k + row], Some(experts as u32));
        assert_eq!(entry_rows[count * top_k + row] as usize, row);
    }
}

#[test]
fn routing_takes_the_best_and_groups_rows_by_expert() {
    let Some(mut bench) = Bench::open() else { return };
    for (experts, top_k) in [(512, 10), (128, 8), (7, 3), (5, 5), (33, 1)] {
        for (count, item_rows) in [(1, 1), (2, 8), (3, 2), (70, 8), (300, 64)] {
            for (normalise, shared) in [(true, true), (false, false)] {
                check(&mut bench, experts, top_k, count, normalise, shared, item_rows);
            }
        }
    }
}
