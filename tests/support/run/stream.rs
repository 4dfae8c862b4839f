//! What a program writes.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::super::watched::Watched;

/// What was read from one descriptor.
#[derive(Default)]
pub struct Stream {
    pub bytes: Vec<u8>,
    /// All the program itself wrote is here. What it started may hold the descriptor, and write, for longer.
    pub complete: bool,
    /// Nobody reads any more.
    pub closed: bool,
}

/// Reads until nobody can write any more, or until it is told to stop.
pub fn drain(fd: OwnedFd, pidfd: &OwnedFd, stop: &OwnedFd, stream: &Watched<Stream>) {
    let mut file = File::from(fd);
    let mut buffer = vec![0; 1 << 16];
    let mut ended = false;
    let mut complete = false;
    loop {
        // What a program wrote before its end can be read without waiting.
        let timeout = (ended && !complete).then(Timespec::default);
        let mut fds = vec![PollFd::new(&file, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if !ended {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => panic!("a descriptor cannot be polled: {error}"),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        ended |= ready(2);
        if ready(1) {
            break;
        } else if ready(0) {
            match file.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    stream.change(|stream| stream.bytes.extend_from_slice(&buffer[..count]));
                }
                // The end; a terminal without a program says so by EIO.
                _ => break,
            }
        } else if timeout.is_some() {
            complete = true;
            stream.change(|stream| stream.complete = true);
        }
    }
    drop(file);
    stream.change(|stream| (stream.complete, stream.closed) = (true, true));
}
