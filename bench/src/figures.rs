//! Figures of several rounds: the middle, the ends, round against round, and how they are shown.

use crate::measured::Measured;

/// The middle one, or between the two in the middle; not a number if there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    match values.len() {
        0 => f64::NAN,
        len => (at((len - 1) / 2) + at(len / 2)) / 2.0,
    }
}

pub(crate) fn middle(runs: &[Measured], figure: fn(&Measured) -> f64) -> f64 {
    median(runs.iter().map(figure))
}

pub(crate) fn shown(figure: f64, digits: usize) -> String {
    if figure.is_nan() {
        "–".into()
    } else {
        format!("{figure:.digits$}")
    }
}

pub(crate) fn millions(figure: f64) -> String {
    shown(figure / 1e6, 2)
}

/// The smallest and the largest; `None` if there are not two.
pub(crate) fn ends(values: &[f64]) -> Option<(f64, f64)> {
    (values.len() > 1).then(|| {
        let start = (f64::INFINITY, f64::NEG_INFINITY);
        values.iter().fold(start, |(low, high), value| {
            (low.min(*value), high.max(*value))
        })
    })
}

/// The middle one and the ends.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let middle = shown(median(values.iter().copied()), digits);
    match ends(values) {
        Some((low, high)) => format!("{middle} ({low:.digits$}–{high:.digits$})"),
        None => middle,
    }
}

/// Round by round, for both were measured one after the other: drift of the machine cancels out.
pub(crate) fn ratios<'a>(of: &'a [Measured], to: &'a [Measured]) -> impl Iterator<Item = f64> + 'a {
    paired(of, to, Measured::per_core)
}

pub(crate) fn paired<'a>(
    of: &'a [Measured],
    to: &'a [Measured],
    figure: fn(&Measured) -> f64,
) -> impl Iterator<Item = f64> + 'a {
    of.iter()
        .zip(to)
        .map(move |(of, to)| figure(of) / figure(to))
}
