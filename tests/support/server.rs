//! A small HTTP/1.1 server on loopback for the backends that the tests play themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

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
    /// Nothing is ever answered.
    Silence,
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
    scheme: &'static str,
    address: SocketAddr,
    state: Arc<Watched<State>>,
    thread: Option<thread::JoinHandle<()>>,
}

trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

/// What a client needs for a server that asks for certificates, in PEM.
pub struct Certificates {
    pub authority: String,
    pub client: String,
    pub key: String,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    silent: Vec<Box<dyn Connection>>,
    closing: bool,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::begin("http", |connection| Box::new(connection), answer)
    }

    /// Talks TLS only, to whoever has the certificate only.
    pub fn start_tls(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Self, Certificates) {
        let make =
            |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate can be made");
        let (server, client) = (make("127.0.0.1"), make("client"));
        let mut clients = RootCertStore::empty();
        clients.add(client.cert.der().clone()).expect("it is a certificate");
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider));
        let key = PrivatePkcs8KeyDer::from(server.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_client_cert_verifier(verifier.build().expect("there is an authority"))
            .with_single_cert(vec![server.cert.der().clone()], key.into())
            .expect("certificate and key fit");
        let config = Arc::new(config);
        let wrap = move |connection| -> Box<dyn Connection> {
            let tls = ServerConnection::new(Arc::clone(&config)).expect("the configuration is one");
            Box::new(StreamOwned::new(tls, connection))
        };
        let certificates = Certificates {
            authority: server.cert.pem(),
            client: client.cert.pem(),
            key: client.signing_key.serialize_pem(),
        };
        (Self::begin("https", wrap, answer), certificates)
    }

    fn begin(
        scheme: &'static str,
        wrap: impl Fn(TcpStream) -> Box<dyn Connection> + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listening socket has an address");
        let state = Arc::new(Watched::<State>::default());
        let (shared, answer, wrap) = (Arc::clone(&state), Arc::new(answer), Arc::new(wrap));
        let thread = thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if shared.get().closing {
                    break;
                }
                let (shared, answer, wrap) = (Arc::clone(&shared), Arc::clone(&answer), Arc::clone(&wrap));
                thread::spawn(move || serve(wrap(connection), &shared, answer.as_ref()));
            }
        });
        Self { scheme, address, state, thread: Some(thread) }
    }

    /// `http://127.0.0.1:port`, or `https`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// What was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.state.get().requests.clone()
    }

    /// Waits until such a request was made. Panics after `timeout`.
    #[track_caller]
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Request) -> bool) {
        self.state
            .wait(timeout, |state| state.requests.iter().any(&wanted).then_some(()))
            .unwrap_or_else(|| panic!("no such request within {timeout:?}"));
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

fn serve(
    mut connection: Box<dyn Connection>,
    state: &Watched<State>,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
) {
    let Some(request) = read(&mut connection) else { return };
    let reply = answer(&request);
    state.change(|state| state.requests.push(request));
    match reply {
        Reply::Close => {}
        Reply::Silence => state.change(|state| state.silent.push(connection)),
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
fn read(connection: &mut dyn Connection) -> Option<Request> {
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
