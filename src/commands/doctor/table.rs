//! The lock table as it is.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    KeyType, MultiRegionConsistency, PointInTimeRecoveryStatus, ScalarAttributeType, SseStatus, TableDescription,
    TableStatus, TimeToLiveStatus,
};

use super::finding::Area::Table;
use super::finding::Finding;
use crate::lock::{StoreError, understand};

/// What could be learned of a table. An error is what the service answered.
#[derive(Debug)]
pub struct TableFacts {
    /// The table itself.
    pub described: Result<Described, StoreError>,
    /// The attribute by which items expire, if they do.
    pub expires_by: Result<Option<String>, StoreError>,
    /// Whether it can be taken back to any second.
    pub recovery: Result<bool, StoreError>,
}

/// What `DescribeTable` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// It takes requests.
    pub active: bool,
    /// The keys: name, kind and type.
    pub keys: Vec<(String, KeyType, Option<ScalarAttributeType>)>,
    /// It is encrypted with a key in KMS; otherwise with one of DynamoDB's own.
    pub kms: bool,
    /// The regions of its replicas.
    pub replicas: Vec<String>,
    /// Its replicas agree before a write is answered.
    pub consistent_replicas: bool,
}

/// Asks for them.
pub async fn look(client: &Client, table: &str) -> TableFacts {
    let described = client.describe_table().table_name(table).send().await;
    let described = described
        .map(|answer| answer.table().map(read).unwrap_or_default())
        .map_err(|error| understand("dynamodb:DescribeTable", error));
    if let Err(error) = &described
        && error.is_silence()
    {
        // It would be waited for as long again for each question.
        return TableFacts { expires_by: Err(error.clone()), recovery: Err(error.clone()), described };
    }
    let ttl = client.describe_time_to_live().table_name(table).send().await;
    let backups = client.describe_continuous_backups().table_name(table).send().await;
    TableFacts {
        described,
        expires_by: ttl
            .map(|answer| {
                let ttl = answer.time_to_live_description()?;
                let on =
                    matches!(ttl.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
                on.then(|| ttl.attribute_name().unwrap_or_default().to_owned())
            })
            .map_err(|error| understand("dynamodb:DescribeTimeToLive", error)),
        recovery: backups
            .map(|answer| {
                answer
                    .continuous_backups_description()
                    .and_then(|backups| backups.point_in_time_recovery_description())
                    .and_then(|recovery| recovery.point_in_time_recovery_status())
                    == Some(&PointInTimeRecoveryStatus::Enabled)
            })
            .map_err(|error| understand("dynamodb:DescribeContinuousBackups", error)),
    }
}

fn read(table: &TableDescription) -> Described {
    let kind = |name: &str| {
        let attribute = table.attribute_definitions().iter().find(|attribute| attribute.attribute_name() == name);
        attribute.map(|attribute| attribute.attribute_type().clone())
    };
    let keys = table.key_schema().iter();
    Described {
        active: matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating)),
        keys: keys
            .map(|key| (key.attribute_name().to_owned(), key.key_type().clone(), kind(key.attribute_name())))
            .collect(),
        kms: table.sse_description().and_then(|sse| sse.status()) == Some(&SseStatus::Enabled),
        replicas: table.replicas().iter().filter_map(|replica| replica.region_name()).map(str::to_owned).collect(),
        consistent_replicas: table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong),
    }
}

/// What follows.
#[must_use]
pub fn findings(facts: &TableFacts, table: &str, region: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.described {
        Ok(described) => findings.extend(schema(described, table)),
        Err(StoreError::NoSuchTable { .. }) => {
            return vec![
                Finding::problem(Table, "table", format!("there is no table {table} in {region}, in the account of these credentials"))
                    .why("Terraform cannot take its lock and refuses to work")
                    .fix("create it with the string partition key LockID, or set dynamodb_table, region and credentials right"),
            ];
        }
        Err(error) if error.is_silence() => {
            return vec![
                Finding::problem(Table, "table", error.to_string()).why("nothing more was asked of the table"),
            ];
        }
        Err(error) => findings.push(unknown("table", "the table's key schema", error)),
    }
    match &facts.expires_by {
        Ok(Some(attribute)) => findings.push(
            Finding::warning(Table, "ttl", format!("items expire by the attribute {attribute}"))
                .why("where anything writes that attribute, DynamoDB removes the lock of a living Terraform")
                .fix("turn TTL off on the lock table"),
        ),
        Ok(None) => findings.push(Finding::ok(Table, "ttl", "items do not expire")),
        Err(error) => findings.push(unknown("ttl", "whether items expire (TTL)", error)),
    }
    match &facts.recovery {
        Ok(true) => findings.push(Finding::ok(Table, "recovery", "point-in-time recovery is on")),
        Ok(false) => findings.push(
            Finding::note(Table, "recovery", "point-in-time recovery is off")
                .why("a table that is deleted or overwritten by mistake is lost, with the digests of all states")
                .fix("turn it on; digests can also be written again by `tfguard verify --fix-digest`"),
        ),
        Err(error) => findings.push(unknown("recovery", "whether point-in-time recovery is on", error)),
    }
    findings
}

