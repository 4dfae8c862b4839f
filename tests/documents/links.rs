//! Every relative link and anchor leads somewhere, and the table of contents has every page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Tag, TagEnd};

use super::{documents, events, pages, root, text};

const SUMMARY: &str = "docs/SUMMARY.md";

/// The anchors of a document's headings, as Git hosts and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::new();
    let mut heading = None;
    let mut found = BTreeSet::new();
    for event in events(text) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let kept = |char: &char| char.is_alphanumeric() || " -_".contains(*char);
                let heading = heading.take().unwrap_or_default().to_lowercase();
                let anchor: String = heading.chars().filter(kept).collect::<String>().replace(' ', "-");
                let before = seen.entry(anchor.clone()).or_insert(0);
                found.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
                *before += 1;
            }
            _ => {}
        }
    }
    found
}

/// Where the links and pictures of a document lead.
fn targets(text: &str) -> Vec<String> {
    let target = |event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
        _ => None,
    };
    events(text).filter_map(target).collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        if part == Component::ParentDir {
            assert!(path.pop(), "a link leads out of the project");
        } else {
            path.push(part);
        }
        path
    })
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    let mut dead = Vec::new();
    for document in documents() {
        for link in targets(&text(&document)) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => plain(&document.parent().unwrap().join(path)),
            };
            let is_there = root().join(&target).exists();
            if !is_there || !(anchor.is_empty() || anchors(&text(&target)).contains(anchor)) {
                dead.push(format!("{}: {link}", document.display()));
            }
            links += 1;
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
    assert!(links > 150, "only {links} were looked at");
}

#[test]
fn the_table_of_contents_has_every_page_once() {
    let mut listed = targets(&text(SUMMARY));
    listed.sort();
    let mut there: Vec<_> = pages().iter().map(|page| page.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    there.retain(|page| page != "SUMMARY.md");
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn an_anchor_is_made_as_git_hosts_make_it() {
    let text = "# A\n## `--fix-digest`\n## 2. Is it alive? (2 minutes)\n## Deleting the -md5 item\n## A\n";
    let expected = ["a", "--fix-digest", "2-is-it-alive-2-minutes", "deleting-the--md5-item", "a-1"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
    assert_eq!(targets("[a](b.md#c) ![d](e.svg)\n\n| x |\n|---|\n| [f](g.md) |\n"), ["b.md#c", "e.svg", "g.md"]);
}
