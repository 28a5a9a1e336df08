//! What a message says where a name is wrong: the one that was meant, or those that there are.

use std::borrow::Cow;

/// The most characters of a name that are compared, so that a hostile one does not cost quadratic time.
const COMPARED: usize = 64;

/// The candidate that `name` was probably meant to be: the one that differs least, if it is near enough for a
/// slip of the hand. A swap of neighbours is one slip; case does not count, nor does `_` for `-`.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| -> String {
        let letters = name.chars().take(COMPARED).flat_map(char::to_lowercase);
        letters.map(|c| if c == '_' { '-' } else { c }).collect()
    };
    let typed = plain(name);
    candidates
        .into_iter()
        .map(|candidate| {
            let candidate_plain = plain(candidate);
            let allowed = (candidate_plain.chars().count() / 3).max(1);
            (
                strsim::osa_distance(&typed, &candidate_plain),
                allowed,
                candidate,
            )
        })
        .filter(|(distance, allowed, _)| distance <= allowed)
        .min_by_key(|(distance, _, candidate)| (*distance, *candidate))
        .map(|(_, _, candidate)| candidate)
}

/// A hint with the candidate that was probably meant, or else with all of them if they are few.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let mut all: Vec<String> = candidates.into_iter().map(|c| format!("`{c}`")).collect();
    all.sort();
    all.dedup();
    match all.len() {
        0 => None,
        1 => Some(format!("there is only {}", all[0])),
        2..=20 => Some(format!("there are {}", all.join(", "))),
        _ => None,
    }
}

/// How many names a message lists, and how many characters of each: input names its columns itself.
const LISTED: usize = 40;
const SHOWN: usize = 60;

/// A hint for a name that is not known: the nearest one that is, or all of them, unless they are many.
pub fn suggest(written: &str, known: &[&str], list: &str) -> String {
    match nearest(written, known.iter().copied()) {
        Some(name) => format!("did you mean `{}`?", excerpt(name)),
        None => {
            let names = known.iter().take(LISTED);
            let names: Vec<String> = names.map(|name| format!("`{}`", excerpt(name))).collect();
            format!("{list} {}{}", names.join(", "), and_more(known.len()))
        }
    }
}

/// Names that input has given, as a message lists them.
pub fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(|name| excerpt(name));
    format!(
        "{}{}",
        shown.collect::<Vec<_>>().join(","),
        and_more(names.len())
    )
}

fn and_more(count: usize) -> String {
    match count.saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// The beginning of a name that may be of any length.
pub fn excerpt(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(SHOWN) {
        None => name.into(),
        Some((end, _)) => format!("{}…", &name[..end]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_name_and_nonsense_does_not() {
        let names = ["interval", "min-pause", "timeout"];
        assert_eq!(nearest("intervall", names), Some("interval"));
        assert_eq!(nearest("min_pause", names), Some("min-pause"));
        assert_eq!(nearest("TIMEOUT", names), Some("timeout"));
        assert_eq!(nearest("colour", names), None);
    }

    #[test]
    fn c164_messages_stay_short_whatever_is_named() {
        let names: Vec<String> = (0..100_000)
            .map(|n| format!("{n}{}", "x".repeat(n % 300)))
            .collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        for text in [suggest("key", &known, "the columns are"), listed(&names)] {
            assert!(text.len() < 10_000, "{} bytes", text.len());
            assert!(text.ends_with(" and 99960 more"), "{text}");
        }
        assert_eq!(listed(&["a".to_owned(), "b".to_owned()]), "a,b");
        assert_eq!(excerpt(&"é".repeat(61)).chars().count(), 61);
    }

    #[test]
    fn a_swap_of_neighbours_is_one_slip() {
        assert_eq!(nearest("fromat", ["format", "path"]), Some("format"));
        assert_eq!(nearest("ptah", ["format", "path"]), Some("path"));
        assert_eq!(nearest("xyz", ["format", "path"]), None);
        assert_eq!(nearest("", ["abc"]), None);
        assert_eq!(nearest("dep_dealy", ["dep_delay"]), Some("dep_delay"));
    }
}
