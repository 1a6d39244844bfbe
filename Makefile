# make run     a relayd to play with: one message all the way, then yours
# make cluster three gateways that share a PostgreSQL, to play with (Debian, with postgresql)
# make test    every test; scenarios whose peers are missing say so (as root: make peers)
# make lint    ruff
# make types   mypy
# make deb     build the Debian packages in a clean chroot (as root, with debootstrap; DEBIAN=13)
# make deb-test  try them in clean chroots (DEBIAN=13; PARTS="upgrade odd": packaging/try names them)
# make deb-suite every test on the packages of DEBIAN=13, in a clean chroot
# make peers   install the scenarios' peers (Debian, as root)
# make bench   relayd beside Postfix (Debian, as root); BENCH="--quick" for a first look
# make bench-report  measure all that docs/performance.md tells, and write it there (20 minutes)
# make profile the CPU of one message, station by station (needs py-spy)
# make faults  breaks relayd on purpose and counts the mail (as root, with gcc; under an hour)
# make fuzz    looks for input that breaks a parser or a property (FUZZ=name, or tests.unit...; TIME=seconds)
# make clean   remove what the above made

PYTHON ?= python3
VENV = .venv/bin/python
JOBS ?= 2
# the release of Debian to build for and to try on: 12 or 13
DEBIAN ?= 12
export DEBIAN
# clean roots of it, made once and kept
CHROOT ?= /var/tmp/relayd-chroot
DEB ?= build/deb$(if $(filter-out 12,$(DEBIAN)),-$(DEBIAN))

.PHONY: help run cluster test lint types deb deb-test deb-suite peers bench bench-report profile clean python faults fuzz
.SILENT:

help:
	sed -n 's/^# //p' Makefile

python:
	command -v $(PYTHON) >/dev/null || { \
	    echo "relayd: no $(PYTHON) here; Python 3.11 or later is needed (Debian: apt-get install python3)" >&2; \
	    exit 1; }

run: python
	$(PYTHON) .ci/environment.py
	exec $(VENV) -m relayd.demo $(if $(ONCE),--once)

cluster: python
	$(PYTHON) .ci/environment.py test
	exec $(VENV) -m tests.playground $(if $(ONCE),--once)

test: python
	$(PYTHON) .ci/environment.py test
	$(VENV) -m tests.runner --jobs $(JOBS) $(RUNNER) $(TESTS)

lint: python
	$(PYTHON) .ci/environment.py dev
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

types: python
	$(PYTHON) .ci/environment.py dev
	$(VENV) -m mypy

deb:
	packaging/deb $(CHROOT) $(DEB)
	packaging/try $(CHROOT) $(DEB) lintian

deb-test:
	packaging/try $(CHROOT) $(DEB) $(PARTS)

deb-suite:
	packaging/suite $(CHROOT) --quiet --jobs $(JOBS) $(TESTS)

peers:
	.ci/peers

bench: python
	$(PYTHON) .ci/environment.py test
	$(VENV) -m tests.bench.relay_bench $(BENCH)

bench-report: python
	$(PYTHON) .ci/environment.py test
	$(VENV) -m tests.bench.report $(REPORT)

profile: python
	$(PYTHON) .ci/environment.py test
	$(VENV) -m tests.bench.stations $(PROFILE)

faults: python
	$(PYTHON) .ci/environment.py test
	$(VENV) -m tests.faults $(FAULTS)

fuzz: python
	$(PYTHON) .ci/environment.py test
	$(VENV) -m tests.fuzz $(if $(TIME),--time $(TIME)) $(FUZZ)

clean:
	rm -rf .venv run build dist *.egg-info .mypy_cache .ruff_cache .hypothesis _trial_temp*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name dropin.cache -delete
