# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts in this folder: sanitizer options from options/*.txt, one per line.
options_of() { grep -v '^#' "asan-ci/options/$1.txt" | paste -sd: -; }
export LSAN_OPTIONS="suppressions=$PWD/asan-ci/supp/lsan.supp:print_suppressions=0"
asan_options() { # asan_options [LOG_PREFIX]
    if [ -n "${1:-}" ]; then echo "$(options_of asan):log_path=$1"; else options_of asan; fi
}
export UBSAN_OPTIONS="$(options_of ubsan)"
