#!/bin/sh
# The newest Python that the package is built for; -I and -S: nothing from outside of it.
for version in 3.13 3.12 3.11; do
    if [ -x "/usr/bin/python$version" ]; then
        exec "/usr/bin/python$version" -I -S -B /usr/lib/@PACKAGE@/launch.py "$@"
    fi
done
echo "error: @PACKAGE@ needs Python 3.11, 3.12 or 3.13 in /usr/bin" >&2
echo "  try: install python3 (on EL 9: python3.12)" >&2
exit 1
