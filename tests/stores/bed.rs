//! A state with a lock of both kinds, behind a proxy that injects faults.

use std::time::Duration;

use tfguard::aws::{AwsClients, StoreError, Surroundings};
use tfguard::model::{FoundLock, Holder, LockClaim, LockInfo, LockKinds};
use tfguard::store::{Claimed, ReleaseTerms, Released, Store, UnconditionalDelete, release};
use tfguard::terraform::{Backend, read_backend};

use crate::support::{Aws, FaultProxy, LockInfo as Planted};

pub const OWN: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
pub const CUSTOMER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const TERMS: ReleaseTerms =
    ReleaseTerms { may_still_appear: false, unlock_in_flight: false, budget: Duration::from_secs(20) };

/// A state of its own, locked by both kinds of locks behind a proxy.
pub struct Bed {
    pub aws: &'static Aws,
    pub proxy: FaultProxy,
    pub dir: tempfile::TempDir,
    pub table: String,
    pub bucket: String,
}

impl Bed {
    pub fn new() -> Self {
        let aws = Aws::shared();
        let bed = Self {
            aws,
            proxy: FaultProxy::start(aws.url()),
            dir: tempfile::tempdir().unwrap(),
            table: aws.unique("store-locks"),
            bucket: aws.unique("store-states"),
        };
        aws.create_table(&bed.table);
        aws.create_bucket(&bed.bucket, false);
        bed
    }

    pub fn path(&self) -> String {
        format!("{}/a/k", self.bucket)
    }

    pub fn own(&self) -> Planted {
        Planted { id: OWN.to_owned(), who: "root@vm".to_owned(), ..Planted::foreign(&self.path()) }
    }

    pub fn foreign(&self) -> Planted {
        Planted::foreign(&self.path())
    }

    pub fn claim(&self) -> LockClaim {
        LockClaim {
            id: OWN.parse().unwrap(),
            operation: "OperationTypeApply".to_owned(),
            who: "root@vm".to_owned(),
            version: "1.11.4".to_owned(),
            bucket: self.bucket.clone(),
            state_key: "a/k".to_owned(),
            kinds: LockKinds::Both,
        }
    }

    /// Both halves of the lock, the file half first.
    pub fn stores(&self, unconditional: UnconditionalDelete) -> [Store; 2] {
        self.stores_of(&self.claim(), unconditional)
    }

    fn stores_of(&self, claim: &LockClaim, unconditional: UnconditionalDelete) -> [Store; 2] {
        let url = self.proxy.url();
        let record = serde_json::json!({"version": 3, "backend": {"type": "s3", "hash": 1, "config": {
            "bucket": self.bucket, "key": claim.state_key, "region": Aws::REGION, "use_path_style": true,
            "dynamodb_table": self.table, "use_lockfile": true, "encrypt": true, "sse_customer_key": CUSTOMER_KEY,
            "endpoints": {"s3": url, "dynamodb": url},
        }}});
        let data = self.dir.path().join(".terraform");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("terraform.tfstate"), record.to_string()).unwrap();
        let surroundings = Surroundings { dir: self.dir.path().to_owned(), env: Aws::ENV.into_iter().collect() };
        let Backend::S3(backend) = read_backend(&surroundings).unwrap() else { panic!("no S3 backend") };
        let clients = self.aws.block_on(AwsClients::connect(&backend)).unwrap();
        let places = backend.places(claim).unwrap();
        [0, 1].map(|half| clients.open(&places[half], unconditional))
    }

    pub fn table_store(&self) -> Store {
        self.table_store_of(&self.claim())
    }

    pub fn table_store_of(&self, claim: &LockClaim) -> Store {
        let [_, table] = self.stores_of(claim, UnconditionalDelete::Refuse);
        table
    }

    pub fn file_store(&self, unconditional: UnconditionalDelete) -> Store {
        let [file, _] = self.stores(unconditional);
        file
    }

    pub fn delete_if(&self, store: &Store) -> Result<Claimed<()>, StoreError> {
        self.aws.block_on(store.delete_if(&self.claim(), None))
    }

    pub fn release(&self, store: &Store) -> Released {
        self.aws.block_on(release(store, &self.claim(), None, &TERMS))
    }

    /// Releases on a thread of its own while something else happens here.
    pub fn release_meanwhile(&self, store: &Store, meanwhile: impl FnOnce()) -> Released {
        std::thread::scope(|scope| {
            let released = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(release(store, &self.claim(), None, &TERMS))
            });
            meanwhile();
            released.join().unwrap()
        })
    }

    pub fn is_locked(&self) -> bool {
        self.aws.lock(&self.table, &self.path()).is_some()
    }

    pub fn has_lockfile(&self) -> bool {
        self.aws.lockfile(&self.path()).is_some()
    }
}

pub fn found(lock: &Planted) -> FoundLock {
    FoundLock::Held(LockInfo::parse(lock.json().as_bytes()).unwrap())
}

/// The record of the session that took the lock.
pub fn holder() -> Holder {
    let text = serde_json::json!({
        "schema": 1, "lock": OWN, "tfguard": "0.1.0", "started": "2026-03-04T05:06:00Z",
        "world": {"boot_id": "b", "pid_namespace": 1},
    });
    serde_json::from_value(text).unwrap()
}
