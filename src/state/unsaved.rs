//! What a Terraform did, compared with the state; and the `import` blocks for what is not in it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use crate::model::{Address, Fate, Relation, Unsaved, UnsavedResource};
use crate::state::content::{Content, Instance};
use crate::state::judge::relation;
use crate::state::seen::Seen;
use crate::terraform::minor;
use crate::text::{printable_whole, quote, quote_hcl};

/// Keeps of what a Terraform changed what its state has otherwise, or all where that cannot be seen. `orderly`: Terraform
/// ended by itself, and so has saved what it knew.
pub fn compare(changed: &mut Unsaved, seen: &Seen, orderly: bool) {
    changed.forget_comparison();
    match contents(seen) {
        Ok(contents) => {
            let is_first = !std::mem::replace(&mut changed.compared, true);
            let resources = std::mem::take(&mut changed.resources);
            changed.resources = differing(resources, &contents, orderly, is_first);
        }
        Err(why) => changed.not_compared(&why, orderly),
    }
}

/// What has the resources of a state: it, and what Terraform could not upload of it.
fn contents(seen: &Seen) -> Result<Vec<&Content>, String> {
    let object = seen.object.iter().filter(|object| object.size > 0);
    let errored = seen.errored.iter().map(|errored| &errored.state);
    let errored = errored.filter(|errored| relation(errored, seen.object.as_ref()) == Some(Relation::Newer));
    let contents: Vec<_> = object
        .chain(errored)
        .map(|object| object.content.as_ref().map_err(ToString::to_string))
        .collect::<Result<_, _>>()?;
    match contents.iter().any(|content| content.encrypted) {
        true => Err("OpenTofu has encrypted it".to_owned()),
        false => Ok(contents),
    }
}

fn differing(
    changed: Vec<UnsavedResource>,
    contents: &[&Content],
    orderly: bool,
    is_first: bool,
) -> Vec<UnsavedResource> {
    let mut saved: HashMap<&str, Vec<&Instance>> = HashMap::new();
    for instance in contents.iter().flat_map(|content| &content.instances) {
        saved.entry(&instance.address).or_default().push(instance);
    }
    let destroyed = changed.iter().filter(|one| one.is == Fate::Destroyed);
    let destroyed: HashSet<_> = destroyed.map(|one| one.address.clone()).collect();
    let still = |mut resource: UnsavedResource| {
        let there = saved.get(resource.address.as_str());
        resource.is = match (resource.is, there) {
            (Fate::Destroyed, there) => return there.is_some().then_some(resource),
            (Fate::MayExist, None) => Fate::MayExist,
            // It is to replace what the state has, unless that is what came of it.
            (Fate::MayExist, Some(there)) => {
                let has_come = !is_first && !resource.was_there;
                resource.was_there = true;
                let is_it = orderly
                    || has_come
                    || (!destroyed.contains(&resource.address) && there.iter().any(|instance| instance.tainted));
                return (!is_it).then_some(resource);
            }
            (_, None) => Fate::Made,
            (_, Some(there)) => {
                let is_it =
                    |id: &String| there.iter().any(|instance| instance.ids.iter().flatten().any(|own| own == id));
                if resource.id.as_ref().is_none_or(is_it) {
                    return None;
                }
                Fate::Replaced
            }
        };
        Some(resource)
    };
    changed.into_iter().filter_map(still).collect()
}

/// The ends of types whose import ID is as a rule not what Terraform prints as their `id`, but put together of what they
/// tie together (pages "Import" in the documentation of the AWS provider 5 and 6).
const IMPORTED_OTHERWISE: [&str; 6] =
    ["_attachment", "_association", "_membership", "_permission", "security_group_rule", "aws_route"];

/// Stands before the blocks.
const HEAD: &str = "# If the plan refuses a block: the import ID of that type differs from its id; see \"Import\" in its \
                    documentation.\n";

