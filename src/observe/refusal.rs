//! What Terraform tells a person when it is refused a lock.
//!
//! It tells the holder in a block of seven lines (`LockInfo.String` in `internal/states/statemgr/locker.go`, the same
//! since 0.12). Around it everything differs: boxes and colours since 0.15, plain text with `-no-color`, the summary
//! itself up to 0.14, a `diagnostic` message with `-json`. The block's lines begin with a space and are never wrapped.

use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;

use crate::model::LockInfo;
use crate::text::without_colours;

/// Terraform was refused a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrintedRefusal {
    /// Terraform's reason, in one line. It can be anything: access denied, no network, or that the lock is held.
    pub reason: String,
    /// Who has the lock, where that was the reason and Terraform could tell.
    pub holder: Option<PrintedHolder>,
}

/// The holder of a lock, as far as Terraform shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrintedHolder {
    /// The lock's ID.
    pub id: String,
    /// The whole lock. `None` on the http backend, where Terraform up to 1.14 and OpenTofu up to 1.8 show in place of the
    /// holder what they had asked for themselves (`Info: info` in `internal/backend/remote-state/http/client.go`).
    pub info: Option<LockInfo>,
}

impl From<LockInfo> for PrintedHolder {
    fn from(info: LockInfo) -> Self {
        Self { id: info.id.clone(), info: Some(info) }
    }
}

/// By these lines a refusal begins: `internal/command/clistate` (all versions), the locks that backends take to make a
/// new workspace's state, and `meta_backend.go`.
const OPENINGS: [&str; 3] = ["Error acquiring the state lock", "Error locking state", "ailed to lock"];
/// By these too, if a block follows: some backends (gcs, for one) hand the refusal of that lock on as it is.
const LOADING: [&str; 2] = ["ailed to load state", "rror loading state"];
/// The last line before the fixed advice, which is not part of the reason.
const ADVICE: [&str; 2] = ["Terraform acquires a", "OpenTofu acquires a"];
/// No refusal has so many lines, its reason and its block together.
const MOST_LINES: usize = 1000;
/// The line above the block.
const BLOCK: &str = "Lock Info:";
/// The block's fields, in their order.
const FIELDS: [&str; 7] = ["ID", "Path", "Operation", "Who", "Version", "Created", "Info"];

impl PrintedRefusal {
    /// Finds the first refusal in what a Terraform or OpenTofu printed, in whichever layout. `None`: there is none.
    pub fn find(output: &str) -> Option<Self> {
        // Only from there on: a flood of short lines takes many times its size.
        let first = |openings: &[&str]| openings.iter().filter_map(|text| output.find(text)).min();
        let at = first(&OPENINGS).or_else(|| first(&LOADING))?;
        let line = output[..at].rfind('\n').map_or(0, |end| end + 1);
        let lines: Vec<String> = output[line..].lines().flat_map(plain).take(MOST_LINES).collect();
        let begins = |openings: &[&str]| lines.iter().position(|line| openings.iter().any(|text| line.contains(text)));
        let blocked = |opening: &usize| lines[*opening..].iter().any(|line| line.trim() == BLOCK);
        let opening = begins(&OPENINGS).or_else(|| begins(&LOADING).filter(blocked))?;
        let text = &lines[opening..];
        let block = text.iter().position(|line| line.trim() == BLOCK);
        let advice = text.iter().position(|line| ADVICE.iter().any(|advice| line.starts_with(advice)));
        // A block behind the advice belongs to another error.
        let block = block.filter(|block| advice.is_none_or(|advice| *block < advice));
        let words: Vec<&str> = text[..block.or(advice).unwrap_or(text.len().min(16))]
            .iter()
            .flat_map(|line| line.split_whitespace())
            .collect();
        let reason = words.join(" ");
        let holder = holder(&reason, block.and_then(|block| info(&text[block + 1..])));
        Some(Self { reason, holder })
    }
}

/// Whom the text and the block name, taken together.
fn holder(reason: &str, block: Option<LockInfo>) -> Option<PrintedHolder> {
    let Some((_, told)) = reason.split_once("HTTP remote state already locked") else {
        return block.map(PrintedHolder::from);
    };
    // `, failed to …`: the block is the asker's own, as it is where its ID is not the one that the text names.
    let id = told.strip_prefix(": ID=")?.split_whitespace().next()?;
    Some(PrintedHolder { id: id.to_owned(), info: block.filter(|info| info.id == id) })
}

/// Reads the seven lines of a block.
fn info(lines: &[String]) -> Option<LockInfo> {
    let values = FIELDS.iter().zip(lines).map(|(field, line)| {
        let value = line.strip_prefix("  ")?.strip_prefix(field)?.strip_prefix(':')?;
        Some(((*field).to_owned(), value.trim().into()))
    });
    let values: serde_json::Map<_, _> = values.collect::<Option<_>>()?;
    if values.len() < FIELDS.len() {
        return None;
    }
    let info = LockInfo::deserialize(Value::from(values)).ok().filter(|info| !info.id.is_empty())?;
    Some(LockInfo { created: rfc3339(&info.created).unwrap_or(info.created), ..info })
}

