//! IAM on loopback: moto enforces the policies of users, of S3 with their resources, of DynamoDB without (it takes each
//! request for one on `*`), and of neither their conditions.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::aws::Aws;

/// A moto of its own whose one user may do what a policy says.
pub struct Iam {
    pub aws: Aws,
    key: [(&'static str, String); 2],
}

/// The user's name and the name of their policy.
const NAME: &str = "pipeline";

impl Iam {
    /// Nothing is enforced yet.
    pub fn start() -> Self {
        let aws = Aws::start();
        ask(&aws, &format!("Action=CreateUser&UserName={NAME}"));
        let answer = ask(&aws, &format!("Action=CreateAccessKey&UserName={NAME}"));
        let field = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).expect("moto makes keys");
            rest.split('<').next().unwrap_or_default().to_owned()
        };
        let key = [("AWS_ACCESS_KEY_ID", field("AccessKeyId")), ("AWS_SECRET_ACCESS_KEY", field("SecretAccessKey"))];
        Self { aws, key }
    }

    /// The user's credentials, for a program's environment.
    pub fn env(&self) -> [(&'static str, String); 2] {
        self.key.clone()
    }

    /// Enforces this policy; what is not the user's is refused.
    pub fn enforce(&self, policy: &Value) {
        let mut policy = policy.clone();
        let statements = policy["Statement"].as_array_mut().expect("a policy has statements");
        statements.retain(|statement| statement["Action"][0].is_string());
        for statement in statements {
            if statement["Action"][0].as_str().is_some_and(|action| action.starts_with("dynamodb:")) {
                statement["Resource"] = json!("*");
            }
        }
        self.relax();
        let document = encoded(&policy.to_string());
        ask(&self.aws, &format!("Action=PutUserPolicy&UserName={NAME}&PolicyName={NAME}&PolicyDocument={document}"));
        post(&self.aws, "/moto-api/reset-auth", "text/plain", "0");
    }

    /// Everybody may do everything again, so that the test can look.
    pub fn relax(&self) {
        post(&self.aws, "/moto-api/reset-auth", "text/plain", "1e18");
    }
}

/// A request of IAM's query interface. Nothing is enforced, so nobody checks its signature.
fn ask(aws: &Aws, form: &str) -> String {
    let answer = post(aws, "/", "application/x-www-form-urlencoded", &format!("{form}&Version=2010-05-08"));
    assert!(answer.starts_with("HTTP/1.1 200"), "moto refused {form}: {answer}");
    answer
}

fn post(aws: &Aws, path: &str, kind: &str, body: &str) -> String {
    let address = aws.url().strip_prefix("http://").expect("it is http");
    let mut connection = TcpStream::connect(address).expect("moto listens");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).expect("moto reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("moto answers");
    answer
}

/// As forms encode it.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
