//! A server that accepts and never answers.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::watched::Watched;

/// Keeps every connection open and silent until it is dropped. A Terraform that reads from it cannot be stopped
/// gracefully.
pub struct BlackHole {
    address: SocketAddr,
    state: Arc<Watched<State>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    connections: Vec<TcpStream>,
    closing: bool,
}

impl BlackHole {
    /// Listens on a free loopback port.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listening socket has an address");
        let state = Arc::new(Watched::<State>::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if shared.change(|state| {
                    state.connections.push(connection);
                    state.closing
                }) {
                    break;
                }
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// `http://127.0.0.1:port/state`
    pub fn url(&self) -> String {
        format!("http://{}/state", self.address)
    }

    /// Waits for the first connection: from then on somebody hangs. Panics after `timeout`.
    pub fn wait_for_connection(&self, timeout: Duration) {
        self.state
            .wait(timeout, |state| (!state.connections.is_empty()).then_some(()))
            .unwrap_or_else(|| panic!("nobody connected to the black hole within {timeout:?}"));
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        self.state.change(|state| state.closing = true);
        // Wakes the thread from its accept.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
