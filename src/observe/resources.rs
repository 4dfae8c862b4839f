//! What Terraform prints of the resources that it changes: begun, ended with which ID, failed.
//!
//! The lines are those of `internal/command/views/hook_ui.go` (Terraform 1.0 to 1.15, OpenTofu), the events those of
//! `hook_json.go` beside it. Anything can stand in an output: a line counts only from its first byte, where what a
//! provisioner prints has `ADDRESS (local-exec): ` before it, and Terraform's log is asked whether it tells of the same
//! resource (`Starting apply for ADDRESS`, INFO, `internal/terraform/node_resource_abstract_instance.go`). Nothing is ever
//! deleted by what is read here.

use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memmem;
use regex_lite::Regex;
use serde::Deserialize;

use crate::model::{Address, Fate, UnsavedResource};
use crate::observe::lines::{LONGEST, Lines};
use crate::text::without_colours;

/// So much memory is used at most, for some hundred thousand resources.
const MOST: usize = 64 * 1024 * 1024;
/// What one resource takes beside its address and ID.
const EACH: usize = 128;
/// Whether what is of this type exists in the state alone, or on the machine of the run. Then nothing of it is left behind,
/// and its ID, such as `none`, imports nothing.
fn leaves_nothing(kind: &str) -> bool {
    matches!(kind, "terraform_data" | "null_resource")
        || ["random_", "tls_", "time_", "local_"].iter().any(|provider| kind.starts_with(provider))
}

/// What is done to a resource. A replacement is a destruction and a creation, in either order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    Destroy,
    Import,
}

impl Action {
    /// By the word for it in a line for people or an event of `-json`.
    fn of(word: &str) -> Option<Self> {
        match word {
            "Creating" | "Creation" | "create" => Some(Self::Create),
            "Modifying" | "Modifications" | "update" => Some(Self::Update),
            "Destroying" | "Destruction" | "delete" => Some(Self::Destroy),
            "Importing" | "Import" => Some(Self::Import),
            _ => None,
        }
    }
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// No end was seen.
    Begun,
    /// Done, with the ID that it has then, if one was printed.
    Done(Option<Id>),
    /// It failed. Told by `-json` alone.
    Failed,
}

/// What Terraform prints of which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// The attribute, unless that is `id` (`ObjectValueID` of `internal/command/format/object_id.go`).
    pub key: Option<Box<str>>,
    /// Its value.
    pub value: Box<str>,
}

impl Id {
    fn new(key: &str, value: &str) -> Self {
        Self { key: (key != "id").then(|| key.into()), value: value.into() }
    }
}

/// What was seen of one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// What was begun last, and how far that has come. None where only the log tells of it.
    pub last: Option<(Action, End)>,
    /// What was there before is destroyed.
    pub destroyed: bool,
    announced: bool,
    logged: bool,
    contradicted: bool,
    /// How many diagnostics there were when what is done to it was begun.
    begun_at: u32,
    /// Its end stands behind a diagnostic, which may repeat what anything printed.
    is_quoted: bool,
}

/// Reads the output as it grows.
#[derive(Debug, Default)]
pub struct Resources {
    lines: Lines,
    known: HashMap<Box<str>, Change>,
    bytes: usize,
    left_out: usize,
    /// How many errors and warnings were printed whose text begins at the first column, as with `-no-color`.
    diagnostics: u32,
    /// The log tells of resources.
    is_logged: bool,
}

/// An event of `-json`.
#[derive(Deserialize)]
struct Event<'a> {
    r#type: &'a str,
    hook: Hook<'a>,
}

#[derive(Deserialize)]
struct Hook<'a> {
    resource: Resource,
    action: &'a str,
    id_key: Option<String>,
    id_value: Option<String>,
}

#[derive(Deserialize)]
struct Resource {
    addr: String,
}