fn schema(described: &Described, table: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted = [("LockID".to_owned(), KeyType::Hash, Some(ScalarAttributeType::S))];
    if described.keys == wanted {
        let key = if described.kms { "a key in KMS" } else { "a key of DynamoDB's own" };
        findings.push(Finding::ok(
            Table,
            "table",
            format!("{table} has the partition key LockID (string), and is encrypted with {key}"),
        ));
    } else {
        let keys = described.keys.iter().map(|(name, role, kind)| {
            let role = if *role == KeyType::Hash { "partition key" } else { "sort key" };
            format!("{role} {name} ({})", kind.as_ref().map_or("unknown", ScalarAttributeType::as_str))
        });
        findings.push(
            Finding::problem(Table, "table", format!("{table} has: {}", keys.collect::<Vec<_>>().join(", ")))
                .why("Terraform writes items with nothing but the string key LockID: it cannot take its lock here")
                .fix("make a table with the partition key LockID of type S (string) and no sort key; a table's keys cannot be changed"),
        );
    }
    if !described.active {
        findings.push(
            Finding::warning(Table, "table-status", format!("{table} is not active"))
                .why("it takes no requests until it is")
                .fix("wait, or look at it in the console"),
        );
    }
    if !described.replicas.is_empty() && !described.consistent_replicas {
        findings.push(
            Finding::warning(
                Table,
                "replicas",
                format!("it is a global table with replicas in {}", described.replicas.join(", ")),
            )
            .why("replicas agree only afterwards: two runs in two regions can both take the lock")
            .fix("use one region for this state everywhere, or a table with multi-region strong consistency"),
        );
    }
    findings
}

fn unknown(id: &'static str, what: &str, error: &StoreError) -> Finding {
    Finding::note(Table, id, format!("cannot be told: {what}")).why(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Severity::{Note, Ok as Fine, Problem, Warning};

    fn good() -> Described {
        let keys = vec![("LockID".to_owned(), KeyType::Hash, Some(ScalarAttributeType::S))];
        Described { active: true, keys, ..Described::default() }
    }

    #[test]
    fn a_table_is_right_only_with_the_one_key() {
        let of = |described: &Described| {
            schema(described, "t").iter().map(|found| (found.id, found.severity)).collect::<Vec<_>>()
        };
        let key = |name: &str, role: KeyType, kind| (name.to_owned(), role, Some(kind));
        let with = |keys| Described { keys, ..good() };
        use KeyType::{Hash, Range};
        use ScalarAttributeType::{N, S};
        assert_eq!(of(&good()), [("table", Fine)]);
        for keys in [
            vec![key("LockId", Hash, S)],
            vec![key("LockID", Hash, N)],
            vec![key("LockID", Range, S)],
            vec![key("LockID", Hash, S), key("Info", Range, S)],
            vec![],
        ] {
            assert_eq!(of(&with(keys.clone())), [("table", Problem)], "{keys:?}");
        }
        let replicas = vec!["eu-west-1".to_owned()];
        assert_eq!(of(&Described { replicas: replicas.clone(), ..good() }), [("table", Fine), ("replicas", Warning)]);
        assert_eq!(of(&Described { replicas, consistent_replicas: true, ..good() }), [("table", Fine)]);
        assert_eq!(of(&Described { active: false, ..good() }), [("table", Fine), ("table-status", Warning)]);
    }

    #[test]
    fn what_is_denied_is_not_known_and_what_is_missing_is_a_problem() {
        let denied = || StoreError::Denied { action: "x", detail: String::new() };
        let facts = TableFacts { described: Err(denied()), expires_by: Err(denied()), recovery: Err(denied()) };
        assert!(findings(&facts, "t", "r").iter().all(|found| found.severity == Note));
        let silent = Err(StoreError::Unreachable { detail: String::new() });
        let facts = TableFacts { described: silent, expires_by: Ok(None), recovery: Ok(true) };
        assert_eq!(findings(&facts, "t", "r").iter().map(|found| found.severity).collect::<Vec<_>>(), [Problem]);
        let missing = Err(StoreError::NoSuchTable { detail: String::new() });
        let facts = TableFacts { described: missing, expires_by: Ok(None), recovery: Ok(true) };
        assert_eq!(findings(&facts, "t", "r").iter().map(|found| found.severity).collect::<Vec<_>>(), [Problem]);
    }
}
