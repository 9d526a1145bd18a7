#!/bin/sh
# What work.sh needs: prepare.sh MARK. It is not the host's work, and does not count.
# On each way that work takes, a program noise-WAY is started, by which it is known that Falco saw
# that way with its mark: cron, sshd, su and sudo would all take a variable away.
set -eu
mark=$1
home=/var/tmp/noise
mkdir -p $home && cd $home
export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 HOME=/root
exec >>$home/log 2>&1
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
for way in apt cron ssh su sudo container build rotate; do
    cp /bin/true /usr/local/bin/noise-$way
done
apt-get -qq update && apt-get -qq install -y --no-install-recommends cron openssh-server rsync \
    logrotate sudo sqlite3 lsof nginx-light crun busybox-static man-db

# A tree to build, with a git history.
mkdir -p src && cd src || exit 1
for n in 1 2 3 4 5 6 7 8; do
    printf '#include <stdio.h>\nint f%d(int x) { return printf("%%d", x * %d); }\n' $n $n >part$n.c
done
printf 'int main(void) { return 0; }\n' >main.c
printf 'OBJ=main.o part1.o part2.o part3.o part4.o part5.o part6.o part7.o part8.o\nall: app\n\tnoise-build\napp: $(OBJ)\n\tcc -o $@ $(OBJ)\ncheck: app\n\t./app\ninstall: app\n\tinstall -m 755 app /usr/local/bin/app\nclean:\n\trm -f app *.o\n' >Makefile
git init -q . && git config user.email dev@example.org && git config user.name Dev
git add -A && git commit -qm first
cd ..

useradd -m -s /bin/bash dev 2>/dev/null
mkdir -p /var/backups/etc /var/www/html && echo '<p>hello</p>' >/var/www/html/index.html
echo 'DPkg::Post-Invoke {"noise-apt";};' >/etc/apt/apt.conf.d/99noise
echo 'Defaults env_keep += "SIB_DRILL"' >/etc/sudoers.d/noise && chmod 440 /etc/sudoers.d/noise
printf '/var/log/app.log {\n  size 1\n  rotate 3\n  postrotate\n    noise-rotate\n  endscript\n}\n' \
    >/etc/logrotate.d/noise
cat >/etc/cron.d/noise <<C
SIB_DRILL=$mark
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
* * * * * root noise-cron; test -x /usr/sbin/anacron || run-parts --report /etc/cron.hourly
* * * * * dev find /home/dev -name '*.tmp' -mtime +7 -delete
* * * * * root df -h / >/var/log/disk.log && logger -t disk ok
* * * * * www-data /usr/bin/php -v >/dev/null 2>&1 || true
*/5 * * * * root tar -czf /var/backups/etc/cron.tgz -C / etc/default etc/cron.d
C
mkdir -p /run/sshd && install -o dev -g dev -m 700 -d /home/dev/.ssh
ssh-keygen -q -t ed25519 -N '' -f $home/key </dev/null
install -o dev -g dev -m 600 $home/key.pub /home/dev/.ssh/authorized_keys

# A container's folder, as an engine hands it to its runtime.
mkdir -p box/rootfs/bin box/rootfs/proc box/rootfs/dev box/rootfs/etc box/rootfs/tmp
cp /bin/busybox box/rootfs/bin/busybox && cp /bin/busybox box/rootfs/bin/noise-container
for name in sh id ls grep hostname sleep; do ln -s busybox box/rootfs/bin/$name; done
echo 'root:x:0:0::/:/bin/sh' >box/rootfs/etc/passwd
cat >box/config.json <<C
{"ociVersion": "1.0.0", "hostname": "box", "root": {"path": "rootfs"},
 "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
  "args": ["sh", "-c", "id; ls / >/dev/null; /bin/noise-container 2>/dev/null; sleep 0.3; grep -c . /etc/passwd"],
  "env": ["PATH=/bin", "SIB_DRILL=$mark"],
  "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
  {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}],
 "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}}
C
