//! The proxy as a test holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::super::watched::Watched;
use super::rule::{Action, Match, Seen};
use super::serve::{Rule, State, accept};

/// The proxy. Without rules it forwards everything. It ends, with every connection, when it is dropped.
pub struct FaultProxy {
    url: String,
    state: Arc<Watched<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free loopback port and forwards to `upstream`, `http://127.0.0.1:port`.
    pub fn start(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").and_then(|address| address.parse().ok());
        let upstream: SocketAddr = upstream.expect("upstream is http://address:port");
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback can be listened on");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let url = format!("http://{}", listener.local_addr().expect("a listening socket has an address"));
        let state = Arc::new(Watched::<State>::default());
        let shared = Arc::clone(&state);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listening socket");
                tokio::select! {
                    () = accept(&listener, upstream, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url, state, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Adds a rule. The first one that fits a request, and is not for other occurrences only, is applied. Gives what
    /// [`Self::remove_rule`] takes.
    pub fn rule(&self, matching: Match, actions: impl Into<Vec<Action>>) -> usize {
        let actions = actions.into();
        self.state.change(|state| {
            state.made += 1;
            state.rules.push(Rule { number: state.made, matching, actions, count: 0 });
            state.made
        })
    }

    /// Takes one rule back.
    pub fn remove_rule(&self, number: usize) {
        self.state.change(|state| state.rules.retain(|rule| rule.number != number));
    }

    /// Forwards everything again.
    pub fn clear_rules(&self) {
        self.state.change(|state| state.rules.clear());
    }

    /// Every request up to now, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.get().seen.clone()
    }

    /// Those of [`Self::seen`] that fit; a match's occurrences do not count here.
    pub fn seen_matching(&self, matching: &Match) -> Vec<Seen> {
        self.state.get().seen.iter().filter(|seen| matching.fits(seen)).cloned().collect()
    }

    /// Whether a request that fits has come, or comes within `timeout`.
    pub fn sees_within(&self, matching: &Match, timeout: Duration) -> bool {
        let fits = |state: &mut State| state.seen.iter().any(|seen| matching.fits(seen)).then_some(());
        self.state.wait(timeout, fits).is_some()
    }

    /// Waits for a request, or for something done with it, and returns the first that fits. It may have come before.
    /// Panics after `timeout` with a list of what came.
    #[track_caller]
    pub fn wait_for(&self, mut predicate: impl FnMut(&Seen) -> bool, timeout: Duration) -> Seen {
        let found = self.state.wait(timeout, |state| state.seen.iter().find(|seen| predicate(seen)).cloned());
        found.unwrap_or_else(|| {
            let lines: Vec<_> = self
                .seen()
                .iter()
                .map(|seen| format!("{} {} {:?} {:?}", seen.method, seen.path, seen.operation(), seen.done))
                .collect();
            panic!("no such request within {timeout:?}; there were:\n  {}", lines.join("\n  "))
        })
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
