//! The backend in a plan file, from which `apply <plan file>` takes it, and the state that the plan was made of.
//!
//! A plan file is a zip archive. Its entry `tfplan` is a protobuf message in which field 13 is the backend: its type
//! and its settings, a MessagePack value (`internal/plans/planfile` and `internal/plans/planproto/planfile.proto`, the
//! same from Terraform 0.12 to 1.15 and in OpenTofu). The rest, which can be hundreds of megabytes, is passed over
//! without being held in memory. Its entry `tfstate` is the state that was planned on, as a file of its own would be;
//! `apply` refuses to go on where the state has another lineage or serial by then.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::DeflateDecoder;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};
use serde::Deserialize as _;
use serde_json::Value;

use crate::aws::PlanFlaw;
use crate::files;

const PLAN: &[u8] = b"tfplan";
const STATE: &[u8] = b"tfstate";
/// `Plan.backend`
const BACKEND: u64 = 13;
/// `Backend.type`, `Backend.config`
const TYPE: u64 = 1;
const CONFIG: u64 = 2;
/// `DynamicValue.msgpack`
const MSGPACK: u64 = 1;

/// A plan is passed over at several hundred megabytes a second, and this is the plan of some 50 000 resources.
const LARGEST_PLAN: u64 = 512 * 1024 * 1024;
/// A backend's settings have a kilobyte or two.
const LARGEST_BACKEND: u64 = 1024 * 1024;
/// A plan file has an entry for every file of the configuration; `tfplan` is the first.
const MOST_ENTRIES: usize = 100_000;
/// Settings nest two deep.
const DEEPEST: usize = 16;

/// What a plan says of its backend.
pub(crate) struct PlannedBackend {
    /// Its type, for instance `s3`; empty without a backend.
    pub kind: String,
    /// Its settings as JSON, as `init` would record them.
    pub config: Value,
}

/// Reads a plan file.
pub(crate) fn read(path: &Path) -> Result<PlannedBackend, PlanFlaw> {
    decode(&entry(open(path)?, PLAN, &mut backend)?)
}

/// Reads the state that a plan was made of, as long as it has no more than `most` bytes.
///
/// # Errors
/// When it is no plan file with a state, or one that only OpenTofu can read.
pub fn read_planned_state(path: &Path, most: usize) -> Result<Vec<u8>, PlanFlaw> {
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    entry(open(path)?, STATE, &mut |state| {
        let mut bytes = Vec::new();
        state.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 > most { Err(PlanFlaw::TooLarge) } else { Ok(bytes) }
    })
}

/// Opens a plan file that is a zip archive.
fn open(path: &Path) -> Result<File, PlanFlaw> {
    let mut file = files::open_path(path).map_err(|error| match error.kind() {
        io::ErrorKind::Other => PlanFlaw::NoFile,
        _ => error.into(),
    })?;
    let mut start = [0; 4];
    let length = file.read(&mut start)?;
    match &start[..length] {
        // Of an entry, or of an archive without any.
        b"PK\x03\x04" | b"PK\x05\x06" => Ok(file),
        [b'{', ..] => Err(other_format(&file)),
        _ => Err(PlanFlaw::NoPlan),
    }
}

/// Which of the plans in JSON it is: encrypted by OpenTofu (`basedata` in its `internal/encryption/base.go`), or only
/// the name of a run that is planned elsewhere (`internal/cloud/cloudplan`).
fn other_format(file: &File) -> PlanFlaw {
    // The one field that both OpenTofu and this look at comes last, so it is looked for from the end.
    match files::tail(file, 4096) {
        Ok(tail) if memchr::memmem::find(&tail, b"\"encryption_version\"").is_some() => PlanFlaw::Encrypted,
        Ok(_) => PlanFlaw::NoPlan,
        Err(error) => error.into(),
    }
}

/// What `take` reads of a plan file's entry.
fn entry(file: File, name: &[u8], take: &mut Take) -> Result<Vec<u8>, PlanFlaw> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(zip)?;
    let mut entries = archive.entries(&mut buffer);
    for _ in 0..MOST_ENTRIES {
        let Some(header) = entries.next_entry().map_err(zip)? else { return Err(PlanFlaw::NoPlan) };
        if header.file_path().as_ref() != name {
            continue;
        }
        if header.uncompressed_size_hint() > LARGEST_PLAN {
            return Err(PlanFlaw::TooLarge);
        }
        let method = header.compression_method();
        let entry = archive.get_entry(header.wayfinder()).map_err(zip)?;
        // The verifying reader ends with an error beyond the size that was just looked at.
        return if method == CompressionMethod::DEFLATE {
            take(&mut entry.verifying_reader(DeflateDecoder::new(BufReader::new(entry.reader()))))
        } else if method == CompressionMethod::STORE {
            take(&mut entry.verifying_reader(entry.reader()))
        } else {
            Err(PlanFlaw::Damaged("Terraform doesn't use its compression".to_owned()))
        };
    }
    Err(PlanFlaw::TooLarge)
}

fn zip(error: rawzip::Error) -> PlanFlaw {
    PlanFlaw::Damaged(error.to_string())
}

/// Reads an entry.
type Take<'a> = dyn FnMut(&mut dyn Read) -> Result<Vec<u8>, PlanFlaw> + 'a;

/// The message `Backend` of a plan.
fn backend(plan: &mut dyn Read) -> Result<Vec<u8>, PlanFlaw> {
    let backend = field(&mut BufReader::new(plan), BACKEND).map_err(damaged)?;
    backend.ok_or_else(|| PlanFlaw::Damaged("it has no backend".to_owned()))
}

/// Reads the message `Backend`.
fn decode(message: &[u8]) -> Result<PlannedBackend, PlanFlaw> {
    let field = |message: &[u8], number| field(&mut &*message, number).map_err(damaged).map(Option::unwrap_or_default);
    let kind = String::from_utf8(field(message, TYPE)?)
        .map_err(|_| PlanFlaw::Damaged("the type of its backend is not text".to_owned()))?;
    let msgpack = field(&field(message, CONFIG)?, MSGPACK)?;
    let mut decoder = rmp_serde::Deserializer::from_read_ref(&msgpack);
    decoder.set_max_depth(DEEPEST);
    // The decoder's own words can quote a value.
    let config = Value::deserialize(&mut decoder)
        .map_err(|_| PlanFlaw::Damaged("the settings of its backend are not what Terraform writes".to_owned()))?;
    Ok(PlannedBackend { kind, config })
}

fn damaged(error: io::Error) -> PlanFlaw {
    PlanFlaw::Damaged(error.to_string())
}

/// The content of a field of a protobuf message that occurs once and has a length. Everything else is passed over, to
/// the message's end (protobuf's "Encoding" guide; proto3 has no groups).
fn field(message: &mut impl BufRead, number: u64) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    while !message.fill_buf()?.is_empty() {
        let tag = varint(message)?;
        let length = match tag & 7 {
            0 => {
                varint(message)?;
                continue;
            }
            1 => 8,
            2 => varint(message)?,
            5 => 4,
            _ => return Err(invalid("it has a field of a kind that proto3 does not have")),
        };
        let mut content = message.by_ref().take(length);
        let read = if tag == number << 3 | 2 {
            if found.is_some() || length > LARGEST_BACKEND {
                return Err(invalid("a field is there twice, or far too large"));
            }
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            u64::try_from(found.insert(bytes).len()).unwrap_or(u64::MAX)
        } else {
            io::copy(&mut content, &mut io::sink())?
        };
        if read != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(found)
}

fn varint(message: &mut impl BufRead) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        message.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(invalid("it has a number of more than 64 bits"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
