//! Containers and instances.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bed::{Case, ENV_KEYS, FROM_INSTANCE, STS_ANSWERS, check};

/// A metadata service as an instance has it. It ends when it is dropped.
struct Instance {
    url: String,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Instance {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let _ = stream.and_then(Self::answer);
            }
        });
        Self { url, ended, thread: Some(thread) }
    }

    fn answer(mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let mut has_token = false;
        for line in lines {
            let line = line?.to_ascii_lowercase();
            has_token |= line == "x-aws-ec2-metadata-token: granted";
            if line.is_empty() {
                break;
            }
        }
        let (status, body) = match request.split(' ').nth(1).unwrap_or_default() {
            "/latest/api/token" if request.starts_with("PUT") => (200, "granted"),
            _ if !has_token => (401, ""),
            "/latest/meta-data/iam/security-credentials/" => (200, "role"),
            "/latest/meta-data/iam/security-credentials/role" => (200, FROM_INSTANCE),
            _ => (404, ""),
        };
        write!(
            stream,
            "HTTP/1.1 {status} -\r\ncontent-length: {}\r\nx-aws-ec2-metadata-token-ttl-seconds: 600\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn containers_and_instances_give_credentials() {
    check(&Case {
        name: "a container",
        env: &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{url}/container-role")],
        answers: &[("/container-role", "", FROM_INSTANCE)],
        key: "ASIAINSTANCE",
        ..Case::default()
    });
    let on_top_of = |source: &str| {
        format!(
            "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\ncredential_source = {source}\n\
             role_session_name = ci\n"
        )
    };
    check(&Case {
        name: "a role on top of a container's",
        block: "profile = \"deploy\"",
        env: &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{url}/container-role"),
            ("AWS_CONFIG_FILE", "{dir}/config"),
            ENV_KEYS[0],
            ENV_KEYS[1],
        ],
        files: &[("config", &on_top_of("EcsContainer"))],
        answers: &[&[("/container-role", "", FROM_INSTANCE)], STS_ANSWERS].concat(),
        key: "ASIAASSUMED",
        ..Case::default()
    });
    let instance = Instance::start();
    let url = instance.url.as_str();
    let block = format!("ec2_metadata_service_endpoint = \"{url}\"");
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url), ("AWS_METADATA_URL", url)];
    for (block, env) in [(block.as_str(), &[][..]), ("", &variables[..1]), ("", &variables[1..])] {
        check(&Case {
            name: "an instance",
            block,
            env,
            without: &["skip_metadata_api_check"],
            key: "ASIAINSTANCE",
            ..Case::default()
        });
    }
    check(&Case {
        name: "a role on top of an instance's",
        block: &format!("{block}\nprofile = \"deploy\""),
        env: &[("AWS_CONFIG_FILE", "{dir}/config")],
        files: &[("config", &on_top_of("Ec2InstanceMetadata"))],
        answers: STS_ANSWERS,
        without: &["skip_metadata_api_check"],
        key: "ASIAASSUMED",
        ..Case::default()
    });
}
