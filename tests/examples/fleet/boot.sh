# Run by `sh -euc` as the first process of a pid namespace, with mounts, host name, IPC and control groups of its own: makes
# a machine of a folder with a system in it, and becomes its systemd. Arguments: system, folder for what it writes, name, key.
base=$1 scratch=$2 name=$3 key=$4
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"

# Settings of the kernel are everybody's, but for those of the network.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
mount -o remount,bind,rw "$root/proc/sys/net"
[ ! -e "$root/proc/sysrq-trigger" ] || mount --bind /dev/null "$root/proc/sysrq-trigger"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -o remount,bind,ro "$root/sys"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"

hostname "$name"
echo "$name" >"$root/etc/hostname"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
mkdir -p -m 700 "$root/root/.ssh"
echo "$key" >"$root/root/.ssh/authorized_keys"
ln -s /dev/null "$root/etc/systemd/system/systemd-sysctl.service"

mkdir "$root/old"
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
# What would reach beyond the machine: the clock, modules, devices, the kernel's log.
exec setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-mknod,-syslog --inh-caps=-all \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=fleet TERM=dumb /lib/systemd/systemd --system