impl Resources {
    /// Takes the next bytes of stdout.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(chunk, |line| self.read(line));
        self.lines = lines;
    }

    fn read(&mut self, line: &[u8]) {
        if line.len() > LONGEST {
            return;
        }
        let Ok(line) = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)) else { return };
        let plain = without_colours(line);
        if plain.starts_with("Error: ") || plain.starts_with("Warning: ") {
            self.diagnostics += 1;
        }
        let read = if plain.starts_with('{') { event(&plain) } else { human(&plain) };
        if let Some((address, action, end)) = read
            && !leaves_nothing(&address.kind)
        {
            self.enter(address.text, action, end);
        }
    }

    fn enter(&mut self, address: String, action: Action, end: End) {
        let id = match &end {
            End::Done(Some(id)) => id.value.len() + id.key.as_ref().map_or(0, |key| key.len()),
            _ => 0,
        };
        let diagnostics = self.diagnostics;
        let Some(change) = self.change(address, id) else { return };
        match (&change.last, action, &end) {
            // Of the object before it, which an event does not tell from it.
            (Some((Action::Create, _)), Action::Destroy, _) => return,
            (_, _, End::Begun) => (change.announced, change.contradicted) = (true, false),
            (Some((last, End::Done(id))), _, End::Done(now)) => change.contradicted |= *last != action || id != now,
            (Some((last, _)), ..) => change.contradicted |= *last != action,
            (None, ..) => {}
        }
        match &end {
            // What is begun again, a diagnostic may repeat.
            End::Begun if change.last.as_ref().is_none_or(|(last, _)| *last != action) => change.begun_at = diagnostics,
            End::Begun => {}
            End::Done(_) | End::Failed => change.is_quoted |= diagnostics > change.begun_at,
        }
        change.destroyed |= action == Action::Destroy && matches!(end, End::Done(_));
        change.last = Some((action, end));
    }

    /// Takes the address of which the log says that its change begins.
    pub fn note_logged(&mut self, address: &str) {
        self.is_logged = true;
        if let Some((address, "")) = Address::read(address)
            && !leaves_nothing(&address.kind)
            && let Some(change) = self.change(address.text, 0)
        {
            change.logged = true;
        }
    }

    /// What is known of an address. None where there is no room for it, or for so many bytes more.
    fn change(&mut self, address: String, more: usize) -> Option<&mut Change> {
        let is_known = self.known.contains_key(address.as_str());
        let bytes = more + if is_known { 0 } else { address.len() + EACH };
        if self.bytes + bytes > MOST {
            self.left_out += 1;
            return None;
        }
        self.bytes += bytes;
        Some(self.known.entry(address.into()).or_default())
    }

    /// What was seen, in no order.
    pub fn changes(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.known.iter().map(|(address, change)| (&**address, change))
    }

    /// How many lines told of resources for which there was no more room.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many resources the log tells of and the output does not: at a terminal, or with OpenTofu's `-concise`.
    pub fn unprinted(&self) -> usize {
        self.known.values().filter(|change| change.last.is_none()).count()
    }

    /// What the state must tell, or a Terraform that died now has not saved it; by address.
    pub fn to_be_saved(&self) -> Vec<UnsavedResource> {
        let mut resources = Vec::new();
        for (address, change) in self.changes() {
            let one = |is| UnsavedResource::new(address, is);
            match &change.last {
                Some((Action::Create, End::Done(id))) => resources.push(UnsavedResource {
                    id: id.as_ref().map(|id| (*id.value).to_owned()),
                    doubt: self.doubt(change, id.as_ref()),
                    ..one(Fate::Made)
                }),
                Some((Action::Create, end)) => {
                    resources.push(UnsavedResource { failed: *end == End::Failed, ..one(Fate::MayExist) });
                    if change.destroyed {
                        resources.push(one(Fate::Destroyed));
                    }
                }
                Some((Action::Destroy, End::Done(_))) => resources.push(one(Fate::Destroyed)),
                _ => {}
            }
        }
        resources.sort_by(|one, other| one.address.cmp(&other.address));
        resources
    }

    fn doubt(&self, change: &Change, id: Option<&Id>) -> Option<String> {
        let doubt = if change.contradicted {
            Some("the output tells of its creation twice, and not the same")
        } else if change.is_quoted {
            Some("it stands behind an error or a warning, which may repeat what something else printed")
        } else if self.is_logged && !change.logged {
            Some("Terraform's log does not tell of it, so something else may have printed it")
        } else if !self.is_logged && !change.announced {
            Some("the output does not tell that it was begun, so something else may have printed it")
        } else {
            None
        };
        let key = id.and_then(|id| id.key.as_deref());
        let key = || Some(format!("it has no id, and this is its {}", key?));
        doubt.map(str::to_owned).or_else(key)
    }
}

