#!/bin/sh
# Installs one release of tfguard into a directory: downloads it, compares its SHA-256 with the one that you name, and
# only then puts the binary into its place. Copy it into your repository as ci/install-tfguard.sh.
#
#   TFGUARD_INSTALL_URL     the release's tarball
#   TFGUARD_INSTALL_SHA256  its checksum. Take it from the release's .sha256 file once, when you choose the version, and
#                           keep it here: a checksum fetched together with the tarball proves only that the download
#                           is whole.
#   TFGUARD_INSTALL_DIR     the directory for the binary
#
# Needs sh, curl or wget, sha256sum and tar; BusyBox (Alpine) has them.
set -eu
: "${TFGUARD_INSTALL_URL:?name the tarball}"
: "${TFGUARD_INSTALL_SHA256:?name the checksum of the tarball}"
: "${TFGUARD_INSTALL_DIR:?name the directory for tfguard}"
mkdir -p "$TFGUARD_INSTALL_DIR"
tfguard_new=$(mktemp -d "$TFGUARD_INSTALL_DIR/new.XXXXXX")
trap 'rm -r "$tfguard_new"' EXIT
tfguard_fail() {
  echo "tfguard is not installed: $1" >&2
  exit 1
}
if command -v curl >/dev/null; then
  curl --fail --silent --show-error --location --retry 3 --output "$tfguard_new/tarball" "$TFGUARD_INSTALL_URL"
else
  wget -q -O "$tfguard_new/tarball" "$TFGUARD_INSTALL_URL"
fi || tfguard_fail "cannot download $TFGUARD_INSTALL_URL"
echo "$TFGUARD_INSTALL_SHA256  $tfguard_new/tarball" | sha256sum -c - >/dev/null ||
  tfguard_fail "$TFGUARD_INSTALL_URL does not have the SHA-256 $TFGUARD_INSTALL_SHA256"
# -o: not as the files of whoever made the release, who may be somebody else on this machine.
tar -xozf "$tfguard_new/tarball" -C "$tfguard_new" --strip-components=1
# Shows here, not under Terraform, that it runs on this machine.
"$tfguard_new/tfguard" --version
mv -f "$tfguard_new/tfguard" "$TFGUARD_INSTALL_DIR/tfguard"