/// Go prints a time as `2026-11-20 04:11:22.810982632 +0000 UTC`; the lock itself has it in RFC 3339.
fn rfc3339(go: &str) -> Option<String> {
    let (time, _zone) = go.rsplit_once(' ')?;
    Some(Timestamp::strptime("%Y-%m-%d %H:%M:%S%.f %z", time).ok()?.to_string())
}

/// The lines of text in one line of output: without colours and the box's border, or out of a JSON message.
fn plain(line: &str) -> Vec<String> {
    if line.starts_with('{')
        && let Ok(message) = serde_json::from_str::<Value>(line)
    {
        let text = |field: &str| message.pointer(field).and_then(Value::as_str).unwrap_or_default();
        let texts = [text("/diagnostic/summary"), text("/diagnostic/detail")];
        return texts.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    }
    let line = without_colours(line);
    let line = line.strip_prefix('│').map_or(&*line, |inside| inside.strip_prefix(' ').unwrap_or(inside));
    vec![line.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
    const ADVICE: &str = "Terraform acquires a state lock to protect the state from being written\nby multiple users at the same time. Please resolve the issue above and try\nagain. For most commands, you can disable locking with the \"-lock=false\"\nflag, but this is not recommended.";

    fn sample(id: &str) -> LockInfo {
        LockInfo {
            id: id.into(),
            path: "states/prod/default.tflock".into(),
            operation: "OperationTypeApply".into(),
            who: "root@vm".into(),
            version: "1.11.4".into(),
            created: "2026-11-20T04:11:22.810982632Z".into(),
            info: String::new(),
        }
    }

    /// As `LockInfo.String` prints it.
    fn block(info: &LockInfo) -> String {
        let created = info.created.replace('T', " ").replace('Z', " +0000 UTC");
        format!(
            "Lock Info:\n  ID:        {}\n  Path:      {}\n  Operation: {}\n  Who:       {}\n  Version:   {}\n  Created:   {created}\n  Info:      {}\n",
            info.id, info.path, info.operation, info.who, info.version, info.info
        )
    }

    fn detail(reason: &str, info: &LockInfo) -> String {
        format!("Error message: {reason}\n{}\n\n{ADVICE}", block(info))
    }

    fn no_color(detail: &str) -> String {
        format!("\nError: Error acquiring the state lock\n\n{detail}\n")
    }

    fn boxed(detail: &str, colour: bool) -> String {
        let (red, bold, off) = if colour { ("\u{1b}[31m", "\u{1b}[1m", "\u{1b}[0m") } else { ("", "", "") };
        let mut text = format!(
            "{red}╷{off}{off}\n{red}│{off} {off}{bold}{red}Error: {off}{off}{bold}Error acquiring the state lock{off}\n{red}│{off} {off}\n"
        );
        for line in detail.lines() {
            text += &format!("{red}│{off} {off}{line}\n");
        }
        text + &format!("{red}╵{off}{off}\n")
    }

    fn json(detail: &str) -> String {
        let message = serde_json::json!({
            "@level": "error", "@message": "Error: Error acquiring the state lock", "@module": "terraform.ui",
            "diagnostic": {"severity": "error", "summary": "Error acquiring the state lock", "detail": detail},
            "type": "diagnostic",
        });
        format!("{{\"@level\":\"info\",\"@message\":\"Terraform 1.11.4\",\"type\":\"version\"}}\n{message}\n")
    }

    /// The reasons of each backend, from the sources of 1.15, and how its ID looks.
    const REASONS: [(&str, &str); 8] = [
        (
            r#"writing "gs://bucket/prod/default.tflock" failed: googleapi: Error 412: At least one of the pre-conditions you specified did not hold., conditionNotMet"#,
            "1732075882810982",
        ),
        ("state blob is already locked", ID),
        ("the state is already locked by another terraform client", ID),
        ("invoking PutRow got an error: &tablestore.OtsError{Code:\"OTSConditionCheckFail\"}", ID),
        ("lock file prod/terraform.tfstate.tflock exists", "4bb7d84cf09d7909021902f6e8d9eeb4"),
        ("Error returned by ObjectStorage Service. Http Status Code: 412. Error Code: IfNoneMatchFailed.", ID),
        (
            "operation error S3: PutObject, https response error StatusCode: 412, RequestID: X, HostID: Y, api error PreconditionFailed: At least one of the pre-conditions you specified did not hold",
            ID,
        ),
        ("2 errors occurred:\n\t* ConditionalCheckFailedException: The conditional request failed\n\n", ID),
    ];

    #[test]
    fn every_layout_of_every_backend_is_read() {
        for (reason, id) in REASONS {
            let info = sample(id);
            let detail = detail(reason, &info);
            let old = format!(
                "\nError: Error locking state: Error acquiring the state lock: {reason}\n{}\n\n{ADVICE}\n",
                block(&info)
            );
            for output in [no_color(&detail), boxed(&detail, true), boxed(&detail, false), json(&detail), old] {
                let refusal = PrintedRefusal::find(&output).unwrap_or_else(|| panic!("{output}"));
                assert_eq!(refusal.holder, Some(info.clone().into()), "{output}");
                let first = reason.split_whitespace().next().unwrap();
                assert!(refusal.reason.contains(first) && !refusal.reason.contains("Lock Info"), "{}", refusal.reason);
            }
        }
    }

    /// The lock of a new workspace's state, which the backend takes itself.
    #[test]
    fn a_workspace_that_cannot_be_made_is_a_refusal_too() {
        let info = LockInfo { operation: "init".into(), ..sample("17") };
        for text in [
            "Failed to load state: failed to lock azure state: state blob is already locked",
            "Failed to load state: writing \"gs://b/prod/default.tflock\" failed: googleapi: Error 412: conditionNotMet",
            "Error: Error loading state: failed to lock s3 state: operation error DynamoDB: PutItem",
        ] {
            let output = format!("{text}\n{}", block(&info));
            assert_eq!(PrintedRefusal::find(&output).unwrap().holder, Some(info.clone().into()), "{text}");
        }
    }

    /// Guards against taking the asker's own lock, which was never taken, for the holder's.
    #[test]
    fn on_http_the_block_counts_only_if_it_has_the_id_of_the_text() {
        let other = "00000000-0000-0000-0000-000000000001";
        // 78 columns: the ID is on the next line.
        let reason = format!("HTTP remote state already locked:\nID={other}");
        for layout in [no_color, json, |detail: &str| boxed(detail, true)] {
            let asker = PrintedRefusal::find(&layout(&detail(&reason, &sample(ID)))).unwrap();
            assert_eq!(asker.holder, Some(PrintedHolder { id: other.into(), info: None }));
            let holder = PrintedRefusal::find(&layout(&detail(&reason, &sample(other)))).unwrap();
            assert_eq!(holder.holder, Some(sample(other).into()));
            let unread = "HTTP remote state already locked, failed to unmarshal body";
            assert_eq!(PrintedRefusal::find(&layout(&detail(unread, &sample(ID)))).unwrap().holder, None);
        }
    }

    #[test]
    fn a_refusal_without_a_holder_still_has_its_reason() {
        for output in [no_color, json, |detail: &str| boxed(detail, true)] {
            let refusal = PrintedRefusal::find(&output(&format!("Error message: access\ndenied\n\n{ADVICE}"))).unwrap();
            assert_eq!(refusal, PrintedRefusal { reason: refusal.reason.clone(), holder: None });
            assert!(refusal.reason.ends_with("Error message: access denied"), "{}", refusal.reason);
        }
    }

    #[test]
    fn other_text_is_no_refusal() {
        for output in [
            "",
            "Apply complete!",
            &block(&sample(ID)),
            "Failed to load state: access denied",
            "Error: Error releasing the state lock",
            "{\"diagnostic\":7}",
        ] {
            assert_eq!(PrintedRefusal::find(output), None, "{output}");
        }
    }

    #[test]
    fn a_torn_block_names_nobody() {
        let whole = no_color(&detail("held", &sample(ID)));
        let end = whole.find("  Info:").unwrap();
        for cut in whole.find("Lock Info:").unwrap()..end {
            let refusal = PrintedRefusal::find(&whole[..cut]).unwrap();
            assert_eq!(refusal.holder, None, "{}", &whole[..cut]);
        }
    }

    #[test]
    fn times_are_read_as_go_prints_them() {
        for (go, expected) in [
            ("2026-11-20 04:11:22.810982632 +0000 UTC", Some("2026-11-20T04:11:22.810982632Z")),
            ("2026-11-20 04:11:22 +0000 UTC", Some("2026-11-20T04:11:22Z")),
            ("2026-11-20 05:11:22.5 +0100 CET", Some("2026-11-20T04:11:22.5Z")),
            ("0001-01-01 00:00:00 +0000 UTC", Some("0001-01-01T00:00:00Z")),
            ("yesterday", None),
            ("2026-11-20 04:11:22", None),
            ("2026-11-20 04:11:22 +00ä UTC", None),
        ] {
            assert_eq!(rfc3339(go).as_deref(), expected, "{go}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(Error acquiring the state lock|Lock Info:|  ID: .|│|╷|\u{1b}\\[3|\\{\"|[ -~]|\n|ä)*") {
            let _ = PrintedRefusal::find(&text);
        }

        /// Whatever a holder writes into its own lock, it stays in its field or the block is not read.
        #[test]
        fn fields_do_not_spill(who in "[^\n\r\u{1b}]{0,40}", path in "[^\n\r\u{1b}]{0,40}") {
            let info = LockInfo { who: who.trim().into(), path: path.trim().into(), ..sample(ID) };
            let refusal = PrintedRefusal::find(&no_color(&detail("held", &info))).unwrap();
            prop_assert_eq!(refusal.holder, Some(info.into()));
        }
    }
}
