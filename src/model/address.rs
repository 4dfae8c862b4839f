//! The address of a resource instance, as Terraform prints it.

use crate::text::{escaped, quote_hcl};

/// Longest address that is read.
const LONGEST: usize = 16 * 1024;

/// The address of a managed resource instance: `module.net["a"].aws_subnet.private[0]`.
///
/// Written by `String` of `AbsResourceInstance` (Terraform's `internal/addrs/resource.go`). From 1.3 on its keys are quoted
/// as HCL does, before that as Go does (`instance_key.go`); here always as HCL does, so that both are the same text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address, with its keys quoted for HCL.
    pub text: String,
    /// The resource's type.
    pub kind: String,
}

impl Address {
    /// Reads the address that a text begins with, and gives what follows it. None of a data source, where there is none,
    /// and where it is longer than 16 KiB.
    #[must_use]
    pub fn read(text: &str) -> Option<(Self, &str)> {
        let (mut rest, mut read) = (text, String::new());
        loop {
            let kind = name(&mut rest)?;
            rest = rest.strip_prefix('.')?;
            read.extend([kind, ".", name(&mut rest)?]);
            if let Some(after) = rest.strip_prefix('[') {
                rest = index(&mut read, after)?;
            }
            if read.len() > LONGEST {
                return None;
            }
            match kind {
                "module" => rest = rest.strip_prefix('.')?,
                "data" | "ephemeral" | "list" | "action" if rest.starts_with('.') => return None,
                kind => return Some((Self { text: read, kind: kind.to_owned() }, rest)),
            }
            read.push('.');
        }
    }
}

/// Takes an identifier of HCL off the beginning.
fn name<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let is_part = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-');
    let (name, after) = rest.split_at(rest.find(|char| !is_part(char)).unwrap_or(rest.len()));
    let begins = name.chars().next().is_some_and(|char| char.is_alphabetic() || char == '_');
    *rest = after;
    begins.then_some(name)
}

/// Reads what stands in brackets into `read`, and gives what follows.
fn index<'a>(read: &mut String, rest: &'a str) -> Option<&'a str> {
    let Some(mut rest) = rest.strip_prefix('"') else {
        let (number, after) = rest.split_once(']')?;
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        read.extend(["[", number, "]"]);
        return is_number.then_some(after);
    };
    let mut key = String::new();
    loop {
        let mut chars = rest.chars();
        let char = match chars.next()? {
            '"' => break,
            '\\' => escaped(&mut chars)?,
            // A template's beginning is doubled.
            char @ ('$' | '%') if chars.as_str().strip_prefix(char).is_some_and(|rest| rest.starts_with('{')) => {
                chars.next()?
            }
            char => char,
        };
        key.push(char);
        rest = chars.as_str();
    }
    read.extend(["[", &quote_hcl(&key), "]"]);
    rest[1..].strip_prefix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, &str)> {
        Address::read(text).map(|(address, rest)| (address.text, rest))
    }

    #[test]
    fn an_address_is_read_whatever_its_keys_hold() {
        for address in [
            "aws_s3_bucket.a",
            "aws_s3_bucket.a[0]",
            "module.net[\"a\"].module.b[2].aws_subnet.private-1[\"x.y: Creating...\"]",
            r#"a_b.c["q\"]: \\ \n $${x} %%{y} $x ü"]"#,
            "module.data.a_b.c",
        ] {
            for rest in ["", ": Creating...", " (deposed object 12345678): x"] {
                assert_eq!(read(&format!("{address}{rest}")), Some((address.to_owned(), rest)));
            }
        }
        assert_eq!(Address::read("module.m.aws_x.y").unwrap().0.kind, "aws_x");
    }

    /// Terraform before 1.3 quotes as Go does.
    #[test]
    fn a_key_is_the_same_however_it_was_quoted() {
        let hcl = r#"a.b["\u0007 \u007f ${x}"]"#.replace("${", "$${");
        for text in [r#"a.b["\a \x7f ${x}"]"#, hcl.as_str(), r#"a.b["\u0007 \U0000007f $${x}"]"#] {
            assert_eq!(read(text).unwrap().0, r#"a.b["\u0007 \u007f $${x}"]"#.to_owned(), "{text}");
        }
        // A newline is never raw, and nothing that a terminal would obey.
        assert_eq!(read("a.b[\"\\u202e\u{9b}##x\"]").unwrap().0, r##"a.b["\u202e\u009b#\u0023x"]"##);
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "a",
            "a.",
            ".b",
            "a.b[",
            "a.b[x]",
            "a.b[\"x]",
            "a.b[\"x\"",
            "a b.c",
            "1a.b",
            "module.a",
            "module.a.b",
            "data.aws_ami.a",
            "module.m.data.a.b",
            "│ a.b",
            "a.b[\"\\q\"]",
            "a.b[\"\\u12\"]",
            "a.b[]",
            "a.b[\"\\uü00\"]",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(&format!("{}a.b", "module.m[0].".repeat(LONGEST))), None);
        assert_eq!(read(&format!("a.b[{:?}]", "x".repeat(LONGEST))), None);
    }
}
