//! The record of a holder as tags of a lockfile: a change of tags changes neither the object's content nor its ETag.
//!
//! An object has ten tags at most, whose values have 256 characters of a small set (Amazon S3 User Guide, "Categorizing
//! your storage using tags"). So there is a tag for each thing that a person would look for in the console, with its
//! parts between spaces. A part that is missing is `-`; what a tag cannot hold is written as in quoted-printable: `=20`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::model;
use crate::model::{ChildRecord, Holder, ProcessId, Recorded, SCHEMA, World};

/// What the names of the tags begin with.
pub(crate) const PREFIX: &str = "tfguard:";
/// An object has no more tags.
pub(crate) const MOST: usize = 10;
/// A tag's value has no more characters.
const LONGEST: usize = 256;

/// The tag that names the lock.
pub(crate) const LOCK: &str = "tfguard:lock";
const RECORD: &str = "tfguard:record";
const RUN: &str = "tfguard:run";
const HOST: &str = "tfguard:host";
const PROCESS: &str = "tfguard:process";
const SESSION: &str = "tfguard:session";
const JOB: &str = "tfguard:job";
const CHANGE: &str = "tfguard:change";

/// A tag: its name and its value.
pub(crate) type Tag = (String, String);

/// The record as at most `room` tags: those that it needs, then as many others as there is room for. None if there is no
/// room for the first.
pub(crate) fn encode(holder: &Holder, room: usize) -> Option<Vec<Tag>> {
    let run = holder.ci.as_ref();
    let process = |id: ProcessId| format!("{}:{}", id.pid, id.start_ticks);
    let child = holder.child.map(|child| format!("{}:{}", process(child.id), child.session));
    let needed = [
        (LOCK, line([Some(holder.lock.as_str())])),
        (RECORD, line([Some(&*SCHEMA.to_string()), Some(&holder.tfguard), Some(&holder.started.to_string())])),
    ];
    let others = [
        (RUN, run.and_then(|run| run.url.as_deref()).map(|url| line([Some(url)]))),
        (
            HOST,
            Some(line([
                holder.host.as_deref(),
                Some(&*holder.world.boot_id).filter(|id| !id.is_empty()),
                Some(&holder.world.pid_namespace.to_string()),
            ])),
        ),
        (PROCESS, Some(line([holder.supervisor.map(process).as_deref(), child.as_deref()]))),
        (SESSION, holder.session.as_ref().map(|path| escape(path.as_os_str().as_bytes()))),
        (
            JOB,
            run.map(|run| {
                let runner = holder.origin.runner.as_deref();
                line([name(run.provider).as_deref(), run.job.as_deref(), run.attempt.as_deref(), runner])
            }),
        ),
        (CHANGE, Some(line([holder.origin.commit.as_deref(), holder.origin.actor.as_deref()]))),
    ];
    if room < needed.len() || needed.iter().any(|(_, value)| value.len() > LONGEST) {
        return None;
    }
    let others = others.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let others =
        others.filter(|(_, value)| value.len() <= LONGEST && value.bytes().any(|byte| byte != b'-' && byte != b' '));
    let tags = needed.into_iter().chain(others.take(room - 2));
    Some(tags.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Reads the tags of the lock with this ID. Those of an earlier lock are not of it.
pub(crate) fn decode<'a>(tags: impl IntoIterator<Item = (&'a str, &'a str)>, lock: &str) -> Recorded {
    let tags: Vec<_> = tags.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    if tags.is_empty() {
        return Recorded::Nothing;
    }
    let value = |wanted: &str| tags.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let get = |wanted| parts(value(wanted));
    let [schema, tfguard, started, _] = get(RECORD);
    if schema.as_deref() != Some(&*SCHEMA.to_string()) {
        let found = schema.unwrap_or_else(|| "unknown".to_owned());
        return Recorded::Foreign(format!(
            "the record of its holder has format {found}, this tfguard knows format {SCHEMA}"
        ));
    }
    let [id, ..] = get(LOCK);
    let (Some(Ok(id)), Some(Ok(started))) = (id.map(|id| id.parse()), started.map(|started| started.parse())) else {
        return Recorded::Foreign("the record of its holder, in the lockfile's tags, cannot be understood".to_owned());
    };
    let [provider, job, attempt, runner] = get(JOB);
    let [url, ..] = get(RUN);
    let [host, boot_id, pid_namespace, _] = get(HOST);
    let [supervisor, child, ..] = get(PROCESS);
    let [commit, actor, ..] = get(CHANGE);
    let session = value(SESSION).and_then(unescape);
    let provider = match (provider, &url) {
        (Some(provider), _) => serde_json::from_value(provider.into()).ok(),
        // There was no room to say of which system.
        (None, Some(_)) => Some(model::Provider::Other),
        (None, None) => None,
    };
    let holder = Holder {
        schema: SCHEMA,
        lock: id,
        tfguard: tfguard.unwrap_or_default(),
        started,
        ci: provider.map(|provider| model::Run { provider, url, job, attempt }),
        origin: model::Origin { commit, actor, runner },
        host,
        world: World {
            boot_id: boot_id.unwrap_or_default(),
            pid_namespace: pid_namespace.and_then(|inode| inode.parse().ok()).unwrap_or_default(),
        },
        supervisor: supervisor.and_then(|text| process(&text)).map(|(id, _)| id),
        child: child
            .and_then(|text| process(&text))
            .and_then(|(id, session)| Some(ChildRecord { id, session: session? })),
        session: session.map(|bytes| OsString::from_vec(bytes).into()),
    };
    Recorded::of(holder, lock)
}

fn line<const N: usize>(parts: [Option<&str>; N]) -> String {
    parts.map(|part| part.map_or_else(|| "-".to_owned(), |part| escape(part.as_bytes()))).join(" ")
}

/// The parts of a tag's value, up to four.
fn parts(line: Option<&str>) -> [Option<String>; 4] {
    let part = |text: &str| String::from_utf8(unescape(text)?).ok().filter(|text| !text.is_empty());
    let mut parts = line.unwrap_or_default().split(' ').map(|text| if text == "-" { None } else { part(text) });
    std::array::from_fn(|_| parts.next().flatten())
}

fn process(text: &str) -> Option<(ProcessId, Option<i32>)> {
    let mut numbers = text.split(':');
    let id = ProcessId { pid: numbers.next()?.parse().ok()?, start_ticks: numbers.next()?.parse().ok()? };
    Some((id, numbers.next().and_then(|session| session.parse().ok())))
}

fn escape(bytes: &[u8]) -> String {
    // A lone `-` stands for nothing.
    if bytes == b"-" {
        return "=2D".to_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'_' | b':' | b'/' | b'@' => {
                text.push(char::from(*byte));
            }
            _ => text.push_str(&format!("={byte:02X}")),
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'=' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(bytes)
}

fn name(provider: model::Provider) -> Option<String> {
    serde_json::to_value(provider).ok()?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;
    use proptest::prelude::*;

    fn some(text: &'static str) -> impl Strategy<Value = Option<String>> {
        proptest::option::of(text)
    }

    prop_compose! {
        fn holders(text: &'static str)(
            lock in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            second in 0..2_000_000_000_i64,
            run in proptest::option::of((0..7usize, some(text), some(text), some(text))),
            (commit, actor, host) in (some(text), some(text), some(text)),
            runner in some(text),
            (boot_id, pid_namespace) in ("|[0-9a-f-]{36}", any::<u64>()),
            supervisor in proptest::option::of((any::<i32>(), any::<u64>())),
            child in proptest::option::of((any::<i32>(), any::<u64>(), any::<i32>())),
            session in proptest::option::of(proptest::collection::vec(1..=255_u8, 1..60)),
        ) -> Holder {
            use crate::model::Provider::*;
            let providers = [GithubActions, Gitlab, Jenkins, Buildkite, Azure, Circleci, Other];
            let id = |(pid, start_ticks)| ProcessId { pid, start_ticks };
            // Without a CI it has no runner.
            let runner = runner.filter(|_| run.is_some());
            Holder {
                schema: SCHEMA,
                lock: lock.parse().unwrap(),
                tfguard: "0.1.0".to_owned(),
                started: jiff::Timestamp::new(second, 123_456_789).unwrap(),
                ci: run.map(|(at, url, job, attempt)| model::Run { provider: providers[at], url, job, attempt }),
                origin: model::Origin { commit, actor, runner },
                host,
                world: World { boot_id, pid_namespace },
                supervisor: supervisor.map(id),
                child: child.map(|(pid, ticks, session)| ChildRecord { id: id((pid, ticks)), session }),
                session: session.map(|bytes| OsString::from_vec(bytes).into()),
            }
        }
    }

    fn read(tags: &[Tag], lock: &str) -> Recorded {
        decode(tags.iter().map(|(name, value)| (name.as_str(), value.as_str())), lock)
    }

    fn assert_legal(tags: &[Tag]) {
        let legal = |text: &str| text.chars().all(|char| char.is_ascii_alphanumeric() || " +-=._:/@".contains(char));
        for (name, value) in tags {
            assert!(!name.is_empty() && name.len() <= 128 && legal(name), "{name}");
            assert!(!value.is_empty() && value.len() <= LONGEST && legal(value) && value.trim() == value, "{value:?}");
        }
        let mut names: Vec<_> = tags.iter().map(|(name, _)| name).collect();
        names.dedup();
        assert_eq!(names.len(), tags.len());
    }

    proptest! {
        /// Texts of any characters that are not too long come back as they were.
        #[test]
        fn a_record_survives_its_tags(holder in holders("\\PC{1,12}|[ -~]{1,30}|-")) {
            let tags = encode(&holder, MOST).unwrap();
            assert_legal(&tags);
            let found = read(&tags, holder.lock.as_str());
            prop_assert_eq!(found, Recorded::Holder(Box::new(holder)));
        }

        /// Whatever there is no room for is missing; nothing is there that was not in the record.
        #[test]
        fn what_has_no_room_is_left_out_and_never_changed(holder in holders("(.|\n){1,150}"), room in 0..=MOST) {
            let Some(tags) = encode(&holder, room) else {
                prop_assert!(room < 2);
                return Ok(());
            };
            assert_legal(&tags);
            prop_assert!(tags.len() <= room);
            let Recorded::Holder(found) = read(&tags, holder.lock.as_str()) else { panic!("{tags:?}") };
            let same = |found: &Option<String>, written: &Option<String>| found.is_none() || found == written;
            prop_assert!(found.session.is_none() || found.session == holder.session);
            prop_assert!(found.child.is_none() || found.child == holder.child);
            prop_assert!(found.world == holder.world || found.world.boot_id.is_empty());
            prop_assert!(same(&found.host, &holder.host) && same(&found.origin.actor, &holder.origin.actor));
            if let Some(run) = &found.ci {
                let written = holder.ci.as_ref().unwrap();
                prop_assert!(run.provider == written.provider || run.provider == model::Provider::Other);
                prop_assert!(same(&run.url, &written.url) && same(&run.job, &written.job));
            }
        }

        #[test]
        fn no_tags_are_too_strange(tags in proptest::collection::vec(
            ("(tfguard:(lock|record|run|host|process|session|job|change))|.*", "(1 0 [0-9TZ:-]* |=|-|:|[0-9]{1,20}| |.)*"), 0..8,
        )) {
            let _ = read(&tags, "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4");
        }
    }

    /// What a person sees in the console.
    #[test]
    fn the_tags_can_be_read() {
        let id = |pid| ProcessId { pid, start_ticks: 91 };
        let holder = Holder {
            schema: SCHEMA,
            lock: "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4".parse().unwrap(),
            tfguard: "0.1.0".to_owned(),
            started: "2026-11-20T04:11:21Z".parse().unwrap(),
            ci: Some(model::Run {
                provider: model::Provider::GithubActions,
                url: Some("https://github.com/acme/network/actions/runs/7".to_owned()),
                job: Some("apply prod".to_owned()),
                attempt: Some("1".to_owned()),
            }),
            origin: model::Origin { commit: Some("0a1b".to_owned()), actor: None, runner: Some("runner 7".to_owned()) },
            host: Some("runner-7".to_owned()),
            world: World { boot_id: "b".to_owned(), pid_namespace: 4_026_531_836 },
            supervisor: Some(id(10)),
            child: Some(ChildRecord { id: id(11), session: 10 }),
            session: Some("/home/ci/_temp/tfguard/s".into()),
        };
        let tags = encode(&holder, MOST).unwrap();
        let tags: Vec<_> = tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            tags,
            [
                ("tfguard:lock", "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4"),
                ("tfguard:record", "1 0.1.0 2026-11-20T04:11:21Z"),
                ("tfguard:run", "https://github.com/acme/network/actions/runs/7"),
                ("tfguard:host", "runner-7 b 4026531836"),
                ("tfguard:process", "10:91 11:91:10"),
                ("tfguard:session", "/home/ci/_temp/tfguard/s"),
                ("tfguard:job", "github-actions apply=20prod 1 runner=207"),
                ("tfguard:change", "0a1b -"),
            ]
        );
        let other = holder.lock.as_str().replace('4', "5");
        assert!(matches!(decode(tags, &other), Recorded::Foreign(why) if why.contains("another lock")));
    }
}
