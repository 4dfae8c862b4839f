#!/bin/sh
# Installs tfguard on Linux, x86-64 or aarch64: downloads this version's tarball, compares its SHA-256, and only then puts
# the binary into its place.
#
#   TFGUARD_INSTALL_DIR         the directory for the binary; by default ~/.local/bin
#   TFGUARD_INSTALL_REPOSITORY  whose releases; by default the project's own
#   TFGUARD_INSTALL_URL         where the release's files lie, for a mirror
#   TFGUARD_INSTALL_SHA256      the tarball's checksum
#
# The install.sh of a release has that release's checksums in it. Copied into your repository, it installs that one
# tarball and no other. Without a checksum, here or in the variable, the release's own SHA256SUMS is asked, which shows that
# the download is whole, not who made it.
#
# Needs sh, curl or wget, sha256sum and tar; BusyBox (Alpine) has them.
set -eu
version=0.1.0
sha256_x86_64=
sha256_aarch64=
repository=${TFGUARD_INSTALL_REPOSITORY:-https://github.com/OWNER/tfguard}
url=${TFGUARD_INSTALL_URL:-$repository/releases/download/v$version}
dir=${TFGUARD_INSTALL_DIR:-$HOME/.local/bin}

fail() {
  echo "tfguard is not installed: $1" >&2
  exit 1
}
download() {
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --retry 3 --output "$new/$1" "$url/$1"
  else
    wget -q -O "$new/$1" "$url/$1"
  fi || fail "cannot download $url/$1"
}

machine=$(uname -m)
case $machine in
  x86_64) sha256=$sha256_x86_64 ;;
  aarch64) sha256=$sha256_aarch64 ;;
  *) fail "there is no tfguard for $machine, only for x86_64 and aarch64" ;;
esac
sha256=${TFGUARD_INSTALL_SHA256:-$sha256}
tarball=tfguard-$version-linux-$machine.tar.gz
mkdir -p "$dir"
new=$(mktemp -d "$dir/new.XXXXXX")
trap 'rm -r "$new"' EXIT
download "$tarball"
if [ -z "$sha256" ]; then
  download SHA256SUMS
  sha256=$(sed -n "s/  $tarball\$//p" "$new/SHA256SUMS")
fi
echo "$sha256  $new/$tarball" | sha256sum -c - >/dev/null 2>&1 ||
  fail "$url/$tarball does not have the SHA-256 '$sha256'"
# -o: not as the files of whoever made the release, who may be somebody else on this machine.
tar -xozf "$new/$tarball" -C "$new" --strip-components=1
# Shows here, not under Terraform, that it runs on this machine.
"$new/tfguard" --version
mv -f "$new/tfguard" "$dir/tfguard"
