use std::io::Write as _;

use proptest::prelude::*;
use rawzip::ZipArchiveWriter;
use serde_json::json;

use super::*;

/// A field with a length.
fn message(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend_from_slice(content);
    bytes
}

fn planned(kind: &str, msgpack: &[u8]) -> Vec<u8> {
    [message(1, kind.as_bytes()), message(2, &message(1, msgpack)), message(3, b"default")].concat()
}

/// A plan as Terraform writes it: version, some resources, the backend, its own version.
fn plan(backend: &[u8]) -> Vec<u8> {
    let fixed = [&[9 << 3 | 1][..], &[7; 8], &[10 << 3 | 5], &[7; 4]].concat();
    [vec![1 << 3, 3], message(3, &[7; 300]), fixed, message(13, backend), message(14, b"1.11.4")].concat()
}

fn archive(name: &str, content: &[u8], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, content) in [("tfconfig/m-/main.tf", &b"x"[..]), (name, content), ("tfstate", b"{}")] {
        let (mut entry, config) = archive.new_file(name).compression_method(method).start().unwrap();
        let descriptor = if method == CompressionMethod::DEFLATE {
            let encoder = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default());
            let mut writer = config.wrap(encoder);
            writer.write_all(content).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            descriptor
        } else {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(content).unwrap();
            writer.finish().unwrap().1
        };
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}

fn settings() -> Value {
    json!({
        "bucket": "b", "key": "k", "region": null, "use_lockfile": true, "max_retries": 5,
        "secret_key": "hush", "endpoints": {"s3": "http://s3", "dynamodb": null},
        "shared_config_files": ["a", "b"], "assume_role": null,
    })
}

/// Settings as go-cty writes them: a map with every attribute, nil where there is none.
fn msgpack() -> Vec<u8> {
    rmp_serde::to_vec(&settings()).unwrap()
}

fn read_bytes(bytes: &[u8]) -> Result<PlannedBackend, PlanFlaw> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    read(file.path())
}

/// Nothing of the settings may be in the error.
#[track_caller]
fn flaw(bytes: &[u8]) -> PlanFlaw {
    let Err(flaw) = read_bytes(bytes) else { panic!("it was read") };
    assert!(!format!("{flaw} {flaw:?}").contains("hush"), "{flaw:?}");
    flaw
}

#[test]
fn the_backend_of_a_plan_is_read_compressed_or_not() {
    for method in [CompressionMethod::DEFLATE, CompressionMethod::STORE] {
        let plan = archive("tfplan", &plan(&planned("s3", &msgpack())), method);
        let planned = read_bytes(&plan).unwrap();
        assert_eq!(planned.kind, "s3");
        assert_eq!(planned.config, settings());
    }
}

#[test]
fn what_is_no_plan_of_terraform_is_told_apart() {
    let stored = |name: &str, content: &[u8]| archive(name, content, CompressionMethod::STORE);
    let whole = plan(&planned("s3", &msgpack()));
    assert!(matches!(flaw(&stored("tfplan2", &whole)), PlanFlaw::NoPlan));
    assert!(matches!(flaw(b""), PlanFlaw::NoPlan));
    assert!(matches!(flaw(b"resource {}"), PlanFlaw::NoPlan));
    let cloud = br#"{"remote_plan_format":1,"run_id":"run-x","hostname":"app.terraform.io"}"#;
    assert!(matches!(flaw(cloud), PlanFlaw::NoPlan));
    let data = "A".repeat(100_000);
    let encrypted = format!(r#"{{"meta":{{"a":"b"}},"encrypted_data":"{data}","encryption_version":"v0"}}"#);
    assert!(matches!(flaw(encrypted.as_bytes()), PlanFlaw::Encrypted));
    // An unknown value, which go-cty writes as an extension; a key that is no text; nothing.
    for msgpack in [&[0x81, 0xa1, b'k', 0xd4, 0, 0][..], &[0x81, 0xc0, 0xc0], &[]] {
        let plan = stored("tfplan", &plan(&planned("s3", msgpack)));
        assert!(matches!(flaw(&plan), PlanFlaw::Damaged(_)), "{msgpack:?}");
    }
    assert!(matches!(flaw(&stored("tfplan", &message(3, b"x"))), PlanFlaw::Damaged(_)));
    let twice = [whole.clone(), message(13, &planned("s3", &msgpack()))].concat();
    assert!(matches!(flaw(&stored("tfplan", &twice)), PlanFlaw::Damaged(_)));
}

#[test]
fn only_a_regular_file_is_read_and_nobody_is_held_up() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(read(&dir.path().join("gone")), Err(PlanFlaw::Unreadable(_))));
    assert!(matches!(read(dir.path()), Err(PlanFlaw::NoFile)));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(read(&pipe), Err(PlanFlaw::NoFile)));
}