/// `import` blocks, or before Terraform 1.5 commands, for what is not in states, one for an address. What nobody can be sure
/// of is there as a comment. Nothing in it steers a terminal, whoever wrote what it is made of.
pub fn imports(all: &[&Unsaved]) -> String {
    let (mut text, mut printed) = (String::new(), HashSet::new());
    let named = || {
        let named = all.iter().flat_map(|unsaved| unsaved.resources.iter().map(|one| (&unsaved.state, one)));
        named.filter(|(_, one)| one.is != Fate::Destroyed)
    };
    // Two of an address can't both be imported there.
    let mut ids: HashMap<&str, HashSet<_>> = HashMap::new();
    for (state, one) in named().filter(|(_, one)| one.id.is_some()) {
        ids.entry(&one.address).or_default().insert((state, &one.id));
    }
    for what in all.iter().flat_map(|unsaved| &unsaved.unseen) {
        let _ = writeln!(text, "# NOT known: {}", printable_whole(what));
    }
    let left_out: usize = all.iter().map(|unsaved| unsaved.left_out).sum();
    if left_out > 0 {
        let _ = writeln!(text, "# {left_out} more are not named here");
    }
    if named().next().is_some() {
        text.insert_str(0, HEAD);
    }
    for unsaved in all {
        let blocks = unsaved.version.as_deref().and_then(minor).is_none_or(|version| version >= (1, 5));
        for resource in unsaved.resources.iter().filter(|resource| resource.is != Fate::Destroyed) {
            let is_alone = ids.get(resource.address.as_str()).is_none_or(|ids| ids.len() < 2);
            let block = block(resource, is_alone, blocks).unwrap_or_default();
            if printed.insert(block.clone()) {
                text += &block;
            }
        }
    }
    text
}

