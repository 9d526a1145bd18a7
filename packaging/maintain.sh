# What a package's maintainer script does. The builder puts above it: package, phase, format, units
# (to enable, start and restart, in order), state (directories that only a purge removes), root
# (empty but in tests). Nothing here may fail an installation: what goes wrong is said instead.

fresh="$root/var/lib/sib-packages/$package.fresh"

say() { printf '%s: %s\n' "$package" "$*" >&2; }

decide() { # decide FORMAT PHASE ARGUMENT -> one word
    case "$1:$2:$3" in
    deb:preinst:install | rpm:preinst:1) echo mark ;;
    deb:postinst:configure | rpm:posttrans:*) echo settle ;;
    deb:postinst:abort-remove | deb:postinst:abort-deconfigure) echo begin ;;
    deb:prerm:remove | deb:prerm:deconfigure | rpm:prerm:0) echo stop ;;
    deb:postrm:remove | rpm:postrm:0) echo reload ;;
    deb:postrm:purge) echo purge ;;
    deb:postrm:abort-install) echo unmark ;;
    *) echo nothing ;;
    esac
}

# Not in a chroot, nor in a container without systemd.
booted() { [ -d "$root/run/systemd/system" ]; }

reload() { if booted; then systemctl daemon-reload || say "systemd did not reload its units"; fi; }

prepare() {
    users="$root/usr/lib/sysusers.d/$package.conf"
    [ ! -e "$users" ] || systemd-sysusers "$users" || say "the user could not be made"
    systemd-tmpfiles --create "$root/usr/lib/tmpfiles.d/$package.conf" || say "the directories could not be made"
    reload
}

failed() {
    say "$1 did not start; the installation is complete all the same"
    say "  look: systemctl status $1; journalctl -u $1"
    say "  then: systemctl start $1"
}

begin() {
    for unit in $units; do systemctl enable --quiet "$unit" || say "$unit could not be enabled"; done
    booted || return 0
    for unit in $units; do systemctl start "$unit" || failed "$unit"; done
}

renew() {
    booted || return 0
    for unit in $units; do
        # One that was stopped on purpose stays so; one that failed gets its chance.
        if systemctl is-failed --quiet "$unit"; then
            systemctl restart "$unit" || failed "$unit"
        else
            case "$unit" in
            *.target) ;; # restarting it would stop all that belongs to it
            *) systemctl try-restart "$unit" || failed "$unit" ;;
            esac
        fi
    done
}

case "$(decide "$format" "$phase" "${1:-}")" in
mark) mkdir -p "${fresh%/*}" && : >"$fresh" || say "cannot write $fresh" ;;
unmark) rm -f "$fresh" ;;
settle)
    prepare
    if [ -e "$fresh" ]; then begin; else renew; fi
    rm -f "$fresh"
    ;;
begin)
    prepare
    begin
    ;;
stop)
    for unit in $units; do
        if booted; then systemctl stop "$unit" || say "$unit did not stop"; fi
        systemctl disable --quiet "$unit" || say "$unit could not be disabled"
    done
    ;;
reload) reload ;;
purge)
    for directory in $state; do rm -rf "$root$directory"; done
    rm -f "$fresh"
    rmdir "$root/var/lib/sib-packages" "$root/etc/sib" 2>/dev/null || :
    reload
    ;;
nothing) ;;
esac
exit 0
