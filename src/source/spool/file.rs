//! One file for all transactions, in blocks of one size: a free block is taken again, and free blocks at the end are cut off.
//!
//! The file has no name: it is made and unlinked at once, so the system frees it with the process, and no other process meets it.
//! One file, because there may be more open transactions than a process may have open files. Readable by its owner alone, since it
//! holds values of rows.
//!
//! ```text
//! checksum (4) · transaction (4) · number in it (4) · length (4) · bytes
//! ```
//!
//! The checksum covers all that follows it; transaction and number tell a block that was written to another's place.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::BytesMut;

use super::problem::Problem;

/// Size of a block in the file.
pub const BLOCK: usize = 64 * 1024;
/// Bytes in front of a block's content.
const HEADER: usize = 16;
/// What a block holds.
pub const CAPACITY: usize = BLOCK - HEADER;

/// A block on its way into the file.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Top-level transaction id.
    pub xid: u32,
    /// Number of the block in its transaction.
    pub number: u32,
    /// At most [`CAPACITY`] bytes.
    pub bytes: &'a [u8],
}

/// Where a block is, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the block in the file.
    pub index: u32,
    /// Top-level transaction id.
    pub xid: u32,
    /// Number of the block in its transaction.
    pub number: u32,
}

/// The file.
#[derive(Debug)]
pub struct BlockFile {
    folder: PathBuf,
    file: File,
    /// Blocks that the file may have.
    most: u32,
    /// Blocks that it has.
    len: u32,
    /// Those of them that nobody uses.
    free: BTreeSet<u32>,
    scratch: Vec<u8>,
}

impl BlockFile {
    /// An empty file in a folder; it takes at most so many bytes.
    pub fn create(folder: &Path, limit: u64) -> Result<Self, Problem> {
        let failed = |source| Problem::Io { folder: folder.to_owned(), doing: "made", source };
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        let most = u32::try_from(limit / BLOCK as u64).unwrap_or(u32::MAX);
        Ok(Self { folder: folder.to_owned(), file, most, len: 0, free: BTreeSet::new(), scratch: vec![0; BLOCK] })
    }

    /// Bytes of the blocks in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        let free = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        u64::from(self.len.saturating_sub(free)) * BLOCK as u64
    }

    /// Writes a block; gives its number in the file.
    pub fn write(&mut self, block: Block<'_>) -> Result<u32, Problem> {
        let index = match self.free.first() {
            Some(index) => *index,
            None if self.len < self.most => self.len,
            None => return Err(self.full(None)),
        };
        self.fill(block);
        if let Err(error) = self.file.write_all_at(&self.scratch, offset(index)) {
            return Err(match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => self.full(Some(error)),
                _ => self.failed("written", error),
            });
        }
        if !self.free.remove(&index) {
            self.len += 1;
        }
        Ok(index)
    }

    /// Appends a block's content to `out`.
    pub fn read(&mut self, place: Place, out: &mut BytesMut) -> Result<(), Problem> {
        if let Err(error) = self.file.read_exact_at(&mut self.scratch, offset(place.index)) {
            return Err(match error.kind() {
                ErrorKind::UnexpectedEof => self.corrupt("a block is cut off"),
                _ => self.failed("read", error),
            });
        }
        let (checksum, covered) = self.scratch.split_at(4);
        if crc32fast::hash(covered).to_be_bytes() != checksum {
            return Err(self.corrupt("a block has another checksum"));
        }
        let field = |at: usize| covered.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_be_bytes);
        if (field(0), field(4)) != (Some(place.xid), Some(place.number)) {
            return Err(self.corrupt("a block is in another's place"));
        }
        let len = field(8).and_then(|len| usize::try_from(len).ok());
        match len.and_then(|len| self.scratch.get(HEADER..HEADER + len)) {
            Some(bytes) => out.extend_from_slice(bytes),
            None => return Err(self.corrupt("a block is longer than it can be")),
        }
        Ok(())
    }

    /// Gives a block back.
    pub fn free(&mut self, index: u32) {
        self.free.insert(index);
        let before = self.len;
        while self.len > 0 && self.free.remove(&(self.len - 1)) {
            self.len -= 1;
        }
        if self.len < before {
            // The space is only not given back yet.
            let _ = self.file.set_len(offset(self.len));
        }
    }

    fn fill(&mut self, block: Block<'_>) {
        let len = u32::try_from(block.bytes.len()).unwrap_or(u32::MAX);
        self.scratch.clear();
        self.scratch.extend([0; 4]);
        for field in [block.xid, block.number, len] {
            self.scratch.extend(field.to_be_bytes());
        }
        self.scratch.extend_from_slice(block.bytes);
        self.scratch.resize(BLOCK, 0);
        let (checksum, covered) = self.scratch.split_at_mut(4);
        checksum.copy_from_slice(&crc32fast::hash(covered).to_be_bytes());
    }

    fn full(&self, source: Option<io::Error>) -> Problem {
        Problem::Full { folder: self.folder.clone(), bytes: self.used(), source }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Problem {
        Problem::Io { folder: self.folder.clone(), doing, source }
    }

    fn corrupt(&self, reason: &'static str) -> Problem {
        Problem::Corrupt { folder: self.folder.clone(), reason }
    }
}

