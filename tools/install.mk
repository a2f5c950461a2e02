# make install, make uninstall: PREFIX (/usr/local), DESTDIR, LIBDIR. Read by the Makefile.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

# Generated headers lie in a folder of ours: others may install some of the same names.
INSTALLED_PBC := $(addsuffix .pb-c.h,orderdb/v1/order orderdb/v1/admin orderdb/v1/stream google/protobuf/duration google/protobuf/field_mask google/protobuf/timestamp \
	google/protobuf/any google/rpc/status)
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
INSTALLED_FILES := $(COMPLETIONDIR)/orderctl $(BINDIR)/orderd $(BINDIR)/orderctl $(LIBDIR)/liborderdb.a $(LIBDIR)/pkgconfig/orderdb.pc $(INCLUDEDIR)/orderdb.h \
	$(addprefix $(INCLUDEDIR)/orderdb/,$(INSTALLED_PBC))

# One object that needs no other archive of ours, and shows the names of orderdb.h and of the messages alone: panic(), sha256() and their like
# must not meet an application's own.
L_INSTALLED := $(B)/install/liborderdb.a
$(L_INSTALLED): $(L_CLIENT) $(L_PROTO)
	@mkdir -p $(@D)
	@rm -f $@
	ld -r -o $(@D)/orderdb.o --whole-archive $(L_CLIENT) --no-whole-archive $(L_PROTO)
	objcopy --wildcard --keep-global-symbol='orderdb_*' --keep-global-symbol='google__*' $(@D)/orderdb.o
	ar rcs $@ $(@D)/orderdb.o

# What links with a static library has to name all that it needs. A version without a tag is a commit's name, which pkg-config cannot compare.
PC_VERSION = $(if $(findstring .,$(VERSION)),$(VERSION:v%=%),0.1.0+$(VERSION))
$(B)/install/orderdb.pc: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR:$(PREFIX)/%=$${prefix}/%)' 'includedir=$(INCLUDEDIR:$(PREFIX)/%=$${prefix}/%)' '' \
	  'Name: orderdb' 'Description: client library of OrderDB' 'Version: $(PC_VERSION)' 'Requires: libprotobuf-c libnghttp2 libssl libcrypto libxxhash' \
	  'Cflags: -I$${includedir} -I$${includedir}/orderdb' 'Libs: -L$${libdir} -lorderdb -pthread' >$@

.PHONY: install uninstall
install: all $(L_INSTALLED) $(B)/install/orderdb.pc ## server, tool, C library and headers under PREFIX (/usr/local); DESTDIR=... before it
	install -d $(sort $(dir $(addprefix $(DESTDIR),$(INSTALLED_FILES))))
	install -m 755 $(B)/orderd $(B)/orderctl $(DESTDIR)$(BINDIR)
	$(B)/orderctl completion bash >$(B)/install/completion
	install -m 644 $(B)/install/completion $(DESTDIR)$(COMPLETIONDIR)/orderctl
	install -m 644 $(L_INSTALLED) $(DESTDIR)$(LIBDIR)
	install -m 644 $(B)/install/orderdb.pc $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 client/orderdb.h $(DESTDIR)$(INCLUDEDIR)
	@$(foreach h,$(INSTALLED_PBC),install -m 644 $(GEN)/$(h) $(DESTDIR)$(INCLUDEDIR)/orderdb/$(h) &&) true

uninstall: ## remove what install put there (the same PREFIX and DESTDIR)
	rm -f $(addprefix $(DESTDIR),$(INSTALLED_FILES))
	@rmdir -p --ignore-fail-on-non-empty $(addprefix $(DESTDIR)$(INCLUDEDIR)/orderdb/,orderdb/v1 google/protobuf google/rpc) 2>/dev/null || true
