//! What front and supervisor say to each other: one JSON object a line over a socket pair.

use std::os::unix::net::UnixStream as StdStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::model::{Account, StopRequest};

/// From the supervisor to the front.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToFront {
    /// The command runs.
    Started,
    /// It could not be started; nothing happened.
    NotStarted {
        /// Why.
        error: String,
        /// The exit code that says it.
        code: u8,
    },
    /// A line for the user, ready to be printed.
    Say(String),
    /// Everything is accounted for. The spool is complete.
    Ended(Box<Account>),
}

/// From the front to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToSupervisor {
    /// Please stop.
    Stop(StopRequest),
}

/// One end of the socket, to read from.
#[derive(Debug)]
pub struct Incoming(Lines<BufReader<OwnedReadHalf>>);

/// One end of the socket, to write to.
#[derive(Debug)]
pub struct Outgoing(OwnedWriteHalf);

/// Makes both ends of a side's socket.
pub fn open(socket: StdStream) -> std::io::Result<(Incoming, Outgoing)> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    Ok((Incoming(BufReader::new(read).lines()), Outgoing(write)))
}

impl Incoming {
    /// The next message; none when the other side is gone. What is no message (a newer tfguard's) is passed over.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let line = self.0.next_line().await.ok()??;
            match serde_json::from_str(&line) {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!("message not understood: {error}"),
            }
        }
    }
}

impl Outgoing {
    /// Sends a message; false when the other side is gone.
    pub async fn send(&mut self, message: &impl Serialize) -> bool {
        let Ok(mut line) = serde_json::to_vec(message) else { return false };
        line.push(b'\n');
        self.0.write_all(&line).await.is_ok()
    }
}
