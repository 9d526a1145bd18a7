#!/bin/sh
# Makes a machine a server or a host of SIB's, out of the packages in a folder; run by root, again at will.
#   provision.sh server|host FOLDER
# The Vagrantfile runs it; it needs nothing of Vagrant's.
set -eu

folder=$2
case "$1" in
server) names="sib-server sib-loki sib-prometheus sib-grafana sib-falcosidekick" ;;
host) names="sib-agent sib-falco sib-alloy" ;;
*)
    echo "error: $1 is neither server nor host" >&2
    exit 2
    ;;
esac
role=$1
needed=${names%% *}
if command -v dpkg >/dev/null; then suffix=deb; else suffix=rpm; fi

# The program itself has to be there; of the components come those that were built.
set --
for name in $names; do
    for file in "$folder/$name"_*."$suffix"; do
        if [ -e "$file" ]; then
            set -- "$@" "$file"
        elif [ "$name" = "$needed" ]; then
            echo "error: there is no $needed package as $suffix in $folder" >&2
            exit 1
        fi
    done
done
case "$suffix" in
deb)
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || echo "the lists of packages stay as they were" >&2
    apt-get -qq install -y --no-install-recommends "$@"
    ;;
rpm) dnf -q -y install "$@" ;;
esac
[ "$role" = server ] || exit 0

# Where hosts are told to come to: this machine's name, which all of them know.
printf 'listen: {public_urls: ["https://%s:8443"]}\n' "$(hostname)" >/etc/sib/server.yaml
# 11: done, but something is worth a look, which it says.
sib-server setup || [ $? -eq 11 ]
systemctl restart sib-server.service
# Misused hosts that do not exist, so that there is something to look at.
sib-server demo --remove >/dev/null || true
sib-server demo
