# OrderDB. The two commands that do everything: make run, make test. `make help` lists the others.

SHELL := /bin/bash
.DEFAULT_GOAL := all
SAN ?=
# MUTANT=name builds a server that is broken on purpose, for the tests that must catch it.
MUTANT ?=
PLAIN := build$(if $(SAN),-$(SAN))
B := $(PLAIN)$(if $(MUTANT),-mutant-$(MUTANT))

CC := gcc
PKGS := rocksdb liburing libnghttp2 libprotobuf-c jansson yaml-0.1 libxxhash
CFLAGS_BASE := -std=gnu17 -D_GNU_SOURCE -O2 -g -pipe -fno-omit-frame-pointer -fno-common -pthread \
	-Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wvla \
	-Wpointer-arith -Wundef -Wformat=2 -Wno-unused-parameter -Wno-missing-field-initializers
LDFLAGS_BASE := -pthread
ifeq ($(SAN),)
CFLAGS_BASE += -D_FORTIFY_SOURCE=2 -fstack-protector-strong
LDLIBS_ALLOC := -ljemalloc
else ifeq ($(SAN),asan)
CFLAGS_BASE += -fsanitize=address,undefined -fno-sanitize-recover=all -DORDERDB_ASAN=1
LDFLAGS_BASE += -fsanitize=address,undefined
else ifeq ($(SAN),tsan)
CFLAGS_BASE += -fsanitize=thread -DORDERDB_TSAN=1
LDFLAGS_BASE += -fsanitize=thread
else
$(error SAN is asan or tsan)
endif
ifneq ($(MUTANT),)
MUTANT_MACRO := ORDERDB_MUTANT_$(shell echo $(MUTANT) | tr a-z A-Z)
CFLAGS_BASE += -D$(MUTANT_MACRO)=1
endif
# A tree without git (an archive) is "unknown".
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# What calls make again uses every core, unless this make was told a number (or has none to give: -n, a jobserver above).
JOBS = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))

# ---- Rooms and borders. A room is compiled against a folder that holds only the rooms it may see.
ROOMS := proto engine server client tools bench tests
SEES_proto  := proto
SEES_engine := proto engine
SEES_server := proto engine server
SEES_client := proto client
SEES_tools  := proto client bench tools
SEES_bench  := proto client bench
SEES_tests  := proto engine server client bench tools tests
VIEW := $(B)/view
GEN := $(B)/gen
INC = -I$(VIEW)/$(1) -I$(GEN)

PROTOS := google/rpc/error_details.proto google/rpc/status.proto \
	orderdb/v1/order.proto orderdb/v1/stream.proto orderdb/v1/admin.proto
