//! What fuzzing has found once holds without it: the seeds of the target `avro_resolution`, judged as there.

use std::{fs, process::Command};

use self::resolution::Case;
use crate::support::MemoryStore;

#[path = "../../fuzz/src/resolution.rs"]
mod resolution;

#[test]
fn what_is_an_event_by_a_seed_s_schema_apache_avro_reads_too() {
    let folder = tempfile::tempdir().unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/avro_resolution.tar.gz");
    let unpacked = Command::new("tar").args(["-xzf", archive, "-C"]).arg(folder.path()).status().unwrap();
    assert!(unpacked.success(), "tar: {unpacked}");
    let (mut seeds, mut schemas, mut events) = (0, 0, 0);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let case = Case::new(&fs::read(entry.unwrap().path()).unwrap());
        let store = MemoryStore(vec![("t".to_owned(), case.schema().to_owned())].into());
        seeds += 1;
        let Some(mut decoder) = Case::decoder(1, &store) else { continue };
        // Most seeds end in an error. A further field of any of these sizes, no row before, and a row after it that is null, empty or
        // zero wherever a type has that as a zero.
        let zeros = |extra: usize| (0..40).map(move |count| [&vec![0; extra + 1][..], &[2], &vec![0; count]].concat());
        for tail in [case.tail.clone()].into_iter().chain([0, 1, 4, 8].into_iter().flat_map(zeros)) {
            events += usize::from(case.judge(&mut decoder, 1, &Case::body(&tail)));
        }
        schemas += 1;
    }
    println!("{events} events of {schemas} schemas of {seeds} seeds");
    assert!(seeds > 600 && schemas > 100 && events > 100, "{events} events of {schemas} schemas of {seeds} seeds");
}
