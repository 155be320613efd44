//! Rotary embedding fields of config.json, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`,
//! `partial_rotary_factor`) and 5 (`rope_parameters`). Definition: modeling_rope_utils.py of transformers 5.17.

use super::config_fields::Fields;
use super::config_refused;
use super::{Family, RopeScaling, RopeSpec};
use crate::error::Result;

/// Reads the rotary embedding of a model with heads of `head_dim` and `context` positions. Names of fields inside
/// `rope_parameters` and `rope_scaling` that nothing knows go to `unrecognised`.
pub(super) fn read(
    config: &Fields<'_>,
    family: Family,
    head_dim: usize,
    context: usize,
    unrecognised: &mut Vec<String>,
) -> Result<RopeSpec> {
    let new = config.object("rope_parameters")?;
    let old = config.object("rope_scaling")?;
    let places = Places { outer: config, inner: [&new, &old].into_iter().flatten().collect() };

    let kind = places.kind()?;
    let theta = places.number("rope_theta")?.ok_or_else(|| config.bad("rope_theta", "the base of the frequencies"))?;
    let partial = places.number("partial_rotary_factor")?;
    if family == Family::Qwen3Moe && partial.is_some_and(|p| p != 1.0) {
        // transformers ignores it in this family unless the frequencies are scaled; no published model has it.
        return Err(places.unsupported("partial_rotary_factor", "1 in the qwen3_moe family"));
    }
    let default = if family == Family::Qwen3Moe { 1.0 } else { 0.25 };
    let partial = partial.unwrap_or(default);
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(places.bad("partial_rotary_factor", "a number above 0, at most 1"));
    }
    let dim = (head_dim as f64 * partial) as usize;
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: places.factor()? },
        "yarn" => yarn(&places, context)?,
        _ => return Err(places.unsupported(places.kind_key(), "default, linear, yarn")),
    };
    if family == Family::Qwen35Moe {
        sections(&places, dim)?;
    }
    for place in &places.inner {
        config_refused::check(place)?;
        unrecognised.extend(place.unrecognised());
    }
    Ok(RopeSpec { dim, theta, scaling })
}

/// Text positions are equal on all three axes, so that the sections only have to add up.
fn sections(places: &Places<'_, '_>, dim: usize) -> Result<()> {
    for place in &places.inner {
        place.flag("mrope_interleaved")?;
        if let Some(sections) = place.sizes("mrope_section")?
            && (sections.len() != 3 || sections.iter().try_fold(0usize, |n, &s| n.checked_add(s)) != Some(dim / 2))
        {
            return Err(place.bad("mrope_section", &format!("three numbers that add up to {}", dim / 2)));
        }
    }
    Ok(())
}

/// `_compute_yarn_parameters`: what is absent or zero takes the paper's value.
fn yarn(places: &Places<'_, '_>, context: usize) -> Result<RopeScaling> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = places.number(ORIGINAL)?.unwrap_or(context as f64);
    if !(1.0..=1e9).contains(&original) || original.fract() != 0.0 {
        return Err(places.bad(ORIGINAL, "an integer from 1 to 1e9"));
    }
    let factor = match places.number("factor")? {
        Some(_) => places.factor()?,
        None => context as f64 / original,
    };
    let positive = |key: &str, default: f64| match places.number(key)? {
        Some(v) if v < 0.0 => Err(places.bad(key, "a positive number")),
        Some(v) if v > 0.0 => Ok(v),
        _ => Ok(default),
    };
    let (beta_fast, beta_slow) = (positive("beta_fast", 32.0)?, positive("beta_slow", 1.0)?);
    let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let (mscale, all_dim) = (places.number("mscale")?, places.number("mscale_all_dim")?);
    let attention_factor = match (places.number("attention_factor")?, mscale, all_dim) {
        (Some(given), _, _) => given,
        (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => magnitude(m) / magnitude(all),
        _ => magnitude(1.0),
    };
    if !(attention_factor > 0.0 && attention_factor <= 1e3) {
        return Err(places.bad("attention_factor", "a number above 0, at most 1000"));
    }
    let truncate = places.flag("truncate")?.unwrap_or(true);
    let original_context = original as usize;
    Ok(RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate })
}

/// The places where a rotary field may stand; where it stands in several, they must agree.
struct Places<'a, 'f> {
    outer: &'f Fields<'a>,
    inner: Vec<&'f Fields<'a>>,
}

impl<'a> Places<'a, '_> {
    /// Fields that stand beside the objects, too.
    const OUTER: [&'static str; 3] = ["rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];

    fn all(&self, key: &str) -> impl Iterator<Item = &Fields<'a>> {
        let outer = Self::OUTER.contains(&key).then_some(self.outer);
        self.inner.iter().copied().chain(outer)
    }

    fn agreed<T: PartialEq>(&self, key: &str, read: impl Fn(&Fields<'a>) -> Result<Option<T>>) -> Result<Option<T>> {
        let mut found: Option<T> = None;
        for place in self.all(key) {
            let here = read(place)?;
            if found.is_some() && here.is_some() && found != here {
                return Err(place.bad(key, "the value that the other spelling of the rotary fields has"));
            }
            found = found.or(here);
        }
        Ok(found)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.agreed(key, |place| place.number(key))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.agreed(key, |place| place.flag(key))
    }

    /// `rope_type`, or `type` as older files spell it.
    fn kind(&self) -> Result<&'a str> {
        let kind = self.agreed("rope_type", |place| {
            let (new, old) = (place.text("rope_type")?, place.text("type")?);
            match (new, old) {
                (Some(a), Some(b)) if a != b => Err(place.bad("type", &format!("'{a}', as rope_type says"))),
                _ => Ok(new.or(old)),
            }
        })?;
        Ok(kind.unwrap_or("default"))
    }

    fn kind_key(&self) -> &'static str {
        if self.inner.iter().any(|p| p.get("rope_type").is_some()) { "rope_type" } else { "type" }
    }

    fn factor(&self) -> Result<f64> {
        let factor = self.number("factor")?.filter(|f| (1.0..=1e6).contains(f));
        factor.ok_or_else(|| self.bad("factor", "a number from 1 to 1e6"))
    }

    /// The place where `key` stands, for messages.
    fn place_of(&self, key: &str) -> &Fields<'a> {
        let first = self.inner.first().copied().unwrap_or(self.outer);
        self.all(key).find(|p| p.get(key).is_some()).unwrap_or(first)
    }

    fn bad(&self, key: &str, expected: &str) -> crate::Error {
        self.place_of(key).bad(key, expected)
    }

    fn unsupported(&self, key: &str, supported: &str) -> crate::Error {
        self.place_of(key).unsupported(key, supported)
    }
}
