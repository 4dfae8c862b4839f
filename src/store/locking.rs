//! The backends beside S3 and what becomes of their locks.

/// What a backend's lock does when its holder dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It stays, and is not logged: somebody has to release it.
    Stays,
    /// It goes with the process or its connection (local, consul, pg), or there is none (inmem, and those that older
    /// Terraforms had).
    DiesWithHolder,
    /// The workspace stays locked, on purpose if the state could not be uploaded (`stateUploadErr` in
    /// `internal/backend/remote/backend_state.go`), and the server knows the run: it is left alone.
    Deliberate,
    /// Not known to this tfguard.
    Unknown,
}

impl Locking {
    /// Of a backend by its type, as a `backend` block names it.
    #[must_use]
    pub fn of(backend: &str) -> Self {
        match backend {
            "gcs" | "azurerm" | "http" | "kubernetes" | "oss" | "cos" | "oci" => Self::Stays,
            "local" | "consul" | "pg" | "inmem" | "artifactory" | "etcd" | "etcdv3" | "manta" | "swift" => {
                Self::DiesWithHolder
            }
            "remote" | "cloud" => Self::Deliberate,
            _ => Self::Unknown,
        }
    }
}

/// Whether a text can be the ID of a lock of this backend: the generation of an object on gcs, the MD5 of the lock's JSON
/// on cos, elsewhere Terraform's own (`internal/backend/remote-state/*/client.go`). The ID becomes part of a command.
#[must_use]
pub fn is_id(backend: &str, id: &str) -> bool {
    match backend {
        "gcs" => (1..=19).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit()),
        "cos" => id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        _ => id.parse::<crate::model::LockId>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_way() {
        let stay = ["gcs", "azurerm", "http", "kubernetes", "oss", "cos", "oci"];
        assert_eq!(stay.map(Locking::of), [Locking::Stays; 7]);
        assert_eq!(["local", "consul", "pg"].map(Locking::of), [Locking::DiesWithHolder; 3]);
        assert_eq!(["remote", "cloud"].map(Locking::of), [Locking::Deliberate; 2]);
        assert_eq!(["state_store", "GCS", ""].map(Locking::of), [Locking::Unknown; 3]);
    }

    #[test]
    fn ids_have_the_shape_their_backend_gives_them() {
        let (uuid, md5) = ("4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "4bb7d84cf09d7909021902f6e8d9eeb4");
        assert!(is_id("gcs", "1732075882810982") && !is_id("gcs", uuid) && !is_id("gcs", ""));
        assert!(is_id("cos", md5) && !is_id("cos", uuid) && !is_id("cos", "1732075882810982"));
        assert!(is_id("kubernetes", uuid) && !is_id("kubernetes", md5) && !is_id("http", "-force"));
    }
}
