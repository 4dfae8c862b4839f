//! Terraform's log in hclog's plain format, cut into records as its bytes arrive.
//!
//! The format is that of `logPlain` in hashicorp/go-hclog `intlogger.go` (v1.6.3):
//!
//! ```text
//! 2026-11-20T05:59:16.043Z [INFO]  backend-s3: Message: key=value other="with \"quotes\"" list=["a b"]
//! 2026-11-20T05:59:16.044Z [DEBUG] backend-s3: Message: key=value
//!   multi=
//!   | first line
//!   | second line
//!    more=values
//! ```
//!
//! A message may hold raw newlines, so whatever Terraform runs can forge a record: being parsed here proves nothing.
//!
//! Up to 1.5 the AWS SDK for Go v1 logs each request as one message of many lines, see [`Record::dump`].
//! Of the log of a Terraform before 0.15, which is in another format, only the version is read.

use std::fmt;

use jiff::Timestamp;
use memchr::memchr;

use crate::observe::fields;
use crate::observe::fields::Fields;
use crate::observe::lines::{LONGEST, Lines};

/// Most continuation bytes that one record may gather.
const MAX_CONTINUATION: usize = 256 * 1024;

/// How the records begin that anybody here reads. All others are skipped without a look at their text.
const INTERESTING: [&[u8]; 10] = [
    STARTING_APPLY.as_bytes(),
    b"backend-s3: ",
    b"backendMigrateState: ",
    b"backend/local: ",
    b"terraform: ",
    b"tofu: ",
    b"Terraform version: ",
    b"OpenTofu version: ",
    b"[aws-sdk-go] DEBUG: Request dynamodb/",
    b"[aws-sdk-go] DEBUG: Response dynamodb/",
];

/// How Terraform's core says of which resource it begins to change something. The address behind it may hold anything.
pub(crate) const STARTING_APPLY: &str = "Starting apply for ";

/// The logger's name in a record of the AWS SDK for Go v1, as far as a name can be told there.
pub(crate) const SDK_V1: &str = "[aws-sdk-go] DEBUG";

/// Severity of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was logged, by the clock of Terraform's machine, to the millisecond. The epoch for the one line that is
    /// read of a Terraform before 0.15.
    pub time: Timestamp,
    pub level: Level,
    /// The logger's name, for instance `backend-s3`. For a line of Go's standard logger, which hclog passes on without
    /// a name, the text before the first `: `, for instance `backend/local`.
    pub logger: String,
    /// The message, without the fields.
    pub message: String,
    /// Keys and decoded values, in the order of the log.
    pub fields: Vec<(String, String)>,
    /// The lines that follow the first in a record of the AWS SDK for Go v1: an HTTP message, which may hold secrets.
    /// Empty for all others, whose lines are fields.
    pub dump: Dump,
    /// The fields do not parse to their end, or a line was too long: part of the record is missing, or something else
    /// is mixed into it.
    pub torn: bool,
}

impl Record {
    /// The value of a field that occurs exactly once.
    pub fn field(&self, key: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(k, _)| k == key);
        let value = found.next().map(|(_, value)| value.as_str());
        if found.next().is_some() { None } else { value }
    }
}

/// The lines of an HTTP message with all its headers, credentials among them. Debug does not show it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Dump(pub(crate) String);

impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dump(…)")
    }
}

/// Cuts a log into records, however its bytes are chopped.
///
/// Only records of loggers that matter come out. Those of level INFO and above come out with the newline that ends
/// their first line, since the supervisor must know of a lock before the request for it is answered; those below may
/// have continuation lines and come out when the next record begins. Memory is bounded, whatever is fed.
#[derive(Debug, Default)]
pub struct Splitter {
    lines: Lines,
    /// A record that may go on.
    open: Option<Open>,
    /// A record below INFO was there.
    debug: bool,
}

#[derive(Debug)]
struct Open {
    record: Record,
    fields: Fields,
    bytes: usize,
}

impl Splitter {
    /// Takes the next bytes of the log and returns the records they complete.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<Record> {
        let (mut out, mut lines) = (Vec::new(), std::mem::take(&mut self.lines));
        lines.feed(chunk, |line| self.line(line, &mut out));
        self.lines = lines;
        out
    }

    /// Ends the log, as far as it is fed: returns the record that was waiting for more lines. Each record is written at once,
    /// so that record is whole, unless the log stops in the middle of a line: then it goes on waiting.
    pub fn finish(&mut self) -> Option<Record> {
        self.open.take_if(|_| self.lines.is_whole()).map(Open::close)
    }

    /// Whether the log has records below INFO, as those of requests are.
    pub fn has_debug(&self) -> bool {
        self.debug
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<Record>) {
        let overlong = line.len() > LONGEST;
        let line = &line[..line.len().min(LONGEST)];
        let Some(head) = Head::parse(line) else {
            if let Some(version) = version_before_0_15(line) {
                out.extend(self.open.take().map(Open::close));
                out.push(version);
            } else if let Some(open) = &mut self.open {
                open.push(line, overlong);
            }
            return;
        };
        out.extend(self.open.take().map(Open::close));
        self.debug |= head.level < Level::Info;
        if !INTERESTING.iter().any(|name| head.text.starts_with(name)) {
            return;
        }
        let Some(open) = head.open(overlong) else {
            return;
        };
        if open.record.level >= Level::Info {
            out.push(open.close());
        } else {
            self.open = Some(open);
        }
    }
}

