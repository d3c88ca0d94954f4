//! Which key was probably meant by an unknown name.

use super::keys::KEYS;

/// The valid path that an unknown one was probably meant to be.
#[must_use]
pub fn nearest(unknown: &str) -> Option<&'static str> {
    let (parent, name) = unknown.rsplit_once('.').unwrap_or(("", unknown));
    let paths = || KEYS.iter().flat_map(|key| sections(key.path)).chain(KEYS.iter().map(|key| key.path));
    let split = |path: &'static str| path.rsplit_once('.').unwrap_or(("", path));
    let sibling = closest(paths().filter(|path| split(path).0 == parent), name, |path| split(path).1);
    let elsewhere = || paths().find(|path| split(path).1 == name);
    sibling.or_else(elsewhere).or_else(|| closest(paths(), unknown, |path| path))
}

/// The sections that a path lies in.
fn sections(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.match_indices('.').filter_map(|(at, _)| path.get(..at))
}

fn closest(
    paths: impl Iterator<Item = &'static str>,
    wanted: &str,
    part: impl Fn(&'static str) -> &'static str,
) -> Option<&'static str> {
    let limit = (wanted.len() / 3).max(1);
    paths
        .map(|path| (strsim::damerau_levenshtein(part(path), wanted), path))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_in_the_section_or_in_another() {
        assert_eq!(nearest("source.hots"), Some("source.host"));
        assert_eq!(nearest("sorce"), Some("source"));
        assert_eq!(nearest("kafka.topic"), Some("kafka.topics"));
        assert_eq!(nearest("capture.brokers"), Some("kafka.brokers"));
        assert_eq!(nearest("kafka.topics.partition"), Some("kafka.topics.partitions"));
        assert_eq!(nearest("source.zzzzzz"), None);
    }
}
