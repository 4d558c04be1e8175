# SPDX-License-Identifier: Apache-2.0
# raftguard. `make help` lists the targets. Everything is built into build/; nothing is written elsewhere
# but by `make install` (into DESTDIR/PREFIX) and `make deps` (Debian packages).

CC       ?= gcc
VARIANT  ?=
BUILD    ?= build
B        := $(BUILD)$(if $(VARIANT),/$(VARIANT))
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
VERSION  := 0.1.0
JOBS     ?= $(shell nproc 2>/dev/null || echo 2)

PACKAGES := gcc libc6-dev make libraft-dev libuv1-dev liburing-dev libsodium-dev libcmocka-dev
OPTIONAL := git libisal-dev redis-tools clang-14 clang-format-14 cppcheck

.DEFAULT_GOAL := all

# The first make on a machine writes config.mk after it has seen that every package is there; make then
# reads it and starts over, so nothing below runs before its dependencies exist.
ifeq ($(filter clean help deps,$(MAKECMDGOALS)),)
include $(BUILD)/config.mk
endif

$(BUILD)/config.mk: Makefile
	@mkdir -p $(BUILD)
	@$(MAKE) --no-print-directory deps
	@if [ -e /usr/include/isa-l/crc.h ]; then echo 'HAVE_ISAL := 1'; fi > $@.tmp; mv $@.tmp $@

WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Werror
OPT      ?= -O2 -g
CFLAGS   += -std=c11 -D_GNU_SOURCE $(OPT) $(WARN) -fPIC -fvisibility=hidden -fno-omit-frame-pointer -pthread
CPPFLAGS += -I$(BUILD)/include $(if $(HAVE_ISAL),-DRGUARD_HAVE_ISAL)
LDLIBS   := -lraft -luv -luring -lsodium $(if $(HAVE_ISAL),-lisal) -pthread
LDFLAGS  += -rdynamic

ifeq ($(VARIANT),testing)
CPPFLAGS += -DRGUARD_TESTING
endif
ifeq ($(VARIANT),asan)
CPPFLAGS += -DRGUARD_TESTING
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
CFLAGS   += $(SANITIZE)
LDFLAGS  += $(SANITIZE)
endif
ifeq ($(VARIANT),fuzz)
CPPFLAGS += -DRGUARD_TESTING
SANITIZE := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
CFLAGS   += $(SANITIZE)
LDFLAGS  += $(SANITIZE)
endif
ifeq ($(VARIANT),release)
CPPFLAGS += -DRGUARD_NO_FAILPOINTS
endif