impl Open {
    fn push(&mut self, line: &[u8], overlong: bool) {
        // With its end, or lines without a byte would cost nothing.
        self.bytes += line.len() + 1;
        if overlong || self.bytes > MAX_CONTINUATION {
            self.record.torn = true;
            return;
        }
        let line = String::from_utf8_lossy(line);
        if self.record.logger == SDK_V1 {
            self.record.dump.0.push_str(&line);
            self.record.dump.0.push('\n');
        } else {
            self.fields.continuation(&line);
        }
    }

    fn close(self) -> Record {
        let Self { mut record, fields, .. } = self;
        record.torn |= fields.torn;
        record.fields = fields.done;
        record
    }
}

/// A line that begins a record.
struct Head<'a> {
    time: &'a [u8],
    level: Level,
    text: &'a [u8],
}

impl<'a> Head<'a> {
    /// Looks at the line's first bytes only: `2006-01-02T15:04:05.000Z [LEVEL] `, with `Z` or an offset as `+0100`.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (b'0'..=b'9', b'T') = (line.first()?, line.get(10)?) else { return None };
        let end = memchr(b' ', &line[..line.len().min(32)])?;
        let text = line.get(end..)?.strip_prefix(b" [")?;
        let (level, text) = text.split_at_checked(memchr(b']', &text[..text.len().min(6)])?)?;
        let level = match level {
            b"TRACE" => Level::Trace,
            b"DEBUG" => Level::Debug,
            b"INFO" => Level::Info,
            b"WARN" => Level::Warn,
            b"ERROR" => Level::Error,
            _ => return None,
        };
        // The level's name is padded.
        let padded = matches!(level, Level::Info | Level::Warn);
        let text = text.strip_prefix(if padded { b"]  ".as_slice() } else { b"] " })?;
        Some(Self { time: &line[..end], level, text })
    }

    fn open(&self, overlong: bool) -> Option<Open> {
        let time = std::str::from_utf8(self.time).ok()?.parse().ok()?;
        let text = String::from_utf8_lossy(self.text);
        let (logger, message, tail) = match text.split_at_checked(STARTING_APPLY.len()) {
            Some((STARTING_APPLY, address)) => (STARTING_APPLY, address, ""),
            _ => {
                let (logger, text) = text.split_once(": ")?;
                let (message, tail) = fields::split_message(text);
                (logger, message, tail)
            }
        };
        let mut fields = Fields::default();
        fields.inline(tail);
        Some(Open {
            record: Record {
                time,
                level: self.level,
                logger: logger.to_owned(),
                message: message.to_owned(),
                fields: Vec::new(),
                dump: Dump::default(),
                torn: overlong,
            },
            fields,
            bytes: 0,
        })
    }
}