WKT := google/protobuf/duration.proto google/protobuf/timestamp.proto google/protobuf/field_mask.proto google/protobuf/any.proto
PBC_C := $(patsubst %.proto,$(GEN)/%.pb-c.c,$(PROTOS) $(WKT))
PBC_H := $(PBC_C:.c=.h)
PBC_O := $(PBC_C:.c=.o)
MACHINES := $(wildcard engine/machines/*.textproto)
MACHINES_INC := $(GEN)/engine/machines.inc

# What server reflection tells: our services, those of others that we answer, and the messages of errors' details.
REFLECTED := $(filter orderdb/% google/rpc/%,$(PROTOS)) grpc/health/v1/health.proto grpc/reflection/v1/reflection.proto grpc/reflection/v1alpha/reflection.proto
DESCRIPTORS_INC := $(GEN)/server/descriptors.inc

src = $(wildcard $(1)/*.c) $(wildcard $(1)/base/*.c)
obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
PROTO_O  := $(call obj,$(call src,proto)) $(PBC_O)
PROTO_FILES := $(addprefix proto/,$(PROTOS))
ENGINE_O := $(call obj,$(call src,engine))
SERVER_SRC := $(wildcard server/*.c)
SERVER_O := $(call obj,$(filter-out server/main.c,$(SERVER_SRC)))
CLIENT_O := $(call obj,$(call src,client))
GEN_O    := $(call obj,$(wildcard bench/gen/*.c))
TOOLS_O  := $(call obj,$(wildcard tools/*.c))
TESTLIB_O := $(call obj,$(wildcard tests/lib/*.c))

LIB := $(B)/lib
L_PROTO := $(LIB)/libproto.a
L_ENGINE := $(LIB)/libengine.a
L_SERVER := $(LIB)/libserver.a
L_CLIENT := $(LIB)/liborderdb.a
L_GEN := $(LIB)/libgen.a
L_TEST := $(LIB)/libtest.a

LDLIBS_PROTO := -lprotobuf-c -lssl -lcrypto -lxxhash -llz4
LDLIBS_ENGINE := -lraft -lrocksdb
LDLIBS_SERVER := -luring -lnghttp2
LDLIBS_CLIENT := -lnghttp2
LDLIBS_TOOLS := -ljansson -lyaml

UNIT := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
SIM := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/sim/sim_*.c))
FUZZ := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
GUARD := $(B)/tests/perf/guard
RIGS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/integration/*.c))
# Preloaded into servers by a test.
PRELOADS := $(patsubst tests/%.c,$(B)/tests/%.so,$(wildcard tests/integration/preload/*.c))
LOADS := $(patsubst %.c,$(B)/%,$(wildcard bench/*.c))
# Linked with libraries that setup.sh installs for `make bench` alone.
PEERS := $(patsubst %,$(B)/bench/peers/%,postgres mariadb redis etcd)
HEADERS := $(foreach r,$(ROOMS),$(wildcard $(r)/*.h $(r)/*/*.h))
HEADERS_OK := $(HEADERS:%=$(B)/hdr/%.ok)

.PHONY: all help deps run demo test check tests-built unit sim fuzz integration bench bench-cluster figures abuse overload crash zones timers scaling tls-cost perf-guard profile bench-stream tidy errors-doc hdr-check clean
all: $(B)/orderd $(B)/orderctl ## the server and its command-line tool (the default)

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{line = sprintf("  make %-14s", $$1); n = split($$2, words, " "); \
	  for (i = 1; i <= n; i++) { if (length(line " " words[i]) > 80) { print line; line = sprintf("%21s", "") } line = line " " words[i] } print line}' Makefile tools/install.mk
	@echo "  SAN=asan|tsan, before any of them: a build of its own with that sanitizer, in"
	@echo "                      build-asan or build-tsan"
	@echo "  FUZZ_SECONDS=N with test or fuzz: so long for each fuzz target (5)"

deps: ## install what is missing (Debian 12; sudo only where not root)
	@tools/setup.sh

run: deps ## set up, build, start a server in the foreground (data in ./data); ARGS='--listen :7500' for its flags
	@$(MAKE) --no-print-directory $(JOBS) all
	@tools/run.sh $(B) $(ARGS)

demo: deps ## a short tour on a temporary server
	@$(MAKE) --no-print-directory $(JOBS) all
	@tools/demo.sh $(B)

test: deps ## set up, build, run every test; SAN=asan|tsan for a sanitizer build
	@tools/setup.sh clients || echo "make test: goes on without the stock clients that could not be installed" >&2
	@$(MAKE) --no-print-directory $(JOBS) all tests-built
	@tests/run.sh $(B)

tests-built: $(UNIT) $(SIM) $(FUZZ) $(GUARD) $(RIGS) $(PRELOADS) $(LOADS) $(HEADERS_OK) ## build every test program

unit: $(UNIT) ## unit tests alone
	@tests/run.sh $(B) unit
sim: $(SIM) ## simulator alone
	@tests/run.sh $(B) sim
fuzz: $(FUZZ) ## short run of every fuzz target
	@tests/run.sh $(B) fuzz
integration: all $(RIGS) $(PRELOADS) $(LOADS) ## real processes alone
	@tests/run.sh $(B) integration
check: all hdr-check $(UNIT) ## what each commit must pass: builds, tidy, unit tests
	@tests/run.sh $(B) tidy unit

