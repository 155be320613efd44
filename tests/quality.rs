//! The fast arithmetic stays near the exact one in every number format, on the bundled model.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::process::Command;

use serde_json::Value;

fn quality(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_qm")).args(["quality", "--json"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_format_keeps_its_divergence_and_its_perplexity() {
    let table = quality(&["--tokens", "250"]);
    let rows = table["formats"].as_array().unwrap();
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap();
    let unrounded = number(&rows[0], "exact_perplexity");
    for row in rows {
        let name = &row["format"];
        assert!(number(row, "mean_kl") < 2e-3, "{row}");
        assert!(number(row, "largest_kl") >= number(row, "mean_kl"), "{row}");
        assert!(number(row, "perplexity_difference").abs() < 5e-3, "{row}");
        // The quantisers here are plain, and still write what the library reads: a wrong bit would cost far more.
        let rounding = number(row, "exact_perplexity") / unrounded - 1.0;
        assert!(rounding.abs() < if name == "F16" || name == "BF16" { 1e-3 } else { 0.05 }, "{name}: {rounding}");
        assert!(number(row, "share_in_format") > 0.7, "{row}");
    }
    let names: Vec<&str> = rows.iter().map(|row| row["format"].as_str().unwrap()).collect();
    for name in
        ["F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "NF4", "NF4-double", "FP4", "INT4-32-sym"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let kv: Vec<&str> = rows.iter().map(|row| row["kv"].as_str().unwrap()).collect();
    assert!(kv.contains(&"f16") && kv.contains(&"q8_0"), "{kv:?}");
}

#[test]
fn formats_are_named_as_the_table_names_them() {
    let table = quality(&["--tokens", "20", "--formats", "q4_k,NF4-double"]);
    let names: Vec<&Value> = table["formats"].as_array().unwrap().iter().map(|row| &row["format"]).collect();
    assert_eq!(names, ["Q4_K", "NF4-double"]);
    let wrong = Command::new(env!("CARGO_BIN_EXE_qm")).args(["quality", "--formats", "q3_k"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("Q6_K"));
}
