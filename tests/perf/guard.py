#!/usr/bin/env python3
"""Instructions of CREATE, TRANSITION, GET and LIST on a fixed input (rows in memory; then in files, but for CREATE, with an empty row cache and with a warm one), of an order's share of a flush and of a timer that fires, against the numbers in guard.json.

valgrind counts what tests/perf/guard.c does, and only inside the server's entry points, so neither load nor clock nor other threads are in the figures: two runs differ
by half a percent at most; so are the blocks that are asked of the heap, libraries' included. More than 5 % above the recorded number is a failure; a change that means it records again, in the same commit. Numbers
made with other versions of compiler or libraries don't compare: then it is skipped, and says so."""
import argparse, glob, json, os, re, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
NUMBERS = os.path.join(HERE, 'guard.json')
WORK = ('create', 'transition', 'get', 'list', 'flush', 'get_flushed', 'list_flushed', 'list_warm', 'transition_flushed', 'get_warm', 'transition_warm', 'fire')
BETWEEN = ('restart', 'warm')  # counted and forgotten
# The server's doors, and the thread that writes runs. None is called from within another one: callgrind toggles.
ENTRIES = ('h2_feed', 'h2_output', 'engine_tick', 'sim_world_run', 'run_thread')
ALLOCATORS = ('malloc', 'calloc')  # realloc of nothing calls malloc; of something it is no new block
MOST = 1.05
SLACK = {'instructions': 0, 'allocations': 0.5}
SECONDS = 280
PACKAGES = ('gcc', 'libc6', 'librocksdb7.8', 'libnghttp2-14', 'libprotobuf-c1', 'valgrind')


def versions():
    """What the numbers were made with: of Debian's packages, the upstream part of the version."""
    found = {'machine': os.uname().machine}
    for package in PACKAGES:
        got = subprocess.run(['dpkg-query', '-W', '-f', '${Version}', package], capture_output=True, text=True)
        if got.returncode == 0 and got.stdout:
            found[package] = re.sub(r'^\d+:', '', got.stdout).split('-')[0]
    return found


def allocations(text):
    """How often a block was asked of the heap, from callgrind's own format: a called function's name ("cfn=(7) malloc", later "cfn=(7)"), then how often."""
    names, callee, count = {}, None, 0
    for kind, number, name, calls in re.findall(r'^(?:(c?fn)=\((\d+)\)(?: (.+))?|calls=(\d+) .*)$', text, re.M):
        if name:
            names[number] = name
        if kind:
            callee = number if kind == 'cfn' else None
        elif names.get(callee) in ALLOCATORS:
            count += int(calls)
    return count


def measure(build):
    """{'instructions': {work: an operation}, 'allocations': the same}"""
    with tempfile.TemporaryDirectory(prefix='orderdb-guard-') as top:
        data = os.path.join(top, 'data')
        os.mkdir(data)
        dumps = ['--dump-before=guard_create'] + ['--dump-after=guard_' + w for w in WORK + BETWEEN]
        command = ['valgrind', '-q', '--tool=callgrind', '--callgrind-out-file=' + os.path.join(top, 'counts')]
        command += ['--toggle-collect=' + e for e in ENTRIES] + dumps + [os.path.join(build, 'tests/perf/guard'), data]
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        said = re.search(r'^operations (.*)$', run.stdout, re.M)
        if run.returncode != 0 or not said:
            sys.exit('not ok perf guard: it did not run\n' + run.stderr[-2000:])
        words = said.group(1).split()
        operations = {words[i]: int(words[i + 1]) for i in range(0, len(words), 2)}
        counts, allocated = {}, {}
        for name in glob.glob(os.path.join(top, 'counts*')):
            text = open(name).read()
            trigger = re.search(r'^desc: Trigger: --dump-after=guard_(\w+)$', text, re.M)
            if trigger:
                counts[trigger.group(1)] = int(re.search(r'^totals: (\d+)', text, re.M).group(1))
                allocated[trigger.group(1)] = allocations(text)
        missing = [w for w in WORK if not counts.get(w)]
        if missing:
            sys.exit('not ok perf guard: nothing was counted for ' + ', '.join(missing))
        return {'instructions': {w: round(counts[w] / operations[w]) for w in WORK}, 'allocations': {w: round(allocated[w] / operations[w], 1) for w in WORK}}


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument('build', metavar='BUILD')
    o.add_argument('--record', action='store_true', help='writes the numbers anew')
    o = o.parse_args()
    build, record = o.build, o.record
    if not shutil.which('valgrind'):
        return print('skip perf guard: valgrind is not installed')
    now = versions()
    kept = json.load(open(NUMBERS)) if os.path.exists(NUMBERS) else None
    if not record and (not kept or kept['made_with'] != now):
        return print('skip perf guard: the numbers were made with %s, here are %s; make perf-guard RECORD=1 makes new ones' % (kept and kept['made_with'], now))
    counted = measure(build)
    if record:
        with open(NUMBERS, 'w') as out:
            json.dump({'made_with': now, **counted}, out, indent=2)
            out.write('\n')
    failed = False
    for what, work in [(what, work) for what in counted for work in WORK]:
        found = counted[what][work]
        before = (kept or {}).get(what, {}).get(work, found)
        told = '%s: %g %s, recorded %g (%+.2f %%)' % (work, found, what, before, 100 * (found / before - 1) if before else 0)
        worse = found > before * MOST + SLACK[what] and not record
        better = ', better: record it' if (found + SLACK[what]) * MOST < before and not record else ''
        print(('not ok' if worse else 'ok') + ' perf guard ' + told + better)
        failed |= worse
    if failed:
        print('# a change that means it records the new numbers and says why: make perf-guard RECORD=1')
    sys.exit(failed)


if __name__ == '__main__':
    main()