# BENCH=quick: a look in two or three minutes, nothing written. BENCH_ARGS='--only create --peers pg,redis': parts (bench/bench.py says which).
bench: deps ## OrderDB beside PostgreSQL, MariaDB and Redis, on a quiet machine: installs them, writes bench/RESULTS.md (under 30 minutes; BENCH=quick: under 3)
	@tools/setup.sh bench
	@$(MAKE) --no-print-directory $(JOBS) all $(PEERS)
	@bench/bench.py $(B) $(if $(filter quick,$(BENCH)),--quick) $(BENCH_ARGS)

bench-cluster: deps ## three nodes on this machine beside PostgreSQL with two standbys and three of etcd; pauses of a kill and of a drain; a follower 1 GiB behind (about 6 minutes, on a quiet machine; BENCH_ARGS='--only=failover')
	@tools/setup.sh bench
	@$(MAKE) --no-print-directory $(JOBS) all $(B)/bench/peers/postgres $(B)/bench/peers/etcd
	@bench/cluster.py $(B) --write $(BENCH_ARGS)

figures: all $(LOADS) ## 5,000,000 orders: throughput by tenths, disk, memory, restart times, one core and two (about 6 minutes; ORDERS=20000000: about 20)
	@bench/figures.py $(B) --orders=$(or $(ORDERS),5000000)

abuse: all $(LOADS) ## fifty hostile connections beside honest load, 10,000 idle connections (about 4 minutes, on a quiet machine)
	@tests/abuse/run.py $(B)
	@tests/abuse/idle.py $(B)

overload: all $(LOADS) ## 2, 5 and 10 times the peak for a minute each: what is still served, and how fast (about 8 minutes)
	@tests/abuse/overload.py --build $(B)

crash: all $(RIGS) $(LOADS) ## kill -9 and power cuts under load, 200 rounds of each (about 10 minutes; ROUNDS=n)
	@tests/integration/test_crash.py $(B) --kill=$(or $(ROUNDS),200) --power=$(or $(ROUNDS),200)

zones: all $(RIGS) $(PRELOADS) ## three nodes in namespaces: kills, cut zones, one-way links, stopped leaders, power cuts, full and wiped disks, clocks that leap; histories checked (root; ROUNDS=n of each, 20: about 15 minutes)
	@tests/integration/test_zones.py $(B) --rounds=$(or $(ROUNDS),20)

timers: all $(LOADS) $(B)/tests/sim/sim_timers ## 100,000 payments against their expiry, a million timers due at once, ten million pending (about 8 minutes)
	@$(B)/tests/sim/sim_timers --races 100000
	@bench/timers.py $(B)

scaling: all ## what a second core brings: the server's CPU an operation with one core and with two, by turns (about 90 s, on a quiet machine)
	@bench/scaling.py $(B)

tls-cost: all ## what TLS costs a CREATE: rate and CPU beside cleartext, by turns (under a minute, on a quiet machine)
	@bench/tls.py $(B)

perf-guard: $(GUARD) ## instructions of CREATE, TRANSITION, GET, LIST against tests/perf/guard.json, within 5 % (valgrind, half a minute); RECORD=1 writes them anew
	@tests/perf/guard.py $(B) $(if $(RECORD),--record)

profile: all $(LOADS) ## where the microseconds go: CREATE, TRANSITION, GET (needs perf)
	@bench/profile.py $(B)

bench-stream: all $(LOADS) ## the change stream: catch-up beside Redis and NATS, latency, fan-out, what events cost (redis-server and nats-server, where installed; under 6 minutes)
	@bench/stream.py $(B)

.PHONY: cluster cluster-kill cluster-stop
cluster: deps ## three nodes in three zones on loopback (data in ./data/cluster), and how to break them; again: starts those that do not run; TLS=1: TLS between them
	@$(MAKE) --no-print-directory $(JOBS) all
	@tools/cluster.sh $(B) start
cluster-kill: ## kill -9 of node N
	@tools/cluster.sh $(B) kill $(N)