#[test]
fn a_plan_that_is_cut_off_is_an_error() {
    let whole = archive("tfplan", &plan(&planned("s3", &msgpack())), CompressionMethod::DEFLATE);
    for end in 0..whole.len() {
        flaw(&whole[..end]);
    }
    let inner = plan(&planned("s3", &msgpack()));
    for end in 0..inner.len() {
        let cut = archive("tfplan", &inner[..end], CompressionMethod::STORE);
        if end < inner.len() - message(14, b"1.11.4").len() {
            flaw(&cut);
        }
    }
}

/// Sizes that lie, nesting without end, and what unpacks to more than there can be.
#[test]
fn a_hostile_plan_is_refused_in_bounded_memory() {
    // A plan that unpacks to a thousand times its size, and what the archive says of that: the truth, too much, less.
    let bomb = archive(
        "tfplan",
        &[&[3 << 3 | 2, 0xfb, 0xac, 0xe2, 4][..], &[0; 9_999_995]].concat(),
        CompressionMethod::DEFLATE,
    );
    let at = memchr::memmem::rfind(&bomb, &10_000_000_u32.to_le_bytes()).unwrap();
    let said = |size: u64| {
        let mut bomb = bomb.clone();
        bomb[at..at + 4].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        flaw(&bomb).to_string()
    };
    assert_eq!(said(10_000_000), PlanFlaw::Damaged("it has no backend".to_owned()).to_string());
    assert_eq!(said(LARGEST_PLAN + 1), PlanFlaw::TooLarge.to_string());
    assert!(said(1000).contains("size"), "{}", said(1000));
    // Lengths far beyond the end, of the backend and of any other field, and a text of four gigabytes.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for number in [3_u8, 13] {
        let lying = [&[number << 3 | 2][..], &huge, b"hush"].concat();
        assert!(matches!(flaw(&archive("tfplan", &lying, CompressionMethod::STORE)), PlanFlaw::Damaged(_)));
    }
    let lists = [vec![0x91; 100_000], vec![0xc0]].concat();
    let maps = [0x81, 0xa1, b'a'].repeat(100_000);
    let text = [&[0xdb, 0xff, 0xff, 0xff, 0xff][..], b"hush"].concat();
    let list = vec![0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0];
    for msgpack in [lists, maps, text, list] {
        let plan = archive("tfplan", &plan(&planned("s3", &msgpack)), CompressionMethod::STORE);
        assert!(matches!(flaw(&plan), PlanFlaw::Damaged(_)));
    }
}

proptest! {
    /// Any byte of the archive changed: the same settings or an error, never others and never a panic.
    #[test]
    fn damage_never_changes_the_settings(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = archive("tfplan", &plan(&planned("s3", &msgpack())), CompressionMethod::DEFLATE);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(planned) = read_bytes(&bytes) {
            prop_assert_eq!(planned.kind, "s3");
            prop_assert_eq!(planned.config, settings());
        }
    }

    /// A plan that was changed before it was packed, so that the sums are right: settings are read, or refused without a
    /// word of them.
    #[test]
    fn a_changed_plan_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8, 1..200_usize), 1..5),
    ) {
        let mut content = plan(&planned("s3", &msgpack()));
        for (at, byte, how, length) in changes {
            let at = at.index(content.len());
            let end = content.len().min(at + length);
            match how {
                0 => content[at] = byte,
                1 => drop(content.splice(at..at, vec![byte; length])),
                _ => drop(content.drain(at..end.min(content.len() - 1).max(at))),
            }
        }
        if let Err(flaw) = read_bytes(&archive("tfplan", &content, CompressionMethod::STORE)) {
            prop_assert!(!format!("{flaw} {flaw:?}").contains("hush"), "{flaw:?}");
        }
    }

    /// What passes the archive's sums but is no plan.
    #[test]
    fn no_content_makes_it_panic(content in prop::collection::vec(any::<u8>(), 0..300), shape in 0..4_u8) {
        let content = match shape {
            0 => content,
            1 => message(13, &content),
            2 => message(13, &[message(1, b"s3"), message(2, &content)].concat()),
            _ => plan(&planned("s3", &content)),
        };
        let _ = read_bytes(&archive("tfplan", &content, CompressionMethod::STORE));
        let _ = read_bytes(&content);
    }
}