ROOMS    := guard failpoints wal raftlog
HEADERS  := $(filter-out %_internal.h,$(wildcard $(addsuffix /*.h,$(ROOMS))))
# In the stage for our own folders, but not installed: seams and test switches.
PRIVATE  := disk.h testing.h channel.h
STAGED   := $(addprefix $(BUILD)/include/raftguard/,$(notdir $(HEADERS)))

TOOL_SRC := guard/rguard-doctor.c failpoints/rguard-fp.c wal/rguard-wal.c
WAL_TOOL := wal/rguard-wal.c $(wildcard wal/tool_*.c)
LIB_SRC  := $(filter-out $(TOOL_SRC) $(WAL_TOOL),$(wildcard $(addsuffix /*.c,$(ROOMS))))
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/obj/%.o)
KV_SRC   := $(wildcard examples/kv/*.c)
CONV_SRC := $(wildcard tests/converge/*.c)
BENCH_SRC := $(wildcard tests/bench/*.c)
COMPARE_SRC := $(wildcard tests/compare/*.c)
SIM_SRC  := $(wildcard tests/sim/*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
TESTLIB_SRC := $(wildcard tests/lib/*.c)
UNIT_SRC := $(wildcard tests/unit/test_*.c)
INTEG_SRC := $(wildcard tests/integration/test_*.c)

TOOLS    := $(patsubst %.c,$(B)/bin/%,$(notdir $(wildcard $(TOOL_SRC)))) \
            $(if $(KV_SRC),$(B)/bin/rguard-kv) $(if $(CONV_SRC),$(B)/bin/rguard-converge) \
            $(if $(COMPARE_SRC),$(B)/bin/rguard-wal-compare) \
            $(if $(BENCH_SRC),$(B)/bin/rguard-bench) $(if $(wildcard examples/dropin.c),$(B)/bin/dropin)
TESTS    := $(UNIT_SRC:tests/%.c=$(B)/tests/%) $(INTEG_SRC:tests/%.c=$(B)/tests/%)

.PHONY: all help deps headers lib tools tests test converge bench compare lint format install uninstall clean asan-ci soak fuzz
.DELETE_ON_ERROR:
.SECONDARY:

all: lib tools

help:
	@echo "make            library and tools into build/"
	@echo "make test       every fast test; ends with 'N passed, N failed' (T=pattern picks some)"
	@echo "make converge   the main job: inject faults into a real cluster, time it, write build/converge/"
	@echo "make bench      each figure beside its anchor as a ratio; writes build/bench/bench.json (2 minutes)"
	@echo "make compare    libraft's own disk and ours through seven disk faults: who loses what, who is told"
	@echo "make soak       the log against its model on a simulated disk (SOAK='--seed N ...')"
	@echo "make fuzz       libFuzzer on the parsers and the log (SECONDS=60 FUZZ=wal_dir)"
	@echo "make asan-ci    the tests and one fault run under AddressSanitizer and UBSan"
	@echo "make lint       format, include direction, cppcheck, function length"
	@echo "make format     clang-format the sources in place"
	@echo "make install    DESTDIR= PREFIX=/usr/local; without failpoints unless FAILPOINTS=1"
	@echo "make uninstall  removes what install put there (same DESTDIR, PREFIX)"
	@echo "make deps       installs missing Debian packages (root or sudo), else prints the command"
	@echo "make clean      removes build/"

deps:
	@missing=""; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	extra=""; for p in $(OPTIONAL); do dpkg -s $$p >/dev/null 2>&1 || extra="$$extra $$p"; done; \
	[ -z "$$missing$$extra" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo"; \
	elif [ -z "$$missing" ]; then exit 0; \
	else echo "raftguard: missing packages; as root: apt-get install -y$$missing$$extra" >&2; exit 1; fi; \
	echo "raftguard: installing$$missing$$extra"; \
	$$run env DEBIAN_FRONTEND=noninteractive sh -c "apt-get -q update >/dev/null && \
	apt-get -q install -y --no-install-recommends $$missing$$extra >/dev/null" || \
	$$run env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing >/dev/null

headers: $(STAGED)

define stage_rule
$(BUILD)/include/raftguard/$(notdir $(1)): $(1)
	@mkdir -p $$(@D)
	@cp $$< $$@
endef
$(foreach h,$(HEADERS),$(eval $(call stage_rule,$(h))))

lib: $(B)/libraftguard.a $(B)/libraftguard.so.0 $(B)/raftguard.pc

$(B)/obj/%.o: %.c $(BUILD)/config.mk | $(STAGED)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# The simulator drives the log from behind its seam.
$(B)/obj/tests/sim/%.o: CPPFLAGS += -Iwal
$(B)/obj/tests/fuzz/%.o: CPPFLAGS += $(addprefix -I,$(ROOMS)) -Itests/sim -Iexamples/kv
# Only the file's own room is on the include path for internal headers; unit tests see every room.
$(B)/obj/tests/unit/%.o: CPPFLAGS += $(addprefix -I,$(ROOMS)) -Itests/lib -Iexamples/kv
$(B)/obj/tests/integration/%.o: CPPFLAGS += -Itests/lib
# It damages our own log where the format says things are.
$(B)/obj/tests/compare/%.o: CPPFLAGS += -Iwal

$(B)/libraftguard.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/raftguard.map: Makefile
	@mkdir -p $(@D)
	@printf 'RAFTGUARD_0.1 { global: rguard_[!_]*; local: *; };\n' > $@

$(B)/libraftguard.so.0: $(LIB_OBJ) $(B)/raftguard.map
	$(CC) $(CFLAGS) $(filter-out -rdynamic,$(LDFLAGS)) -shared -Wl,-soname,libraftguard.so.0 \
	    $(if $(SANITIZE),,-Wl,-z,defs) -Wl,--version-script=$(B)/raftguard.map $(LIB_OBJ) $(LDLIBS) -o $@
	@ln -sf libraftguard.so.0 $(B)/libraftguard.so

$(B)/raftguard.pc: Makefile
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$${prefix}/include' '' 'Name: raftguard' \
	    'Description: memory-safety guard and fault convergence for libraft state machines' \
	    'Version: $(VERSION)' 'Requires: raft libuv' \
	    'Requires.private: liburing libsodium$(if $(HAVE_ISAL), libisal)' \
	    'Libs: -L$${libdir} -lraftguard' 'Cflags: -I$${includedir}' > $@

tools: $(TOOLS)

link = $(CC) $(CFLAGS) $(LDFLAGS) $(1) $(B)/libraftguard.a $(LDLIBS) $(2) -o $@

$(B)/bin/rguard-doctor: $(B)/obj/guard/rguard-doctor.o $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$<)
$(B)/bin/rguard-fp: $(B)/obj/failpoints/rguard-fp.o $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$<)
$(B)/bin/rguard-wal: $(WAL_TOOL:%.c=$(B)/obj/%.o) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$(WAL_TOOL:%.c=$(B)/obj/%.o))
$(B)/bin/rguard-kv: $(KV_SRC:%.c=$(B)/obj/%.o) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$(KV_SRC:%.c=$(B)/obj/%.o))
$(B)/bin/rguard-converge: $(CONV_SRC:%.c=$(B)/obj/%.o) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$(CONV_SRC:%.c=$(B)/obj/%.o),-lm)
$(B)/bin/rguard-wal-compare: $(COMPARE_SRC:%.c=$(B)/obj/%.o) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$(COMPARE_SRC:%.c=$(B)/obj/%.o))
$(B)/bin/dropin: $(B)/obj/examples/dropin.o $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$<)

TESTLIB_OBJ := $(TESTLIB_SRC:%.c=$(B)/obj/%.o)
# The kv engine is tested as a unit; its main() stays out.
KV_UNIT_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(filter-out examples/kv/main.c,$(KV_SRC)))
$(B)/tests/%: $(B)/obj/tests/%.o $(TESTLIB_OBJ) $(KV_UNIT_OBJ) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$< $(TESTLIB_OBJ) $(KV_UNIT_OBJ),-lcmocka)
# So are the pure parts of the harness.
CONV_UNIT_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(filter-out \
    $(addprefix tests/converge/,main.c run.c cluster.c evidence.c),$(CONV_SRC)))
$(B)/obj/tests/unit/test_converge_%.o: CPPFLAGS += -Itests/converge
$(B)/tests/unit/test_converge_%: $(B)/obj/tests/unit/test_converge_%.o $(CONV_UNIT_OBJ) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$< $(CONV_UNIT_OBJ),-lcmocka -lm)

# The benchmark borrows the harness's machine line, statistics and JSON.
BENCH_OBJ := $(BENCH_SRC:%.c=$(B)/obj/%.o) \
    $(patsubst %,$(B)/obj/tests/converge/%.o,machine reply stats text)
$(B)/obj/tests/bench/%.o: CPPFLAGS += -Iguard -Iwal
$(B)/bin/rguard-bench: $(BENCH_OBJ) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$(BENCH_OBJ),-lm)

# A target is linked with libFuzzer, or with a driver that replays a corpus.
FUZZ_OBJ := $(patsubst %,$(B)/obj/tests/sim/%.o,disk_sim disk_sim_mount image) $(B)/obj/examples/kv/resp.o
$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(FUZZ_OBJ) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,-fsanitize=fuzzer $< $(FUZZ_OBJ))
$(B)/replay/%: $(B)/obj/tests/fuzz/%.o $(B)/obj/tests/fuzz/driver.o $(FUZZ_OBJ) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$< $(B)/obj/tests/fuzz/driver.o $(FUZZ_OBJ))
REPLAYS  := $(FUZZ_SRC:tests/fuzz/%.c=$(B)/replay/%)

$(B)/bin/rguard-wal-oracle: $(SIM_SRC:%.c=$(B)/obj/%.o) $(B)/libraftguard.a
	@mkdir -p $(@D)
	$(call link,$(SIM_SRC:%.c=$(B)/obj/%.o))

tests: tools $(TESTS) $(B)/bin/rguard-wal-oracle $(REPLAYS)

# Tests run on the testing variant, where detectors have off-switches. The ordinary tools are built as
# well: the integration tests use both.
test: all
	@$(MAKE) --no-print-directory -j$(JOBS) VARIANT=testing tests
	@sh tests/lib/run-tests.sh $(BUILD) testing '$(T)'

converge: all
	$(B)/bin/rguard-converge --fault oob_write,double_free,kill --role leader --runs 12 \
	    --election 150 --heartbeat 15 --baseline libraft --out $(BUILD)/converge

bench: $(B)/bin/rguard-bench
	$(B)/bin/rguard-bench --dir $(BUILD)/bench

compare: all
	$(B)/bin/rguard-wal-compare

asan-ci:
	@sh asan-ci/run.sh $(BUILD)

# What the log has promised is there or reported, whatever the disk does: a million single faults,
# 100,000 double faults, 10,000 traces with a power failure at every operation. ~3 minutes on two
# processors. SOAK='--seed N --single N ...' asks for something else.
soak:
	@$(MAKE) --no-print-directory -j$(JOBS) VARIANT=testing $(BUILD)/testing/bin/rguard-wal-oracle
	$(BUILD)/testing/bin/rguard-wal-oracle $(SOAK)

# libFuzzer on every target, SECONDS each, from the corpus of the tree; FUZZ=name picks one. What it
# finds new stays in build/fuzz/corpus, what crashes in build/fuzz/crash-*.
SECONDS  ?= 60
FUZZ     ?= $(FUZZ_SRC:tests/fuzz/fuzz_%.c=%)
fuzz:
	@command -v clang-14 >/dev/null || { echo "raftguard: make fuzz needs clang-14" >&2; exit 1; }
	@$(MAKE) --no-print-directory -j$(JOBS) CC=clang-14 VARIANT=fuzz $(FUZZ:%=$(BUILD)/fuzz/fuzz/fuzz_%)
	@for f in $(FUZZ); do \
	    mkdir -p $(BUILD)/fuzz/corpus/$$f; echo "fuzz: $$f"; \
	    $(BUILD)/fuzz/fuzz/fuzz_$$f -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=64 \
	        -max_len=65536 -print_final_stats=1 -verbosity=0 -artifact_prefix=$(BUILD)/fuzz/crash-$$f- \
	        $(BUILD)/fuzz/corpus/$$f tests/fuzz/corpus/$$f || exit 1; \
	done

lint:
	@sh tests/lib/lint.sh

SOURCES = $(shell git ls-files -co --exclude-standard '*.c' '*.h')
format:
	clang-format-14 -i $(SOURCES)

# Two variants, so that neither kind of build is ever taken for the other.
RELEASE  := $(if $(filter 1,$(FAILPOINTS)),release-failpoints,release)
R        := $(BUILD)/$(RELEASE)
INSTALLED := rguard-wal rguard-fp rguard-doctor
install:
	@rm -f $(R)/raftguard.pc
	@$(MAKE) --no-print-directory VARIANT=$(RELEASE) lib $(addprefix $(R)/bin/,$(INSTALLED))
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/raftguard $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(R)/libraftguard.a $(DESTDIR)$(LIBDIR)/
	install -m 755 $(R)/libraftguard.so.0 $(DESTDIR)$(LIBDIR)/
	ln -sf libraftguard.so.0 $(DESTDIR)$(LIBDIR)/libraftguard.so
	install -m 644 $(R)/raftguard.pc $(DESTDIR)$(LIBDIR)/pkgconfig/
	install -m 644 $(filter-out $(addprefix %/,$(PRIVATE)),$(HEADERS)) $(DESTDIR)$(PREFIX)/include/raftguard/
	install -m 755 $(addprefix $(R)/bin/,$(INSTALLED)) $(DESTDIR)$(PREFIX)/bin/

uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/libraftguard.a $(DESTDIR)$(LIBDIR)/libraftguard.so.0 $(DESTDIR)$(LIBDIR)/libraftguard.so
	rm -f $(DESTDIR)$(LIBDIR)/pkgconfig/raftguard.pc
	rm -rf $(DESTDIR)$(PREFIX)/include/raftguard
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(INSTALLED))

clean:
	rm -rf $(BUILD)

-include $(shell [ -d $(B)/obj ] && find $(B)/obj -name '*.d' 2>/dev/null)