cluster-stop: ## drains the three nodes
	@tools/cluster.sh $(B) stop

tidy: all hdr-check ## borders, one includer per foreign header, sizes, nondeterminism
	@tests/tidy.sh $(B)

# ---- what a file's time does not tell
# $(call remember,name,text): a file with that text, touched only when the text changes: a member that left an archive, a new version.
define remember
$(B)/is/$(1): FORCE
	@mkdir -p $$(@D); echo '$(2)' | cmp -s - $$@ || echo '$(2)' >$$@
endef
.PHONY: FORCE
$(eval $(call remember,version,$(VERSION)))
$(eval $(call remember,machines,$(MACHINES)))
$(foreach l,PROTO ENGINE SERVER CLIENT GEN TOOLS TESTLIB,$(eval $(call remember,$(l),$($(l)_O))))

# ---- generated
# The links are relative: a tree may be moved or copied with its builds.
$(VIEW)/.made: Makefile
	@rm -rf $(VIEW)
	@$(foreach r,$(ROOMS),mkdir -p $(VIEW)/$(r); for s in $(SEES_$(r)); do ln -s ../../../$$s $(VIEW)/$(r)/$$s; done;) true
	@touch $@

# One changed .proto makes all again: they import one another.
$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h: proto/%.proto $(PROTO_FILES) Makefile | $(VIEW)/.made
	@mkdir -p $(GEN)
	protoc -Iproto --c_out=$(GEN) $<
$(GEN)/google/protobuf/%.pb-c.c $(GEN)/google/protobuf/%.pb-c.h: Makefile | $(VIEW)/.made
	@mkdir -p $(GEN)
	protoc -I/usr/include --c_out=$(GEN) google/protobuf/$*.proto
$(PBC_O): %.o: %.c $(PBC_H)
	$(CC) $(filter-out -Wshadow -Wmissing-prototypes -Wundef,$(CFLAGS_BASE)) -w -I$(GEN) -c $< -o $@

