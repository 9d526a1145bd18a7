#!/bin/sh
# The ordinary work of a busy host, over and over: work.sh SECONDS MARK. Runs in a copy of this
# machine's files that is thrown away (see __main__.py). Prints what it did as NAME COUNT lines.
set -u
end=$(($(date +%s) + $1))
mark=$2
home=/var/tmp/noise
cd $home || exit 1
export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 HOME=/root
exec 3>&1 >>$home/log 2>&1
did() { echo "$1 1" >&3; }

/usr/sbin/cron 3>&-
/usr/sbin/sshd -p 2299 -o PidFile=$home/sshd.pid -o ListenAddress=127.0.0.1 \
    -o SetEnv=SIB_DRILL=$mark 3>&-
nginx 3>&-
(cd /var/www/html && exec python3 -m http.server --bind 127.0.0.1 8199) 3>&- &

upgrade() { # packages of this machine put on anew, as an upgrade does it
    apt-get -qq update
    apt-get -qq install --reinstall -y tzdata ncurses-base media-types logrotate cron openssh-client \
        openssh-server sudo rsync && did upgrade
    apt-get -qq install --no-install-recommends -y "$1" && apt-get -qq purge -y "$1" &&
        did install-and-purge
    apt-get -qq autoremove -y
    dpkg --audit; dpkg -l >/dev/null; apt-cache policy bash >/dev/null
}
build() {
    (cd src && make -s -j2 all check install && make -s clean && git status -s &&
        git log -3 --oneline && git grep -n printf >/dev/null && git stash -q 2>/dev/null; true) &&
        did build
    rm -rf copy && git clone -q src copy && echo "// $1" >>copy/main.c &&
        git -C copy commit -qam more --author 'Dev <dev@example.org>'; did clone
    python3 -m venv --without-pip v && v/bin/python -c 'import json, ssl; print(json.dumps({}))' &&
        rm -rf v && did venv
}
login() {
    su -w SIB_DRILL - dev -c 'noise-su; id; ls -la; whoami; uname -a; cat /etc/os-release; exit' &&
        did su
    ssh -q -p 2299 -i key -o StrictHostKeyChecking=accept-new dev@127.0.0.1 \
        'noise-ssh; uptime; w; ps aux | head -3; df -h' && did ssh
    scp -q -P 2299 -i key src/Makefile dev@127.0.0.1:/home/dev/ && did scp
    sudo -n -u dev noise-sudo && sudo -n id && did sudo
}
backup() {
    tar -czf /var/backups/etc/etc-$(date +%H%M).tgz -C / etc/apt etc/default etc/cron.d && did tar
    rsync -a --delete /etc/apt/ /var/backups/etc/apt/ && did rsync
    sqlite3 x.db 'create table if not exists t(a); insert into t values (1)' &&
        sqlite3 x.db .dump >/var/backups/x.sql && did sqlite
    find /var/backups -name '*.tgz' -mmin +30 -delete
}
containers() {
    crun --cgroup-manager=disabled run --no-pivot -b box "box$1" </dev/null && did container
}
web() {
    for n in 1 2 3 4 5; do curl -fsS -o /dev/null http://127.0.0.1:8199/ && did request; done
    curl -fsS -o /dev/null http://127.0.0.1/ && did request
    echo line >>/var/log/app.log; logrotate -s $home/lr.state /etc/logrotate.conf && did logrotate
}
manage() { # what configuration management and monitoring do to a host
    sysctl -q kernel.hostname; systemctl list-units --no-pager >/dev/null 2>&1
    ip -br address >/dev/null; ss -ltn >/dev/null
    printf '# managed\n' >/etc/motd.new && mv /etc/motd.new /etc/motd
    crontab -l >/dev/null 2>&1; getent passwd dev; passwd -S dev; chage -l dev >/dev/null
    ldconfig; update-alternatives --list editor; journalctl -n 5 --no-pager >/dev/null 2>&1
    last -n 3 >/dev/null 2>&1; lsof -v >/dev/null 2>&1; did manage
}
round=0
while [ "$(date +%s)" -lt $end ]; do
    build $round; login; backup; containers a$round; containers b$round; web; manage
    if [ $((round % 4)) -eq 0 ]; then
        case $((round / 4 % 3)) in 0) upgrade tree ;; 1) upgrade jq ;; *) upgrade bc ;; esac
    fi
    for job in /etc/cron.daily/*; do
        [ $((round % 6)) -eq 3 ] && [ -x "$job" ] &&
            case $job in *apt-compat | *mlocate) ;; *) "$job" && did daily ;; esac
    done
    round=$((round + 1))
    sleep 1
done
kill "$(cat sshd.pid)" "$(cat /run/crond.pid)" "$(cat /run/nginx.pid)" %1 2>/dev/null
exit 0
