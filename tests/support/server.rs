//! A small HTTP/1.1 server on loopback for the backends that the tests play themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use super::watched::Watched;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// What becomes of a request.
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// The connection is closed without an answer.
    Close,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self::Answer { status, headers, body: body.to_string().into_bytes() }
    }
}

/// Answers on a free loopback port until it is dropped. Each connection has one request.
pub struct Server {
    address: SocketAddr,
    state: Arc<Watched<State>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    closing: bool,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listening socket has an address");
        let state = Arc::new(Watched::<State>::default());
        let (shared, answer) = (Arc::clone(&state), Arc::new(answer));
        let thread = thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if shared.get().closing {
                    break;
                }
                let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                thread::spawn(move || serve(connection, &shared, answer.as_ref()));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.state.get().requests.clone()
    }
}

impl Drop for Server {
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

fn serve(mut connection: TcpStream, state: &Watched<State>, answer: &(dyn Fn(&Request) -> Reply + Send + Sync)) {
    let Some(request) = read(&mut connection) else { return };
    let reply = answer(&request);
    state.change(|state| state.requests.push(request));
    match reply {
        Reply::Close => {}
        Reply::Answer { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            head += "\r\n";
            let _ = connection.write_all(&[head.as_bytes(), &body].concat()).and_then(|()| connection.flush());
        }
    }
}

/// One request; none if the client went away.
fn read(connection: &mut TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines.first()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding") == Some("chunked") {
        read_chunks(&mut reader, &mut body)?;
    } else {
        let length = header("content-length").map_or(Some(0), |length| length.parse().ok())?;
        body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
    }
    Some(Request { method, target, headers, body })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()?];
        reader.read_exact(&mut chunk).ok()?;
        reader.read_line(&mut line).ok()?;
        if chunk.is_empty() {
            return Some(());
        }
        body.extend(chunk);
    }
}
