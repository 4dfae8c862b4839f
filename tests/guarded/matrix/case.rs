//! One version of Terraform or OpenTofu with one kind of lock.

use std::collections::BTreeMap;
use std::fmt;

use super::super::*;

/// What a version was tried as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built from its Go module.
    Built,
    /// Found on `PATH`.
    OnPath,
    /// Terraform's code as a library, from the Python package index.
    Library,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "real binary, built",
            Self::OnPath => "real binary, on `PATH`",
            Self::Library => "library",
        })
    }
}

/// A version with a kind of lock.
#[derive(Clone)]
pub struct Case<'a> {
    pub product: Product,
    pub version: String,
    pub program: PathBuf,
    pub origin: Origin,
    /// Its locks are in a table, are lockfiles, or both.
    pub table: bool,
    pub lockfile: bool,
    pub aws: &'a Aws,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}), {}", self.product, self.version, self.origin, self.locks_are_in())
    }
}

impl Case<'static> {
    fn new(product: Product, version: &str, program: PathBuf, origin: Origin) -> Self {
        let aws = Aws::shared();
        Self { product, version: version.to_owned(), program, origin, table: true, lockfile: false, aws }
    }

    /// The same with each kind of lock that it knows.
    fn with_its_locks(self) -> Vec<Self> {
        let kinds: &[_] =
            if self.minor() >= 10 { &[(true, false), (false, true), (true, true)] } else { &[(true, false)] };
        kinds.iter().map(|&(table, lockfile)| Self { table, lockfile, ..self.clone() }).collect()
    }

    fn each_built() -> impl Iterator<Item = Self> {
        let products = [Product::Terraform, Product::OpenTofu].into_iter();
        products.flat_map(|product| {
            let programs = Tools::get().programs(product);
            programs.map(move |(version, program)| Self::new(product, version, program, Origin::Built))
        })
    }

    /// Those that were built, from 1.0 on.
    pub fn built() -> Vec<Self> {
        Self::each_built().filter(|case| !case.is_before_1_0()).flat_map(Self::with_its_locks).collect()
    }

    /// All that can be had: Terraform before OpenTofu, oldest first.
    pub fn all() -> Vec<Self> {
        let terraform = |version: &str, program, origin| Self::new(Product::Terraform, version, program, origin);
        let on_path = terraform_on_path().map(|(version, program)| terraform(&version, program, Origin::OnPath));
        let libraries =
            Tools::get().terraforms().map(|(version, program)| terraform(version, program, Origin::Library));
        let mut cases: Vec<_> =
            Self::each_built().chain(libraries).chain(on_path).flat_map(Self::with_its_locks).collect();
        cases.sort_by_key(|case| (case.product != Product::Terraform, case.minor(), case.origin != Origin::Built));
        cases
    }

    /// Runs a test on each that was built, side by side: they mostly wait.
    pub fn each<R>(test: impl Fn(&Self) -> R + Sync) {
        let cases = Self::built();
        std::thread::scope(|scope| {
            for case in &cases {
                scope.spawn(|| {
                    test(case);
                });
            }
        });
    }
}

impl<'a> Case<'a> {
    pub fn is_before_1_0(&self) -> bool {
        self.version.starts_with("0.")
    }

    /// The second number of a version; 0 before 1.0.
    pub fn minor(&self) -> u32 {
        let mut numbers = self.version.split('.').map(|number| number.parse().expect("a version has numbers"));
        match (numbers.next(), numbers.next()) {
            (Some(0), _) => 0,
            (_, minor) => minor.expect("a version has a second number"),
        }
    }

    /// Whether tfguard can learn from its log which lock it takes. OpenTofu up to 1.10 logs nothing of a lock in a table.
    pub fn is_logged(&self) -> bool {
        match self.product {
            Product::Terraform => !self.is_before_1_0(),
            _ => self.lockfile || self.minor() >= 11,
        }
    }

