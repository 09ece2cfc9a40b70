#!/usr/bin/env bash
# Two libvirt hosts on one machine, and an agent that looks after the first: a busy VM is moved to the second by plain
# `virsh migrate` over 48 MiB/s, which would not end by itself, and the agent makes it converge.
#
# It takes libvirtd, virsh, QEMU with KVM, and vmferry with the extras `agent` and `libvirt` (PYTHON names another
# interpreter that has it). As root, so that CPU quotas can be used; the daemons and their VMs are run by `nobody`.
# All of it is in one directory below /tmp, and gone at the end.
set -euo pipefail

python=${PYTHON:-python3}
here=$(mktemp -d /tmp/two-hosts.XXXXXX)
chmod 755 "$here"
pids=()

tidy_up() {
    for host in source destination; do
        virsh --quiet --connect "$(uri $host)" destroy busy >/dev/null 2>&1 || true
    done
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$here"
}

uri() { echo "qemu+unix:///session?socket=$here/$1/libvirt/libvirt-sock"; }

as_user() {
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid nobody --regid nogroup --groups "$(stat -c %g /dev/kvm)" -- "$@"
    fi
    exec "$@"
}

start_host() {
    local own=$here/$1
    mkdir -p "$own/libvirt/qemu" "$here/probed"
    ln -s "$here/probed" "$own/libvirt/qemu/cache" # what QEMU can do is found out once for both
    echo "host_uuid = \"$(cat /proc/sys/kernel/random/uuid)\"" >"$own/libvirt/libvirtd.conf"
    # Ports that the kernel gives to no client: from 49152 on, which is libvirt's default, one may be taken at any moment.
    printf 'migration_port_min = 31000\nmigration_port_max = 31063\n' >"$own/libvirt/qemu.conf"
    [ "$(id -u)" != 0 ] || chown -R nobody:nogroup "$own" "$here/probed"
    as_user env HOME="$own" XDG_RUNTIME_DIR="$own" XDG_CONFIG_HOME="$own" XDG_CACHE_HOME="$own" XDG_DATA_HOME="$own" \
        libvirtd --timeout 300 2>"$here/$1.log" &
    pids+=($!)
    wait_for "virsh --quiet --connect '$(uri "$1")' version"
}

wait_for() {
    for _ in $(seq 600); do
        ! eval "$1" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    echo "in vain waited for: $1" >&2
    return 1
}

trap tidy_up EXIT
start_host source
start_host destination

copy="import sys, vmferry.guests.payload as payload; sys.stdout.buffer.write(payload.STRESS_ELF.read_bytes())"
"$python" -c "$copy" >"$here/stress.elf"
cat >"$here/busy.xml" <<XML
<domain type='kvm'>
  <name>busy</name>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <loader readonly='yes' type='rom'>/usr/share/qemu/qboot.rom</loader>
    <kernel>$here/stress.elf</kernel>
    <cmdline>ramsize=96 cpus=1</cmdline>
  </os>
  <features><acpi/></features>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/></devices>
</domain>
XML
virsh --quiet --connect "$(uri source)" create "$here/busy.xml"
wait_for "virsh --connect '$(uri source)' domstats busy --cpu-total | grep -qE 'cpu.time=([2-9][0-9]{9}|[0-9]{11})'" # 2 s

cat >"$here/agent.toml" <<TOML
host = "source"
database = "sqlite:///$here/agent.db"
libvirt = ["$(uri source)"]

[[rule]]
name = "busy"
mode = "steer"
finish-by = "2min"
on-limit = "continue"
TOML
"$python" -m vmferry agent --config "$here/agent.toml" --check
"$python" -m vmferry agent --config "$here/agent.toml" 2> >(tee "$here/agent.log" >&2) &
agent=$!
pids+=("$agent")
wait_for "grep -q 'is listened to' '$here/agent.log'"

virsh --quiet --connect "$(uri source)" migrate --live busy "$(uri destination)" tcp:127.0.0.1 --bandwidth 48
wait_for "grep -q 'ended: completed' '$here/agent.log'"
virsh --connect "$(uri destination)" list
kill "$agent"
wait "$agent" # then all is kept
"$python" -m vmferry history --database "$here/agent.toml"
"$python" -m vmferry history --database "$here/agent.toml" --forecasts
"$python" -m vmferry report --id 1 --database "$here/agent.toml"
