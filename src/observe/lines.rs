//! Cuts a text that grows into lines, in bounded memory.

use memchr::memchr;

/// A record of a lock has about 600 bytes, a logged body some kB. Of a longer line no more is kept than one byte beyond this,
/// which tells that it is longer.
pub(crate) const LONGEST: usize = 64 * 1024;

/// A text that arrives in chunks, cut wherever.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line whose end is still to come.
    pub(super) partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes and hands over each line that they complete.
    pub(crate) fn feed(&mut self, mut chunk: &[u8], mut take: impl FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            chunk = &rest[1..];
            if self.partial.is_empty() {
                take(line);
            } else {
                self.gather(line);
                take(&self.partial);
                self.partial.clear();
            }
        }
        self.gather(chunk);
    }

    fn gather(&mut self, bytes: &[u8]) {
        let room = LONGEST + 1 - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether no line waits for its end.
    pub(crate) fn is_whole(&self) -> bool {
        self.partial.is_empty()
    }
}