/// Reads an event of `-json`.
fn event(line: &str) -> Option<(Address, Action, End)> {
    // Of the many other events none is parsed.
    memmem::find(line.as_bytes(), br#""type":"apply_"#)?;
    let Event { r#type, hook } = serde_json::from_str(line).ok()?;
    let (address, "") = Address::read(&hook.resource.addr)? else { return None };
    let end = match r#type {
        "apply_start" => End::Begun,
        "apply_complete" => {
            let id = hook.id_value.filter(|id| !id.is_empty());
            End::Done(id.map(|id| Id::new(hook.id_key.as_deref().unwrap_or("id"), &id)))
        }
        "apply_errored" => End::Failed,
        _ => return None,
    };
    Some((address, Action::of(hook.action)?, end))
}

/// Reads a line for people: `ADDRESS: Creation complete after 0s [id=ID]`. The mark of a deposed object becomes a part of the
/// address.
fn human(line: &str) -> Option<(Address, Action, End)> {
    static SAYS: LazyLock<Regex> = LazyLock::new(|| {
        let begins = r"(Creating|Modifying|Destroying|Importing)\.\.\.(?: \[.*)?";
        let ends = r"(Creation|Modifications|Destruction|Import) complete(?: after )?[0-9A-Za-z.]*(?: \[(.*))?";
        Regex::new(&format!(r"^( \(deposed object \w+\))?: (?:{begins}|{ends})$")).expect("a pattern")
    });
    let (mut address, after) = Address::read(line)?;
    let says = SAYS.captures(after)?;
    let part = |number| says.get(number).map(|part| part.as_str());
    address.text += part(1).unwrap_or_default();
    if let Some(begins) = part(2) {
        return Some((address, Action::of(begins)?, End::Begun));
    }
    // An ID with a newline in it goes on in lines that are nobody's.
    let id = part(4).and_then(|id| id.strip_suffix(']')?.split_once('='));
    Some((address, Action::of(part(3)?)?, End::Done(id.map(|(key, id)| Id::new(key, id)))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Action::{Create, Destroy, Import, Update};

    /// What a text says, which must not depend on where it is cut.
    fn read(text: &str) -> Resources {
        let whole = fed([text.as_bytes()]);
        for cut in 0..text.len() {
            assert_eq!(fed([&text.as_bytes()[..cut], &text.as_bytes()[cut..]]).known, whole.known, "cut at {cut}");
        }
        assert_eq!(fed(text.as_bytes().chunks(1)).known, whole.known);
        whole
    }

    fn fed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Resources {
        let mut resources = Resources::default();
        chunks.into_iter().for_each(|chunk| resources.feed(chunk));
        resources
    }

    fn last(resources: &Resources, address: &str) -> Option<(Action, End)> {
        resources.known.get(address)?.last.clone()
    }

    fn done(id: &str) -> End {
        End::Done(Some(Id::new("id", id)))
    }

    fn json(kind: &str, action: &str, id: Option<&str>) -> String {
        let hook = serde_json::json!({
            "resource": {"addr": "aws_a.n[\"\\\"\\n\"]", "module": "", "resource_type": "aws_a"},
            "action": action, "id_key": id.map(|_| "id"), "id_value": id, "elapsed_seconds": 0
        });
        let hook = hook.to_string();
        format!(
            "{{\"@level\":\"info\",\"@message\":\"m\",\"@module\":\"terraform.ui\",\"hook\":{hook},\"type\":\"{kind}\"}}\n"
        )
    }

    /// Both ways in which Terraform writes the same.
    fn colours(line: &str) -> String {
        format!("\x1b[0m\x1b[1m{line}\x1b[0m\n\x1b[0m\n")
    }

    #[test]
    fn every_beginning_and_end_is_read() {
        let begin = |says: &str| format!("module.m[\"a: Creating...\"].aws_a.n[0]: {says}");
        for (begins, ends, action) in [
            ("Creating...", "Creation complete after 0s [id=i-1]", Create),
            ("Modifying... [id=i-1]", "Modifications complete after 1m20s [id=i-1]", Update),
            ("Destroying... [id=i-1]", "Destruction complete after 3s", Destroy),
            ("Importing... [id=i-1]", "Import complete [id=i-1]", Import),
        ] {
            for style in [|line: &str| format!("{line}\n"), colours, |line: &str| format!("{line}\r\n")] {
                let address = "module.m[\"a: Creating...\"].aws_a.n[0]";
                let text = style(&begin(begins));
                assert_eq!(last(&read(&text), address), Some((action, End::Begun)));
                let text = text + &style(&begin("Still creating... [00m10s elapsed]")) + &style(&begin(ends));
                let end = if action == Destroy { End::Done(None) } else { done("i-1") };
                assert_eq!(last(&read(&text), address), Some((action, end)), "{text}");
            }
        }
        for (action, verb) in [(Create, "create"), (Update, "update"), (Destroy, "delete")] {
            let (begun, address) = (json("apply_start", verb, None), r#"aws_a.n["\"\n"]"#);
            assert_eq!(last(&read(&begun), address), Some((action, End::Begun)));
            assert_eq!(
                last(&read(&(begun.clone() + &json("apply_complete", verb, Some("i")))), address),
                Some((action, done("i")))
            );
            assert_eq!(
                last(&read(&(begun + &json("apply_errored", verb, None))), address),
                Some((action, End::Failed))
            );
        }
        assert_eq!(last(&read("a.b: Creation complete after 0s [id=x] y]\n"), "a.b"), Some((Create, done("x] y"))));
        assert_eq!(last(&read("a.b: Creation complete after 0s [id=x\ny]\n"), "a.b"), Some((Create, End::Done(None))));
    }

    #[test]
    fn what_terraform_did_not_print_so_does_not_count() {
        for text in [
            "a.b (local-exec): a.c: Creating...\n",
            "a.b (local-exec): Creation complete after 0s [id=x]\n",
            " a.b: Creating...\n",
            "│ a.b: Creating...\n",
            "a.b: Creating",
            "a.b: Creating...\x1b[5n\n",
            "a.b: Creating...evil\n",
            "a.b: Creation complete after 0s, evil [id=x]\n",
            "a.b: Still creating... [10s elapsed]\n",
            "data.a.b: Creation complete after 0s [id=x]\n",
            "data.a.b: Reading...\n",
            "terraform_data.b: Creating...\n",
            "module.m.null_resource.b: Creation complete after 0s [id=7]\n",
            "random_password.b: Creation complete after 0s [id=none]\n",
            "tls_private_key.b: Creating...\n",
            "time_sleep.b: Creating...\n",
            "local_file.b: Creating...\n",
            "a.b (evil): Creating...\n",
            "Error: a.b: Creating...\n",
            "{\"type\":\"apply_start\"}\n",
            "{\"type\":\"provision_progress\",\"hook\":{\"output\":\"{\\\"type\\\":\\\"apply_start\\\"\"}}\n",
        ] {
            assert!(read(text).known.is_empty(), "{text}");
        }
        let long = format!("a.b: Creation complete after 0s [id={}]\n", "x".repeat(LONGEST));
        let resources = fed([long.as_bytes(), b"a.c: Creating...\n"]);
        assert_eq!(resources.known.len(), 1);
        assert!(fed([long.as_bytes()[..LONGEST * 9 / 10].repeat(9).as_slice()]).lines.partial.capacity() < 3 * LONGEST);
    }

    fn to_be_saved(resources: &Resources) -> Vec<(String, Fate, Option<String>, bool)> {
        let saved = resources.to_be_saved().into_iter();
        saved.map(|it| (it.address, it.is, it.id, it.doubt.is_some())).collect()
    }

    #[test]
    fn a_replacement_is_told_by_what_came_of_it() {
        let destroyed = "a.b: Destroying... [id=old]\na.b: Destruction complete after 0s\n";
        let created = "a.b: Creating...\na.b: Creation complete after 0s [id=new]\n";
        let deposed = destroyed.replace("a.b:", "a.b (deposed object 12345678):");
        let one = |address: &str, fate, id: Option<&str>| (address.to_owned(), fate, id.map(str::to_owned), false);
        let made = one("a.b", Fate::Made, Some("new"));
        for (text, expected) in [
            (destroyed.to_owned(), vec![one("a.b", Fate::Destroyed, None)]),
            (
                format!("{destroyed}a.b: Creating...\n"),
                vec![one("a.b", Fate::MayExist, None), one("a.b", Fate::Destroyed, None)],
            ),
            (format!("{destroyed}{created}"), vec![made.clone()]),
            (
                format!("{created}{deposed}"),
                vec![made.clone(), one("a.b (deposed object 12345678)", Fate::Destroyed, None)],
            ),
            // By `-json` the two are of one address.
            (format!("{created}{destroyed}"), vec![made]),
            ("a.b: Modifying... [id=x]\n".to_owned(), vec![]),
        ] {
            assert_eq!(to_be_saved(&read(&text)), expected, "{text}");
        }
    }

    /// Guards against an import of somebody's choice.
    #[test]
    fn what_something_else_may_have_printed_is_marked() {
        let begun = "a.b: Creating...\n";
        let forged = "a.b: Creation complete after 0s [id=evil]\n";
        let ended = "a.b: Creation complete after 0s [id=own]\n";
        let mut concise = read("");
        concise.note_logged("a.b");
        assert_eq!((concise.to_be_saved(), concise.unprinted()), (vec![], 1));
        for (text, logged, doubted) in [
            (format!("{begun}{ended}"), &["a.b"][..], false),
            (format!("{begun}{ended}"), &[], false),
            (ended.to_owned(), &["a.b"], false),
            (ended.to_owned(), &[], true),
            (format!("{begun}{ended}"), &["a.other"], true),
            (format!("{begun}{forged}{ended}"), &["a.b"], true),
            (format!("{begun}{ended}{forged}"), &["a.b"], true),
            (format!("{begun}{ended}{ended}"), &["a.b"], false),
            (format!("{forged}{begun}{ended}"), &["a.b"], false),
        ] {
            let mut resources = read(&text);
            logged.iter().for_each(|address| resources.note_logged(address));
            let saved = to_be_saved(&resources);
            assert_eq!(saved.iter().map(|it| it.3).collect::<Vec<_>>(), [doubted], "{text} {logged:?}");
        }
    }

    /// A local command's output is repeated by the error that tells of its failure, with `-no-color` from the first column.
    #[test]
    fn what_a_diagnostic_may_repeat_is_marked() {
        let (begun, ended) = ("a.b: Creating...\n", "a.b: Creation complete after 0s [id=x]\n");
        for (text, doubted) in [
            (format!("Warning: old\n{begun}{ended}"), false),
            (format!("Warning: old\n{begun}\nError: local-exec\n{ended}"), true),
            (format!("{begun}\nError: local-exec\n{begun}{ended}"), true),
            (format!("{begun}{ended}\nError: local-exec\n{begun}{}", ended.replace('x', "evil")), true),
            (format!("{begun}{ended}\nError: local-exec\n"), false),
            (format!("{begun}│ Error: in a box\n{ended}"), false),
        ] {
            assert_eq!(to_be_saved(&read(&text))[0].3, doubted, "{text}");
        }
    }

    #[test]
    fn what_is_no_id_is_marked() {
        let begun = "a.b: Creating...\n";
        let human = read(&format!("{begun}a.b: Creation complete after 0s [name=n]\n")).to_be_saved();
        assert_eq!(human[0].id.as_deref(), Some("n"));
        assert_eq!(human[0].doubt.as_deref(), Some("it has no id, and this is its name"));
        let event = json("apply_start", "create", None)
            + &json("apply_complete", "create", Some("n")).replace(r#""id_key":"id""#, r#""id_key":"name""#);
        assert_eq!(read(&event).to_be_saved()[0].doubt, human[0].doubt);
    }

    #[test]
    fn what_failed_may_exist() {
        let failed = read(&(json("apply_start", "create", None) + &json("apply_errored", "create", None)));
        assert!(failed.to_be_saved()[0].failed && failed.to_be_saved()[0].is == Fate::MayExist);
    }

    #[test]
    fn very_many_cost_little_and_what_is_left_out_is_told() {
        let line = |at: usize| format!("aws_sqs_queue.a[{at}]: Creation complete after 0s [id=https://sqs/{at}]\n");
        let text: String = (0..100_000).map(line).collect();
        let resources = fed(text.as_bytes().chunks(4096));
        assert_eq!((resources.known.len(), resources.left_out()), (100_000, 0));
        assert!(resources.bytes < 24 * 1024 * 1024, "{}", resources.bytes);
        let mut resources = Resources { bytes: MOST - 330, ..Resources::default() };
        (0..3).for_each(|at| resources.feed(line(at).as_bytes()));
        assert_eq!((resources.known.len(), resources.left_out()), (2, 1));
        // Also what is known already takes more by its ID.
        resources.feed(line(0).replace("https", &"x".repeat(100)).as_bytes());
        assert!(resources.bytes <= MOST && resources.left_out() == 2, "{}", resources.bytes);
    }

    proptest! {
        /// Whatever stands in a key, the same key comes out, and the ID with it.
        #[test]
        fn any_key_and_id_is_read(key in "\\PC*", id in "[^\\p{C}\\]]+", cut in 0..200_usize) {
            let address = format!("module.m.a.b[{}]", crate::text::quote_hcl(&key));
            let line = format!("{address}: Creation complete after 0s [id={id}]\n");
            let (one, two) = line.as_bytes().split_at(cut.min(line.len()));
            let resources = fed([one, two]);
            prop_assert_eq!(last(&resources, &address), Some((Create, done(&id))));
            prop_assert_eq!(resources.unprinted(), 0);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fed([&bytes[..], b"\n"]);
        }
    }
}
