#!/usr/bin/env bash
# Sees to it that the tests find a real PostgreSQL. In this order:
#
#   1. INGRAIN_TEST_POSTGRES, the DSN of a server where databases may be created
#   2. server binaries on PATH or where packages put them
#   3. the system's package, as root or where sudo asks no password
#   4. a container
#
# Prints nothing, or the line of shell that the caller has to evaluate:
#
#   env=$(scripts/ensure-postgres.sh) && eval "$env"
#
# Tests that kill a server start their own, and need 2 or 3.
# What it did is told on stderr. `make clean` removes the container.
set -euo pipefail

container=ingrain-test-postgres
image=postgres:17

say() { echo "postgres: $*" >&2; }

binaries() {
	local dir found=
	if command -v initdb >/dev/null && command -v postgres >/dev/null; then
		dirname "$(command -v initdb)"
		return
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/pgsql/bin; do
		if [[ -x $dir/initdb && -x $dir/postgres ]]; then found=$dir; fi
	done
	[[ -n $found ]] && echo "$found"
}

# as_root runs a command as root, or fails.
as_root() {
	if [[ $(id -u) == 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		return 1
	fi
}

from_package() {
	command -v apt-get >/dev/null && as_root true || return 1
	say "no server found; installing the postgresql package"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2
}

engine() {
	local name
	for name in docker podman; do
		if command -v $name >/dev/null && $name info >/dev/null 2>&1; then
			echo $name
			return
		fi
	done
	return 1
}

# from_container starts a server, or finds the one of an earlier run, and prints
# the line to evaluate.
from_container() {
	local run address
	run=$(engine) || return 1
	if [[ $($run inspect -f '{{.State.Running}}' $container 2>/dev/null) != true ]]; then
		say "starting a container with $run"
		$run rm -f $container >/dev/null 2>&1 || true
		$run run -d --name $container -e POSTGRES_PASSWORD=postgres -p 127.0.0.1::5432 $image \
			-c max_connections=400 >/dev/null || return 1
	fi
	address=$($run port $container 5432/tcp | head -n 1)
	# The image starts the server twice; only the second one listens on TCP.
	for _ in $(seq 120); do
		if $run exec $container pg_isready -q -h 127.0.0.1 -U postgres; then
			say "container $container at $address"
			echo "export INGRAIN_TEST_POSTGRES='postgres://postgres:postgres@$address/postgres?sslmode=disable'"
			return
		fi
		sleep 0.5
	done
	say "the container does not answer; its last lines:"
	$run logs --tail 20 $container >&2
	return 1
}

if [[ -n ${INGRAIN_TEST_POSTGRES:-} ]]; then
	say "using INGRAIN_TEST_POSTGRES"
elif dir=$(binaries); then
	say "using $("$dir/postgres" --version) in $dir"
elif from_package && dir=$(binaries); then
	say "installed $("$dir/postgres" --version) in $dir"
elif from_container; then
	: # told above
else
	cat >&2 <<'HELP'
postgres: the tests need a real PostgreSQL (13 or newer) and found none. Do one of these:
  Debian, Ubuntu   sudo apt-get install postgresql
  Fedora           sudo dnf install postgresql-server
  macOS            brew install postgresql@17
  any system       start docker or podman
  a server of yours, where databases may be created:
                   export INGRAIN_TEST_POSTGRES=postgres://user:password@host:5432/postgres
`make test-unit` runs what needs none.
HELP
	exit 1
fi