/// The block, or command, of one resource. None where its address is none.
fn block(resource: &UnsavedResource, is_alone: bool, blocks: bool) -> Option<String> {
    let UnsavedResource { address, is, id, doubt, failed, .. } = resource;
    let (Address { text: address, kind }, "") = Address::read(address)? else { return None };
    let remark = match (is, id, doubt) {
        (Fate::MayExist, ..) => {
            let why = if *failed { "its creation failed" } else { "its creation was begun and no end of it seen" };
            Some(format!("{why}: look whether it exists, and with which ID"))
        }
        (_, None, _) => Some("made, and its ID is not known: look for it".to_owned()),
        (_, _, Some(doubt)) => Some(format!("{doubt}: look whether it is so")),
        _ if !is_alone => Some("made more than once, and there is one place for it: choose one".to_owned()),
        (Fate::Replaced, ..) => Some(format!(
            "the state has the object before it, which may still exist: note the ID of that, take it out of the state \
             (`state rm {}`), and delete it by hand if it is there",
            quote(&address)
        )),
        _ if IMPORTED_OTHERWISE.iter().any(|end| kind.ends_with(end)) => {
            Some(format!("the import ID of {kind} is as a rule not this id: see \"Import\" in its documentation"))
        }
        _ => None,
    };
    let id = id.as_deref().unwrap_or("…");
    let lines = match blocks {
        true => format!("import {{\n  to = {address}\n  id = {}\n}}\n", quote_hcl(id)),
        false => format!("terraform import {} {}\n", quote(&address), quote(id)),
    };
    let Some(remark) = remark else { return Some(lines) };
    let comment: String = lines.lines().map(|line| format!("# {line}\n")).collect();
    Some(format!("# {address}: {}\n{comment}", printable_whole(&remark)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content(resources: &[(&str, Option<u32>, &str, &str)]) -> Content {
        let resource = |(kind, index, id, status): &(&str, Option<u32>, &str, &str)| {
            json!({"mode": "managed", "type": kind, "name": "n", "provider": "p",
                "instances": [{"index_key": index, "attributes": {"id": id}, "status": status}]})
        };
        let resources: Vec<_> = resources.iter().map(resource).collect();
        let state = json!({"version": 4, "terraform_version": "1.11.4", "serial": 1, "lineage": "l", "outputs": {}, "resources": resources});
        Content::read(state.to_string().as_bytes()).unwrap()
    }

    fn resource(address: &str, is: Fate, id: Option<&str>) -> UnsavedResource {
        UnsavedResource { id: id.map(str::to_owned), ..UnsavedResource::new(address, is) }
    }

    #[test]
    fn what_the_state_has_otherwise_is_named_and_nothing_else() {
        use Fate::{Destroyed, Made, MayExist, Replaced};
        let state = content(&[("a", Some(0), "1", ""), ("b", None, "2", ""), ("c", None, "3", "tainted")]);
        for (is, address, id, killed, orderly) in [
            (Made, "a.n[0]", Some("1"), None, None),
            (Made, "a.n[0]", Some("9"), Some(Replaced), Some(Replaced)),
            (Made, "a.n[0]", None, None, None),
            (Made, "a.n[1]", Some("1"), Some(Made), Some(Made)),
            (Made, "a.n", Some("1"), Some(Made), Some(Made)),
            (MayExist, "d.n", None, Some(MayExist), Some(MayExist)),
            // It may be there beside what it replaces.
            (MayExist, "b.n", None, Some(MayExist), None),
            (MayExist, "c.n", None, None, None),
            (Destroyed, "b.n", None, Some(Destroyed), Some(Destroyed)),
            (Destroyed, "d.n", None, None, None),
            (Destroyed, "b.n (deposed object 12345678)", None, None, None),
        ] {
            for (is_orderly, expected) in [(false, killed), (true, orderly)] {
                let found = differing(vec![resource(address, is, id)], &[&content(&[]), &state], is_orderly, true);
                assert_eq!(found.first().map(|found| found.is), expected, "{is:?} {address} {is_orderly}");
            }
        }
        // What was tainted is destroyed, so that it is not what came of the creation.
        let changed = vec![resource("c.n", MayExist, None), resource("c.n", Destroyed, None)];
        let found = differing(changed.clone(), &[&state], false, true);
        assert_eq!(found.iter().map(|one| one.is).collect::<Vec<_>>(), [MayExist, Destroyed]);
    }

    /// What was imported by hand is not named again; what was replaced by then is.
    #[test]
    fn what_has_come_into_the_state_since_is_not_named_again() {
        let before = content(&[("b", None, "2", "")]);
        let changed = vec![resource("a.n", Fate::MayExist, None), resource("b.n", Fate::MayExist, None)];
        let first = differing(changed, &[&before], false, true);
        assert_eq!(first.iter().map(|one| one.was_there).collect::<Vec<_>>(), [false, true]);
        let now = content(&[("a", None, "1", ""), ("b", None, "2", "")]);
        let again = differing(first.clone(), &[&now], false, false);
        assert_eq!(again, [first[1].clone()]);
        assert_eq!(differing(first.clone(), &[&before], false, false), first);
    }

    #[test]
    fn there_is_one_block_for_an_address() {
        let of = |state: &str, id: &str| Unsaved {
            state: Some(state.to_owned()),
            resources: vec![resource("a.n", Fate::Made, Some(id))],
            ..Unsaved::default()
        };
        let active = |all: &[&Unsaved]| imports(all).lines().filter(|line| *line == "import {").count();
        let (one, other, elsewhere) = (of("b/k", "1"), of("b/k", "2"), of("b/l", "1"));
        assert_eq!(active(&[&one, &one]), 1);
        assert!(imports(&[]).is_empty());
        for other in [&other, &elsewhere] {
            let text = imports(&[&one, other]);
            assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
            assert!(text.contains("made more than once"), "{text}");
        }
        let maybe = Unsaved { resources: vec![resource("a.n", Fate::MayExist, None)], ..of("b/k", "") };
        assert_eq!(active(&[&maybe, &one]), 1);
    }

    #[test]
    fn blocks_are_quoted_and_what_is_not_sure_is_a_comment() {
        let mut unsaved = Unsaved {
            version: Some("1.5.0".to_owned()),
            unseen: vec!["its state\n".to_owned()],
            left_out: 3,
            resources: vec![
                resource(r#"a.n["$${x}"]"#, Fate::Made, Some("x\"${y}\\ \u{1b}\u{202e}##[a]\n")),
                resource("b.n", Fate::MayExist, None),
                resource("aws_route_table_association.n", Fate::Made, Some("rtbassoc-1")),
                resource("c.n", Fate::Replaced, Some("new")),
                resource("d.n", Fate::Destroyed, None),
                UnsavedResource { failed: true, ..resource("g.n", Fate::MayExist, None) },
                UnsavedResource { doubt: Some("forged".to_owned()), ..resource("e.n", Fate::Made, Some("evil")) },
                resource("f.n", Fate::Made, None),
            ],
            ..Unsaved::default()
        };
        let text = imports(&[&unsaved]);
        let (first, rest) = text.split_once("}\n").unwrap();
        assert_eq!(
            first
                .strip_prefix(HEAD)
                .and_then(|text| text.strip_prefix("# NOT known: its state\u{fffd}\n# 3 more are not named here\n"))
                .unwrap(),
            r##"import {
  to = a.n["$${x}"]
  id = "x\"$${y}\\ \u001b\u202e#\u0023[a]\n"
"##
        );
        assert!(rest.lines().all(|line| line.starts_with("# ")), "{rest}");
        for said in [
            "# b.n: its creation",
            "rtbassoc-1",
            "state rm c.n",
            "# e.n: forged",
            "# f.n: made, and its ID",
            "# g.n: its creation failed",
        ] {
            assert!(rest.contains(said), "{said}: {rest}");
        }
        assert!(!text.contains("d.n"));
        unsaved.version = Some("1.4.6".to_owned());
        unsaved.resources[0].id = Some("it's".to_owned());
        let text = imports(&[&Unsaved { unseen: Vec::new(), left_out: 0, ..unsaved }]);
        assert_eq!(text.lines().nth(1), Some(r#"terraform import 'a.n["$${x}"]' 'it'\''s'"#));
        assert!(text.lines().skip(2).all(|line| line.starts_with("# ")), "{text}");
    }
}
