#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make asan-ci: builds everything with AddressSanitizer and UBSan, runs the tests on it, then one fault run on
# a real cluster (fault-run.sh). Ends with "N passed, N failed".
set -u
build=${1:-build}
. asan-ci/lib.sh
${MAKE:-make} --no-print-directory headers >/dev/null || exit 1
${MAKE:-make} --no-print-directory -j"$(nproc)" VARIANT=asan tests || exit 1

out=$(mktemp -d); trap 'rm -rf "$out"' EXIT INT TERM
ASAN_OPTIONS=$(asan_options) sh tests/lib/run-tests.sh "$build" asan unit/ 2>&1 | tee "$out/tests"
line=$(tail -n 1 "$out/tests")
passed=$(echo "$line" | sed -n 's/^\([0-9]*\) passed.*/\1/p'); failed=$(echo "$line" | sed -n 's/.* \([0-9]*\) failed.*/\1/p')
if [ -z "$passed" ]; then passed=0; failed=1; fi

if sh asan-ci/fault-run.sh "$build"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