fn offset(index: u32) -> u64 {
    u64::from(index) * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(blocks: u64) -> (tempfile::TempDir, BlockFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = BlockFile::create(folder.path(), blocks * BLOCK as u64).unwrap();
        (folder, file)
    }

    fn block(number: u32, bytes: &[u8]) -> Block<'_> {
        Block { xid: 1, number, bytes }
    }

    fn read(file: &mut BlockFile, index: u32, number: u32) -> Result<BytesMut, Problem> {
        let mut out = BytesMut::new();
        file.read(Place { index, xid: 1, number }, &mut out).map(|()| out)
    }

    #[test]
    fn blocks_come_back_and_their_places_are_used_again() {
        let (folder, mut file) = file(2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has a name");
        let full = vec![7; CAPACITY];
        assert_eq!((file.write(block(0, b"a")).unwrap(), file.write(block(1, &full)).unwrap()), (0, 1));
        assert_eq!((&read(&mut file, 0, 0).unwrap()[..], &read(&mut file, 1, 1).unwrap()[..]), (&b"a"[..], &full[..]));
        assert!(matches!(file.write(block(2, b"c")), Err(Problem::Full { source: None, .. })));
        file.free(0);
        assert_eq!(file.used(), BLOCK as u64);
        assert_eq!(file.write(block(2, b"c")).unwrap(), 0);
        for index in [0, 1] {
            file.free(index);
        }
        assert_eq!((file.used(), file.file.metadata().unwrap().len()), (0, 0));
    }

    #[test]
    fn what_was_not_written_so_is_told() {
        let (_folder, mut file) = file(9);
        file.write(block(0, b"content")).unwrap();
        let reason = |read: Result<BytesMut, Problem>| match read {
            Err(Problem::Corrupt { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(read(&mut file, 0, 1)), "a block is in another's place");
        for at in [0, 5, 18, 60_000] {
            let mut byte = [0];
            file.file.read_exact_at(&mut byte, at).unwrap();
            file.file.write_all_at(&[!byte[0]], at).unwrap();
            assert_eq!(reason(read(&mut file, 0, 0)), "a block has another checksum", "{at}");
            file.file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(&read(&mut file, 0, 0).unwrap()[..], b"content");
        file.file.set_len(100).unwrap();
        assert_eq!(reason(read(&mut file, 0, 0)), "a block is cut off");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = BlockFile::create(Path::new("/nowhere"), 0).unwrap_err();
        assert!(matches!(error, Problem::Io { doing: "made", .. }), "{error}");
        assert_eq!(error.to_string(), "the spool in /nowhere cannot be made");
    }
}