# Built-in status machines: text in the tree, wire bytes in the binary.
$(MACHINES_INC): $(MACHINES) $(B)/is/machines $(PROTO_FILES) Makefile | $(VIEW)/.made
	@mkdir -p $(dir $@)
	@: > $@.tmp; for f in $(MACHINES); do \
	  protoc -Iproto --encode=orderdb.v1.StatusMachine orderdb/v1/admin.proto < $$f > $@.bin && \
	  { echo "{ (const uint8_t[]){"; od -An -v -tx1 $@.bin | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'; echo "}, $$(stat -c %s $@.bin) },"; } >> $@.tmp || exit 1; done
	@mv $@.tmp $@

$(DESCRIPTORS_INC): $(addprefix proto/,$(REFLECTED)) Makefile | $(VIEW)/.made
	@mkdir -p $(dir $@)
	protoc -Iproto --include_imports --descriptor_set_out=$@.bin $(REFLECTED)
	@od -An -v -tx1 $@.bin | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g' > $@
$(B)/obj/server/serve_reflection.o: $(DESCRIPTORS_INC)

# ---- objects: $(call room_rule,room)
# Generated headers only have to be there first; who includes them is known from the last compilation (-MMD).
define room_rule
$(B)/obj/$(1)/%.o: $(1)/%.c Makefile | $(VIEW)/.made $(PBC_H) $(MACHINES_INC)
	@mkdir -p $$(dir $$@)
	$$(CC) $$(CFLAGS_BASE) $$(CFLAGS_VERSION) $(call INC,$(1)) -MMD -MP -c $$< -o $$@
# A header that compiles alone includes all that it uses, and no room that it may not see.
$(B)/hdr/$(1)/%.h.ok: $(1)/%.h Makefile | $(VIEW)/.made $(PBC_H) $(MACHINES_INC)
	@mkdir -p $$(dir $$@)
	@$$(CC) $$(CFLAGS_BASE) -fsyntax-only $(call INC,$(1)) -MMD -MP -MF $$(@:.ok=.d) -MT $$@ -x c -include $$< /dev/null && touch $$@
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))
VERSION_O := $(call obj,$(shell grep -lw ORDERDB_VERSION $(foreach r,$(ROOMS),$(wildcard $(r)/*.c))))
$(VERSION_O): CFLAGS_VERSION := -DORDERDB_VERSION='"$(VERSION)"'
$(VERSION_O): $(B)/is/version

define archive
	@mkdir -p $(dir $@)
	@rm -f $@
	ar rcs $@ $(filter %.o,$^)
endef
$(L_PROTO): $(PROTO_O) $(B)/is/PROTO
	$(archive)
$(L_ENGINE): $(ENGINE_O) $(B)/is/ENGINE
	$(archive)
$(L_SERVER): $(SERVER_O) $(B)/is/SERVER
	$(archive)
$(L_CLIENT): $(CLIENT_O) $(B)/is/CLIENT
	$(archive)
$(L_GEN): $(GEN_O) $(B)/is/GEN
	$(archive)
$(L_TEST): $(TESTLIB_O) $(B)/is/TESTLIB
	$(archive)

# ---- programs
LINKED = $(filter %.o %.a,$^)
ifeq ($(MUTANT),)
$(B)/orderd: $(B)/obj/server/main.o $(L_SERVER) $(L_ENGINE) $(L_PROTO)
	$(CC) $(LDFLAGS_BASE) -o $@ $(LINKED) $(LDLIBS_SERVER) $(LDLIBS_ENGINE) $(LDLIBS_PROTO) $(LDLIBS_ALLOC) -lm
else
# Of a mutant only the files that know it are compiled: they take the place of the server's own, which come from its build.
MUTATED := $(call obj,$(shell grep -lw $(MUTANT_MACRO) engine/*.c server/*.c))
UNCHANGED := $(addprefix $(PLAIN)/,obj/server/main.o lib/libserver.a lib/libengine.a lib/libproto.a)
$(if $(MUTATED),,$(error no file knows a mutant $(MUTANT)))
$(B)/orderd: $(MUTATED) FORCE
	@$(MAKE) --no-print-directory MUTANT= $(UNCHANGED)
	$(CC) $(LDFLAGS_BASE) -o $@ $(firstword $(UNCHANGED)) $(MUTATED) $(wordlist 2,4,$(UNCHANGED)) $(LDLIBS_SERVER) $(LDLIBS_ENGINE) $(LDLIBS_PROTO) $(LDLIBS_ALLOC) -lm
endif
$(B)/orderctl: $(TOOLS_O) $(L_GEN) $(L_CLIENT) $(L_PROTO) $(B)/is/TOOLS
	$(CC) $(LDFLAGS_BASE) -o $@ $(LINKED) $(LDLIBS_CLIENT) $(LDLIBS_TOOLS) $(LDLIBS_PROTO) $(LDLIBS_ALLOC) -lm
$(B)/bench/%: $(B)/obj/bench/%.o $(L_CLIENT) $(L_PROTO)
	@mkdir -p $(dir $@)
	$(CC) $(LDFLAGS_BASE) -o $@ $(LINKED) $(LDLIBS_CLIENT) $(LDLIBS_PROTO) $(LDLIBS_ALLOC) -lm
# Their foreign headers are loose with undefined macros; flags are asked for when they are needed.
$(B)/obj/bench/peers/%.o: CFLAGS_BASE := $(filter-out -Wundef -Wstrict-prototypes,$(CFLAGS_BASE))
$(B)/obj/bench/peers/postgres.o: CFLAGS_BASE += $(shell pkg-config --cflags libpq 2>/dev/null)
$(B)/obj/bench/peers/mariadb.o: CFLAGS_BASE += $(shell pkg-config --cflags libmariadb 2>/dev/null)
$(B)/obj/bench/peers/redis.o: CFLAGS_BASE += $(shell pkg-config --cflags hiredis 2>/dev/null)
$(B)/bench/peers/postgres: LDLIBS_PEER = $(shell pkg-config --libs libpq)
$(B)/bench/peers/mariadb: LDLIBS_PEER = $(shell pkg-config --libs libmariadb)
$(B)/bench/peers/redis: LDLIBS_PEER = $(shell pkg-config --libs hiredis)
$(B)/bench/peers/etcd: LDLIBS_PEER = $(LDLIBS_CLIENT)
$(PEERS): $(B)/bench/peers/%: $(B)/obj/bench/peers/%.o $(B)/obj/bench/peers/peer.o $(L_GEN) $(L_CLIENT) $(L_PROTO)
	@mkdir -p $(dir $@)
	$(CC) $(LDFLAGS_BASE) -o $@ $(LINKED) $(LDLIBS_PEER) $(LDLIBS_PROTO) $(LDLIBS_ALLOC) -lm
TOOLS_LIB_O := $(filter-out %/orderctl.o,$(TOOLS_O))
TEST_LINK = $(L_TEST) $(L_SERVER) $(L_ENGINE) $(TOOLS_LIB_O) $(L_GEN) $(L_CLIENT) $(L_PROTO)
TEST_LIBS = -lcmocka $(LDLIBS_SERVER) $(LDLIBS_ENGINE) $(LDLIBS_TOOLS) $(LDLIBS_PROTO) -lm
$(UNIT) $(SIM) $(FUZZ) $(GUARD): $(B)/tests/%: $(B)/obj/tests/%.o $(TEST_LINK) $(B)/is/TOOLS
	@mkdir -p $(dir $@)
	$(CC) $(LDFLAGS_BASE) -o $@ $< $(TEST_LINK) $(TEST_LIBS)
$(UNIT): LDFLAGS_BASE += -Wl,-u,stuck_watch
# Its mutants take the place of two functions of the engine.
$(B)/tests/sim/sim_feed: LDFLAGS_BASE += -Wl,--wrap=feed_add,--wrap=places_encode
# They take the engine's door, and the connections to other nodes, into their own hands.
$(B)/tests/unit/test_forward: LDFLAGS_BASE += -Wl,--wrap=engine_lead_of,--wrap=engine_voters_of,--wrap=engine_submit,--wrap=peers_say,--wrap=peers_up
$(B)/tests/sim/sim_cluster: LDFLAGS_BASE += -Wl,--wrap=group_applicable,--wrap=wal_append,--wrap=partition_return_due,--wrap=partition_read_waits,--wrap=group_commit_index,--wrap=consumer_init,--wrap=dispatcher_begin,--wrap=dispatcher_loaded,--wrap=consumer_position_now,--wrap=dispatcher_writes,--wrap=window_key,--wrap=partition_group_close,--wrap=consumer_settle,--wrap=panic_now,--wrap=apply_ack_settle
$(B)/tests/sim/sim_members: LDFLAGS_BASE += -Wl,--wrap=group_members_applied
FUSE_LIBS := $(shell pkg-config --libs fuse3 2>/dev/null)
CFLAGS_FUSE := $(shell pkg-config --cflags fuse3 2>/dev/null)
$(RIGS): $(B)/tests/%: tests/%.c Makefile
	@mkdir -p $(dir $@)
	$(CC) $(filter-out -Wundef,$(CFLAGS_BASE)) $(CFLAGS_FUSE) -MMD -MP -MF $@.d -MT $@ -o $@ $< $(FUSE_LIBS)

$(PRELOADS): $(B)/tests/%.so: tests/%.c Makefile
	@mkdir -p $(dir $@)
	$(CC) $(filter-out -fsanitize=%,$(CFLAGS_BASE)) -fPIC -shared -MMD -MP -MF $@.d -MT $@ -o $@ $<

errors-doc: ## docs/ERRORS.md from the tables of proto/
	@tools/errors_doc.py

hdr-check: $(HEADERS_OK) ## every header compiles alone

include tools/install.mk

clean: ## remove build products (not ./data)
	rm -rf build build-*/

-include $(shell find $(B)/obj $(B)/hdr $(B)/tests -name '*.d' 2>/dev/null)
.SECONDARY:
