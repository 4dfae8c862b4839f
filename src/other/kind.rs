//! The backends beside S3 and what becomes of their locks.

/// A backend whose lock outlives its holder and is not logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azurerm,
    /// Any server that speaks the protocol of the `http` backend, GitLab's among them.
    Http,
    /// A Kubernetes Lease.
    Kubernetes,
    /// Alibaba Cloud.
    Oss,
    /// Tencent Cloud.
    Cos,
    /// Oracle Cloud.
    Oci,
}

/// What a backend's lock does when its holder dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It stays: somebody has to release it.
    Stays(Kind),
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
        Self::Stays(match backend {
            "gcs" => Kind::Gcs,
            "azurerm" => Kind::Azurerm,
            "http" => Kind::Http,
            "kubernetes" => Kind::Kubernetes,
            "oss" => Kind::Oss,
            "cos" => Kind::Cos,
            "oci" => Kind::Oci,
            "local" | "consul" | "pg" | "inmem" | "artifactory" | "etcd" | "etcdv3" | "manta" | "swift" => {
                return Self::DiesWithHolder;
            }
            "remote" | "cloud" => return Self::Deliberate,
            _ => return Self::Unknown,
        })
    }
}

impl Kind {
    /// Its type, as a `backend` block names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcs => "gcs",
            Self::Azurerm => "azurerm",
            Self::Http => "http",
            Self::Kubernetes => "kubernetes",
            Self::Oss => "oss",
            Self::Cos => "cos",
            Self::Oci => "oci",
        }
    }

    /// Whether a text can be the ID of one of its locks: the generation of an object on gcs, the MD5 of the lock's JSON
    /// on cos, elsewhere Terraform's own (`internal/backend/remote-state/*/client.go`). The ID becomes part of a
    /// command.
    #[must_use]
    pub fn is_id(self, id: &str) -> bool {
        match self {
            Self::Gcs => (1..=19).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit()),
            Self::Cos => id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
            _ => id.parse::<crate::lock::LockId>().is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_way() {
        for kind in [Kind::Gcs, Kind::Azurerm, Kind::Http, Kind::Kubernetes, Kind::Oss, Kind::Cos, Kind::Oci] {
            assert_eq!(Locking::of(kind.name()), Locking::Stays(kind));
        }
        assert_eq!(["local", "consul", "pg"].map(Locking::of), [Locking::DiesWithHolder; 3]);
        assert_eq!(["remote", "cloud"].map(Locking::of), [Locking::Deliberate; 2]);
        assert_eq!(["state_store", "GCS", ""].map(Locking::of), [Locking::Unknown; 3]);
    }

    #[test]
    fn ids_have_the_shape_their_backend_gives_them() {
        let (uuid, md5) = ("4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "4bb7d84cf09d7909021902f6e8d9eeb4");
        assert!(Kind::Gcs.is_id("1732075882810982") && !Kind::Gcs.is_id(uuid) && !Kind::Gcs.is_id(""));
        assert!(Kind::Cos.is_id(md5) && !Kind::Cos.is_id(uuid) && !Kind::Cos.is_id("1732075882810982"));
        assert!(Kind::Kubernetes.is_id(uuid) && !Kind::Kubernetes.is_id(md5) && !Kind::Http.is_id("-force"));
    }
}
