#!/usr/bin/env bash
# layer.sh FOLDER LOWERDIRS SOURCE COMMAND...: run a command in a chroot on top of images, and keep what it changed.
#
# Runs in a mount namespace of its own, so that nothing is left to unmount. SOURCE is /run/src in the chroot. The chroot has
# the network of this machine, and no service is started in it. What changed is in FOLDER/root.
set -euo pipefail
folder=$1 lowerdirs=$2 source=$3
shift 3

mkdir -p "$folder/root" "$folder/work" "$folder/merged"
merged=$folder/merged
mount -t overlay overlay -o "lowerdir=$lowerdirs,upperdir=$folder/root,workdir=$folder/work" "$merged"
mount -t proc proc "$merged/proc"
mount --rbind /dev "$merged/dev"
mount -t tmpfs tmpfs "$merged/run"
mkdir -p "$merged/run/lock" "$merged/run/src"
cat /etc/resolv.conf >"$merged/run/resolv.conf"
[ -e "$merged/etc/resolv.conf" ] || : >"$merged/etc/resolv.conf"
mount --bind "$merged/run/resolv.conf" "$merged/etc/resolv.conf"
mount --bind "$source" "$merged/run/src"
printf '#!/bin/sh\nexit 101\n' >"$merged/usr/sbin/policy-rc.d"
chmod 755 "$merged/usr/sbin/policy-rc.d"

chroot "$merged" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "$@"

rm "$merged/usr/sbin/policy-rc.d"
umount -R "$merged"
rmdir "$merged"
rm -rf "$folder/work"
