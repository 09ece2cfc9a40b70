#!/usr/bin/env bash
# Unpacks the QEMU of Debian's backports suite into a directory of its own, beside the installed one.
# Usage: bench/get-qemu10.sh DIRECTORY
set -euo pipefail
target=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")-backports
mkdir -p "$work/lists/partial" "$work/sources" "$target"
# The machine's own source entry with the suite changed.
sed -n '1,/^$/p' /etc/apt/sources.list.d/debian.sources | sed "s/^Suites:.*/Suites: $suite/" >"$work/sources/backports.sources"
options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/sources"
         -o "Dir::State::Lists=$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
         -o APT::Sandbox::User=root)
apt-get "${options[@]}" update -qq
cd "$work"
apt-get "${options[@]}" download -qq -t "$suite" qemu-system-x86 qemu-system-common qemu-system-data
for package in ./*.deb; do dpkg -x "$package" "$target"; done
echo "$target/usr/bin/qemu-system-x86_64"
