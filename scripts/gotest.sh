#!/usr/bin/env bash
# Runs `go test -v` with the arguments and prints one line a package, with the
# number of tests that passed; of a package that fails, everything it said. A
# skipped test fails the run: what cannot run must fail and say what to install.
set -euo pipefail

go test -v "$@" 2>&1 | awk '
	# In -v output a package ends with its "ok", "FAIL" or "?" line.
	function forget() { split("", said); lines = passed = skipped = 0 }
	/^ *--- PASS: /  { passed++ }
	/^ *--- SKIP: /  { skipped++; skips[++skipcount] = $3 }
	/^ok  \t/ {
		total += passed
		if (skipped) for (i = 1; i <= lines; i++) print said[i]
		printf "%s\t%d passed%s\n", $0, passed, skipped ? ", " skipped " SKIPPED" : ""
		fflush(); forget(); next
	}
	/^=== (RUN|PAUSE|CONT)  / || /^ *--- PASS: / { next }
	/^\?   \t/ || /^\t.*coverage: 0\.0% of statements$/ { forget(); next }
	/^FAIL\t/ {
		for (i = 1; i <= lines; i++) print said[i]
		print; fflush(); total += passed; failed++; forget(); next
	}
	{ said[++lines] = $0 }
	END {
		for (i = 1; i <= lines; i++) if (said[i] != "FAIL") print said[i]
		for (i = 1; i <= skipcount; i++) print "SKIPPED: " skips[i]
		printf "%d tests passed, %d packages failed, %d tests skipped\n", total, failed, skipcount
		exit failed || skipcount
	}'
