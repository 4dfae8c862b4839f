//! Where requests to stop come from: signals, and the end of a process that waits for tfguard.

use futures_util::StreamExt as _;
use futures_util::future::select_all;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook_tokio::SignalsInfo;
use tokio::sync::mpsc::UnboundedSender;

use crate::model::StopRequest;
use crate::run::inner;
use crate::run::plan::Plan;
use crate::session::SessionDir;

/// By this signal `tfguard release` asks whoever supervises to stop.
pub const RELEASE: nix::sys::signal::Signal = nix::sys::signal::SIGUSR1;

/// Turns the signals that CI systems and terminals send into requests, from now on. `everybody`: see [`StopRequest`].
/// `outer`: the session of the guard around this one.
pub fn from_signals(
    to: UnboundedSender<StopRequest>,
    heed_hangup: bool,
    everybody: bool,
    outer: Option<SessionDir>,
) -> std::io::Result<()> {
    let mut signals = vec![SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2];
    if heed_hangup {
        signals.push(SIGHUP);
    }
    let mut signals = SignalsInfo::<WithOrigin>::new(signals)?;
    tokio::spawn(async move {
        while let Some(origin) = signals.next().await {
            let name = signal_hook::low_level::signal_name(origin.signal).unwrap_or("a signal").to_owned();
            let from_pid = origin.process.map(|process| process.pid).filter(|pid| *pid > 0);
            let request = match origin.signal {
                SIGUSR1 => StopRequest::Release,
                SIGUSR2 => {
                    let request = outer.as_ref().and_then(inner::outer_request);
                    request.unwrap_or(StopRequest::Outer { left: None })
                }
                _ => StopRequest::Signal { name, from_pid, everybody },
            };
            if to.send(request).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Requests a stop when one of those that wait for tfguard ([`crate::ci::Chain::waiting`]) ends.
pub fn from_waiting(to: UnboundedSender<StopRequest>, plan: &Plan) {
    let waiting = plan.waiting.clone();
    if plan.is_late {
        let _ = to.send(StopRequest::ParentDied);
    }
    if waiting.is_empty() {
        return;
    }
    tokio::spawn(async move {
        select_all(waiting.into_iter().map(|process| Box::pin(process.gone()))).await;
        let _ = to.send(StopRequest::ParentDied);
    });
}