    pub fn locks_are_in(&self) -> &'static str {
        match (self.table, self.lockfile) {
            (true, true) => "both",
            (false, _) => "lockfile",
            (true, false) => "table",
        }
    }

    /// The name that a shell finds it by.
    pub fn name(&self) -> &'static str {
        if self.product == Product::OpenTofu { "tofu" } else { "terraform" }
    }

    pub fn project(&self, kind: Kind) -> Project<'a> {
        let project = Project::new(self.aws, kind);
        let project = if self.table { project.table() } else { project };
        let project = if self.lockfile { project.lockfile() } else { project };
        if self.product == Product::Terraform && self.minor() < 6 { project.old_names() } else { project }
    }

    /// The lock of the project's state. Of both kinds each half has to be there, or none.
    #[track_caller]
    pub fn lock(&self, project: &Project) -> Option<LockInfo> {
        let table = self.table.then(|| project.lock());
        let lockfile = self.lockfile.then(|| project.lock_in_bucket());
        if let (Some(table), Some(lockfile)) = (&table, &lockfile) {
            assert_eq!(table, lockfile, "{self}: table and lockfile");
        }
        let lock = table.or(lockfile).flatten();
        lock.map(|lock| serde_json::from_value(lock).expect("it is as the program writes it"))
    }

    /// Every lock that is left in the project's bucket and table, by its ID.
    pub fn locks(&self, project: &Project) -> BTreeMap<String, LockInfo> {
        let mut texts = Vec::new();
        if self.table {
            let infos = self.aws.locks(project.table_name()).into_iter().filter_map(|item| item.get("Info").cloned());
            texts.extend(infos.filter_map(|info| info.as_s().ok().cloned()));
        }
        let keys = self.aws.keys(project.bucket(), "").into_iter().filter(|key| key.ends_with(".tflock"));
        let objects = keys.filter_map(|key| self.aws.object(project.bucket(), &key));
        texts.extend(objects.map(|object| String::from_utf8(object.body).expect("a lockfile is text")));
        let locks = texts.into_iter().map(|text| serde_json::from_str::<LockInfo>(&text).expect("a lock is JSON"));
        locks.map(|lock| (lock.id.clone(), lock)).collect()
    }

    /// Locks the project's state, whatever lock it has.
    pub fn plant(&self, project: &Project, lock: &LockInfo) {
        if self.lockfile {
            self.aws.plant_lockfile(lock);
        }
        if self.table {
            self.aws.plant_lock(project.table_name(), lock);
        }
    }

    /// Removes the lock of a `bucket/key`, whatever lock that is.
    pub fn delete_lock(&self, project: &Project, path: &str) {
        let (bucket, key) = path.split_once('/').expect("a lock's path is bucket/key");
        if self.table {
            self.aws.delete_item(project.table_name(), path);
        }
        if self.lockfile {
            self.aws.delete_object(bucket, &format!("{key}.tflock"));
        }
    }

    /// A guarded apply in its sleep.
    pub fn asleep(&self, project: &Project, options: &[&str]) -> Running {
        let run = project.tfguard(TFGUARD, options, APPLY).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        assert!(self.lock(project).is_some(), "{self}: an apply holds its lock");
        run
    }

    /// What became of the locks that a program held when it died. Panics where that is not what is promised: what its log
    /// tells of is deleted, what no log tells of is named, with exit code 120.
    #[track_caller]
    pub fn account(&self, held: &BTreeMap<String, LockInfo>, left: &BTreeMap<String, LockInfo>, exit: &Exit) -> String {
        let err = exit.err();
        let left: Vec<_> = held.values().filter(|lock| left.contains_key(&lock.id)).collect();
        let code = exit.code.unwrap_or_default();
        if left.is_empty() {
            assert!(code != 120, "deleted, but exit code 120\n{exit}");
            return "deleted".to_owned();
        }
        let mut word = "";
        for lock in &left {
            let what = &lock.operation;
            word = match () {
                () if err.contains(&lock.id) => "named",
                // Where nobody could read it, nobody knows its ID.
                () if err.contains(&format!("lockfile of {}: NOT released", lock.path)) => "told of by its place",
                () if ["NOT known", "is unknown", "may have left a lock"].iter().any(|word| err.contains(word)) => {
                    "said to be unknown"
                }
                () => panic!("lock of `{what}` left without a word (exit code {code})\n{exit}"),
            };
            assert!(code == 120, "lock of `{what}` left and {word}, but exit code {code}\n{exit}");
            // `init` records the settings of the new place when all is over.
            let may_stay =
                what == "migration destination state" || self.is_before_1_0() || (!self.is_logged() && word == "named");
            assert!(may_stay, "lock of `{what}` left and {word} (120)\n{exit}");
        }
        match held.len() - left.len() {
            0 => format!("left, {word} (120)"),
            _ => format!("one deleted, that of `{}` left, {word} (120)", left[0].operation),
        }
    }

    #[track_caller]
    pub fn assert_clean(&self, project: &Project) {
        project.guard().assert_no_process_left(SOON);
        assert_eq!(self.lock(project), None, "{self}");
        assert_eq!(sessions(project), [""; 0].map(PathBuf::from), "{self}");
        if self.table {
            assert_whole(project);
        }
    }
}