/// The line with which a Terraform before 0.15 begins its log, by Go's standard logger and in local time:
/// `2006/01/02 15:04:05 [INFO] Terraform version: 0.14.11  `.
fn version_before_0_15(line: &[u8]) -> Option<Record> {
    let (time, text) = line.split_at_checked("2006/01/02 15:04:05".len())?;
    let text = text.strip_prefix(b" [INFO] ").filter(|text| text.starts_with(b"Terraform version: "))?;
    let head = Head { time: b"1970-01-01T00:00:00Z", level: Level::Info, text };
    (time[4] == b'/').then(|| head.open(false))?.map(Open::close)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "2026-11-20T04:11:21.822Z [INFO]  ";
    const DEBUG: &str = "2026-11-20T04:11:21.822Z [DEBUG] ";

    fn all(log: &[u8]) -> Vec<Record> {
        let mut splitter = Splitter::default();
        let mut records = splitter.feed(log);
        records.extend(splitter.finish());
        let mut bytewise = Splitter::default();
        let mut slow: Vec<_> = log.iter().flat_map(|byte| bytewise.feed(&[*byte])).collect();
        slow.extend(bytewise.finish());
        assert_eq!(records, slow, "the way the log is chopped makes a difference");
        records
    }

    #[test]
    fn a_record_is_read_whole() {
        let log = format!(
            "{DEBUG}backend-s3: HTTP Request Sent: a=1\n  body=\n  | {{\"x\":1}}\n  | end\n   b=\"2 3\"\n{INFO}other: x\n"
        );
        let records = all(log.as_bytes());
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!(
            (record.level, record.logger.as_str(), record.message.as_str()),
            (Level::Debug, "backend-s3", "HTTP Request Sent")
        );
        assert_eq!(record.field("body"), Some("{\"x\":1}\nend"));
        assert_eq!((record.field("a"), record.field("b")), (Some("1"), Some("2 3")));
        assert_eq!(record.field("c"), None);
        assert!(!record.torn);
    }

    #[test]
    fn a_line_is_a_record_only_by_its_whole_head() {
        let good = format!("{INFO}backend-s3: x\n");
        assert_eq!(all(good.as_bytes()).len(), 1);
        for bad in [
            format!(" {good}"),
            format!("  | {good}"),
            good.replace("[INFO] ", "[INFO]"),
            good.replace("[INFO] ", "[LOUD] "),
            good.replace("2026-11", "2026-13"),
            good.replace("backend-s3: ", "backend-s3.aws-base: "),
            good.replace("backend-s3: ", "provider: backend-s3: "),
            good.trim_end().to_owned(),
        ] {
            assert_eq!(all(bad.as_bytes()), [], "{bad}");
        }
    }

    #[test]
    fn of_a_log_in_the_format_before_0_15_only_the_version_is_read() {
        let line = "2026/11/20 06:46:05 [INFO] Terraform version: 0.13.7  ";
        let log = format!("{DEBUG}backend-s3: x\n{line}\n2026/11/20 06:46:05 [WARN] terraform: Stop called\n");
        let records = all(log.as_bytes());
        let read: Vec<_> = records.iter().map(|record| (record.logger.as_str(), record.message.as_str())).collect();
        assert_eq!(read, [("backend-s3", "x"), ("Terraform version", "0.13.7  ")]);
        for other in [format!("  | {line}"), line.replace("[INFO]", "[INFO] "), line.replace('/', "-")] {
            assert_eq!(all(format!("{other}\n").as_bytes()), [], "{other}");
        }
    }

    #[test]
    fn times_are_read_in_any_zone() {
        let log = "2026-11-20T05:11:21.822+0100 [WARN]  terraform: Stop called\n2026-11-19T22:41:21.822-0530 [WARN]  terraform: x\n";
        for record in all(log.as_bytes()) {
            assert_eq!(record.time, "2026-11-20T04:11:21.822Z".parse().unwrap());
            assert_eq!(record.level, Level::Warn);
        }
        assert_eq!(all(log.as_bytes()).len(), 2);
    }

    #[test]
    fn info_comes_out_at_its_newline_and_debug_when_the_next_record_begins() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.feed(format!("{INFO}backend-s3: x\n").as_bytes()).len(), 1);
        assert_eq!(splitter.feed(format!("{DEBUG}backend-s3: y: a=1\n").as_bytes()).len(), 0);
        assert_eq!(splitter.feed(format!("{INFO}uninteresting").as_bytes()).len(), 0);
        assert_eq!(splitter.feed(b"\n").len(), 1);
        splitter.feed(format!("{DEBUG}backend-s3: z:\n  body=\n  | half a li").as_bytes());
        assert_eq!(splitter.finish(), None, "a record whose end is missing is not interpreted");
        assert_eq!(splitter.feed(b"ne\n").len(), 0);
        let record = splitter.finish().unwrap();
        assert_eq!((&*record.message, record.field("body"), record.torn), ("z", Some("half a line"), false));
        assert_eq!(splitter.finish(), None, "once");
    }

    #[test]
    fn what_has_no_end_takes_no_memory_and_is_never_interpreted() {
        let mut splitter = Splitter::default();
        splitter.feed(format!("{INFO}backend-s3: x: a=").as_bytes());
        for _ in 0..1000 {
            assert_eq!(splitter.feed(&[b'z'; 8192]), []);
        }
        assert!(splitter.lines.partial.capacity() <= 4 * LONGEST);
        let records = splitter.feed(format!("\n{INFO}backend-s3: y\n").as_bytes());
        let torn: Vec<_> = records.iter().map(|record| record.torn).collect();
        assert_eq!(torn, [true, false]);

        let log = format!("{DEBUG}backend-s3: x:\n  body=\n{}", "  | zzzzzzzzzzzz\n".repeat(MAX_CONTINUATION / 8));
        splitter.feed(log.as_bytes());
        let record = splitter.finish().unwrap();
        assert!(record.torn && record.fields[0].1.len() <= MAX_CONTINUATION);

        for head in ["[aws-sdk-go] DEBUG: Request dynamodb/PutItem Details:", "backend-s3: x:\n  body="] {
            splitter.feed(format!("{DEBUG}{head}\n{}", "\n".repeat(2 * MAX_CONTINUATION)).as_bytes());
            let record = splitter.finish().unwrap();
            assert!(record.torn && record.dump.0.len() <= MAX_CONTINUATION, "{head}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_harm_only_their_value() {
        let log = [INFO.as_bytes(), b"backend-s3: x: a=\xff\xfe b=2\n\xff\xff\n"].concat();
        let records = all(&log);
        assert_eq!(records[0].field("a"), Some("\u{fffd}\u{fffd}"));
        assert_eq!(records[0].field("b"), Some("2"));
    }
}
