#!/usr/bin/env bash
# The first process of a machine of its own, in new namespaces: it mounts what that takes, and becomes systemd.
#
#     machine.sh DIRECTORY GROUP
#
# The machine's files are this one's. What is written below /etc, /opt, /usr/local, /var/lib and /run is kept in
# memory below DIRECTORY, a few of systemd's units are there, and beside them those in DIRECTORY/units. Its control
# groups are below GROUP, but for those of processors.
set -euo pipefail
directory=$1 group=$2

mount --make-rprivate /
mkdir "$directory/new"
mount -t tmpfs tmpfs "$directory/new"
for place in /etc /opt /usr/local /var/lib; do
    mkdir -p "$directory/new$place/upper" "$directory/new$place/work"
    mount -t overlay overlay "$place" \
        -o "lowerdir=$place,upperdir=$directory/new$place/upper,workdir=$directory/new$place/work"
done

mkdir "$directory/new/cgroup"
mount -t tmpfs tmpfs "$directory/new/cgroup"
for hierarchy in cpu cpuacct cpuset devices pids systemd unified; do
    own=/sys/fs/cgroup/$hierarchy
    [ ! -d "$own/$group" ] || own=$own/$group
    mkdir "$directory/new/cgroup/$hierarchy"
    mount --bind "$own" "$directory/new/cgroup/$hierarchy"
done
mount --move "$directory/new/cgroup" /sys/fs/cgroup

mount -t proc proc /proc
mkdir "$directory/new/units"
for unit in basic sysinit sockets timers paths slices multi-user shutdown network; do
    cp "/usr/lib/systemd/system/$unit.target" "$directory/new/units"
done
cp /usr/lib/systemd/system/systemd-journald{.service,.socket,-dev-log.socket} "$directory/new/units"
mkdir "$directory/new/units/sockets.target.wants"
ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket "$directory/new/units/sockets.target.wants"
cp "$directory"/units/* "$directory/new/units"
mount --bind "$directory/new/units" /usr/lib/systemd/system
mkdir "$directory/new/none"
mount --bind "$directory/new/none" /usr/lib/systemd/system-generators
rm -rf /etc/systemd/system/*
cp "$directory/system.conf" /etc/systemd/system.conf
mount -t tmpfs tmpfs /run

container=unshare exec /usr/lib/systemd/systemd --unit=multi-user.target --log-target=console --show-status=no
