#!/usr/bin/env bash
# base.sh SUITE FOLDER [MIRROR]: a Debian that boots in half a second, with all that qdist depends on and tests use.
#
# Its bytes are part of the name of what it makes: after a change here, every base is made anew.
set -euo pipefail
suite=$1 root=$2 mirror=${3:-}

packages=systemd,systemd-sysv,dbus,iproute2,procps,nftables,libfaketime
packages+=,python3,python3-click,python3-rich,python3-daemon,python3-tomli-w,python3-tomlkit

# Units that cost boot time and that a host of tests has no use for.
masked="getty@.service console-getty.service getty-static.service apt-daily.timer apt-daily-upgrade.timer
        dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-pstore.service
        systemd-update-utmp-runlevel.service"

debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"}

# Each host gets a name and an id of its own at its first boot.
echo uninitialized >"$root/etc/machine-id"
rm -f "$root/etc/hostname" "$root/var/lib/dbus/machine-id"
for unit in $masked; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' >"$root/etc/systemd/journald.conf.d/hosts.conf"
rm -f "$root"/var/cache/apt/archives/*.deb
