#!/bin/busybox sh
# init of the rig's guests: kernel messages on the first serial line, commands on the one that rig.tty names. A command
# is one line, "<id> <base64 of a shell script>"; the answer is the script's output between two marks with the id and the
# exit status.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
export PATH=/rig:/bin
mkdir -p /dev/pts && mount -t devpts pts /dev/pts
ip link set lo up
cat /proc/sys/kernel/printk > /tmp/printk
echo 8 > /proc/sys/kernel/printk
tty=$(sed -n 's/.*rig\.tty=\([^ ]*\).*/\1/p' /proc/cmdline)
exec 3<>/dev/$tty
stty -F /dev/$tty raw -echo
# modules named on the command line (rig.load=a,b), in this order; those built in have no file
for m in $(sed -n 's/.*rig\.load=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do
  if [ -e /modules/$m.ko ]; then insmod /modules/$m.ko || echo "rig: insmod $m failed"; fi
done
echo "@@READY $(uname -r)" >&3
while read -r id code <&3; do
  echo "$code" | base64 -d > /tmp/cmd.$id
  sh /tmp/cmd.$id < /dev/null > /tmp/out.$id 2>&1
  status=$?
  { echo "@@BEGIN $id"; cat /tmp/out.$id; echo; echo "@@END $id $status"; } >&3
  rm -f /tmp/cmd.$id /tmp/out.$id
done
