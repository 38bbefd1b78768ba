#!/usr/bin/env bash
# Sees to it that the race detector can be linked: on most systems Go needs a C
# compiler for it. Installs gcc where that asks for nothing, else says what to do.
set -euo pipefail

cc=$(go env CC)
if command -v "${cc%% *}" >/dev/null; then
	exit
fi
sudo=
if [[ $(id -u) != 0 ]]; then sudo="sudo -n"; fi
if command -v apt-get >/dev/null && $sudo true 2>/dev/null; then
	echo "race detector: no C compiler found; installing gcc" >&2
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev >&2
	exit
fi
echo "race detector: needs a C compiler ($cc). Debian, Ubuntu: sudo apt-get install gcc libc6-dev; macOS: xcode-select --install" >&2
exit 1
