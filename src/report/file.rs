//! Files that the user asked for.

use std::io;
use std::path::Path;

use crate::session::replace_bytes;

/// Puts `content` in place of a file, in one step; a new file has `mode`, less what the umask takes.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // Through a link the file is meant, and what is no file (/dev/stdout) must not be replaced by one.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match path.metadata() {
        Ok(found) if !found.is_file() => Err(io::Error::other("it is there and not a regular file")),
        _ => replace_bytes(&path, content, mode),
    }
}
