//! Reads a file of the session that grows, and that somebody may empty.
//!
//! A script that opens `/dev/stdout` or `/dev/stderr` by name (`echo … > /dev/stderr`) empties the spool behind it. What
//! had not been read by then is lost; what comes after must not be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// How many of the bytes that were read last are remembered, to see whether the file was emptied and has grown again.
const REMEMBERED: usize = 64;

/// A file that is read as it grows.
#[derive(Debug)]
pub struct Follow {
    file: File,
    /// How far it was read.
    at: u64,
    /// The bytes before that.
    before: Vec<u8>,
}

impl Follow {
    /// Goes on at a place to which somebody has read the file; at its start where the file does not reach so far.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(file: File, at: u64) -> io::Result<Self> {
        if at > file.metadata()?.len() {
            return Ok(Self::from_the_start(file));
        }
        let remembered = usize::try_from(at).unwrap_or(REMEMBERED).min(REMEMBERED);
        let mut before = vec![0; remembered];
        match file.read_exact_at(&mut before, at - remembered as u64) {
            Ok(()) => Ok(Self { file, at, before }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Self::from_the_start(file)),
            Err(error) => Err(error),
        }
    }

    /// Reads the whole of a file.
    #[must_use]
    pub fn from_the_start(file: File) -> Self {
        Self { file, at: 0, before: Vec::new() }
    }

    /// How far it was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads what was added since the last time, in pieces of bounded size, `most` bytes at most. Whether there is more. What
    /// is added meanwhile is left for the next time, or a flood would never end.
    pub fn read_some(&mut self, most: u64, take: impl FnMut(&[u8])) -> bool {
        self.try_read_some(most, take).unwrap_or_else(|error| {
            tracing::warn!("cannot read on in a file of the session: {error}");
            false
        })
    }

    /// As [`Self::read_some`].
    ///
    /// # Errors
    /// It cannot be read.
    pub fn try_read_some(&mut self, most: u64, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        self.start_again_if_emptied()?;
        let all = self.file.metadata()?.len().saturating_sub(self.at);
        let mut pending = all.min(most);
        if pending == 0 {
            return Ok(false);
        }
        let mut buffer = vec![0; 64 * 1024];
        while pending > 0 {
            let most = buffer.len().min(usize::try_from(pending).unwrap_or(usize::MAX));
            match self.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(length) => {
                    take(&buffer[..length]);
                    pending -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all > most)
    }

    /// Reads what comes next, from the start again if the file was emptied; 0 at its end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.start_again_if_emptied()?;
        let length = self.file.read_at(buffer, self.at)?;
        self.at += length as u64;
        self.before.extend_from_slice(&buffer[length.saturating_sub(REMEMBERED)..length]);
        self.before.drain(..self.before.len().saturating_sub(REMEMBERED));
        Ok(length)
    }

    fn start_again_if_emptied(&mut self) -> io::Result<()> {
        let mut buffer = [0; REMEMBERED];
        let there = &mut buffer[..self.before.len()];
        match self.file.read_exact_at(there, self.at - there.len() as u64) {
            Ok(()) if *there == *self.before => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        tracing::debug!("a file of the session was emptied when {} bytes of it had been read", self.at);
        (self.at, self.before) = (0, Vec::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(follow: &mut Follow) -> String {
        let mut buffer = [0; 4096];
        let length = follow.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Guards the output, and the sign of an interrupt in it, of a script that writes to `/dev/stderr` by name.
    #[test]
    fn a_file_that_was_emptied_is_read_from_its_start() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let mut follow = Follow::from_the_start(File::open(written.path()).unwrap());
        let mut append = File::options().append(true).open(written.path()).unwrap();
        append.write_all(b"Terraform: first\n").unwrap();
        assert_eq!(read(&mut follow), "Terraform: first\n");
        assert_eq!(read(&mut follow), "");
        std::fs::write(written.path(), "script\n").unwrap();
        append.write_all(b"Terraform: second\n").unwrap();
        assert_eq!(read(&mut follow), "script\nTerraform: second\n", "longer than before");
        std::fs::write(written.path(), "x").unwrap();
        assert_eq!(read(&mut follow), "x", "shorter than before");
        let shorter = Follow::new(File::open(written.path()).unwrap(), 100).unwrap();
        assert_eq!(shorter.position(), 0);
        append.write_all(&[b'y'; 300]).unwrap();
        let mut later = Follow::new(File::open(written.path()).unwrap(), 200).unwrap();
        assert_eq!((later.position(), read(&mut later).len(), later.position()), (200, 101, 301));
    }

    /// Guards against a flood of records that keeps the supervisor from a stop.
    #[test]
    fn a_piece_of_what_was_added_can_be_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut follow = Follow::from_the_start(File::open(file.path()).unwrap());
        file.as_file().write_all(&[b'x'; 150_000]).unwrap();
        let mut read = 0;
        assert!(follow.read_some(70_000, |chunk| read += chunk.len()));
        assert_eq!((read, follow.position()), (70_000, 70_000));
        assert!(!follow.read_some(80_000, |chunk| read += chunk.len()));
        assert_eq!(read, 150_000);
    }

    /// Guards against a flood of output that keeps tfguard from everything else, the kill too.
    #[test]
    fn what_is_added_while_a_file_is_read_is_left_for_the_next_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut follow = Follow::from_the_start(File::open(file.path()).unwrap());
        let mut all = Vec::new();
        file.as_file().write_all(b"a").unwrap();
        for _ in 0..3 {
            follow.read_some(u64::MAX, |chunk| {
                all.extend_from_slice(chunk);
                file.as_file().write_all(b"some more").unwrap();
                assert!(all.len() < 1000, "it never ends");
            });
        }
        let mut there = std::fs::read(file.path()).unwrap();
        there.truncate(all.len());
        assert_eq!(all, there);
        assert!(all.len() > 1);
    }
}
